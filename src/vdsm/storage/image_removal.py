"""Removing whole images (facts: storage §9.3): out of sight at once, space later; single volumes are in `removal`."""

import logging
from dataclasses import replace

from vdsm.storage import checks, locks
from vdsm.storage.chain import Images
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import CannotDeleteSharedVolume, DiscardIsNotSupported
from vdsm.storage.errors_jobs import ImageDoesNotExistInSD
from vdsm.storage.formatting import format_data
from vdsm.storage.model import Allocation, DomainClass, Legality, VolumeFormat, VolumeRole
from vdsm.storage.pool import Pools, require_writer
from vdsm.storage.ports import QemuImg, Steps

log = logging.getLogger(__name__)


class ImageRemovals:
    """Removes images as the pool's SPM. What a kill leaves of an image that was set aside, the next SPM removes."""

    def __init__(
        self,
        domains: Domains,
        pools: Pools,
        resource_locks: locks.Locks,
        short_locks: locks.Locks,
        qemu_img: QemuImg,
        steps: Steps,
    ) -> None:
        self._domains = domains
        self._pools = pools
        self._locks = resource_locks
        self._short_locks = short_locks
        self._qemu_img = qemu_img
        self._step = steps

    def set_aside(self, pool_id: str, domain_id: str, image_id: str) -> str | None:
        """Take an image out of everybody's sight, on disk when this returns; `finish` does the rest.

        Raises ImageDoesNotExistInSD (268), CannotDeleteSharedVolume (223) for a template that other images use. On a
        Backup domain such a template stays until `finish`, and its volume is returned.
        """
        checks.check_real_ids(storagepoolID=pool_id, storagedomainID=domain_id, imageID=image_id)
        with self._short_locks.hold(locks.domain(domain_id, shared=True), locks.image(domain_id, image_id)):
            domain = require_writer(self._pools, pool_id, self._domains.get_with_images(domain_id))
            if not domain.backend.volumes.has_image(image_id):
                raise ImageDoesNotExistInSD(image_id, domain_id)
            template_id = find_used_template(domain.images, image_id)
            if template_id is None:
                self._step("set aside")
                domain.backend.volumes.set_aside(image_id)
                self._step("purge")
            elif domain.metadata.domain_class is not DomainClass.BACKUP or len(domain.images.list_own(image_id)) > 1:
                raise CannotDeleteSharedVolume(template_id)
            return template_id

    def finish(
        self, pool_id: str, domain_id: str, image_id: str, template_id: str | None, *, discard: bool = False
    ) -> None:
        """Free the space of an image that was set aside, or of a template, which leaves a fake in its place.

        Doing it again is harmless. DiscardIsNotSupported (349) is raised on files when all is done: the image cannot
        come back (facts: storage §9.3).
        """
        # A template's users must not change meanwhile.
        whole = locks.domain(domain_id, shared=template_id is None)
        with self._locks.hold(whole, locks.image(domain_id, image_id)):
            domain = require_writer(self._pools, pool_id, self._domains.get_with_images(domain_id))
            if template_id is None:
                domain.backend.volumes.purge(image_id)
            else:
                self._replace_by_fake(domain, image_id, template_id)
            self._step("done")
            log.info("Removed image %s on %s", image_id, domain_id)
            if discard and not domain.backend.traits.supports_discard:
                raise DiscardIsNotSupported(domain_id)

    def _replace_by_fake(self, domain: Domain, image_id: str, volume_id: str) -> None:
        # The record goes first: what is fake is not read any more, whatever its data is.
        images, data, ids = domain.images, domain.backend.data, (image_id, volume_id)
        fake = replace(images.read(*ids), format=VolumeFormat.COW, allocation=Allocation.SPARSE, legality=Legality.FAKE)
        self._step("make fake")
        images.change(*ids, fake)
        self._step("remove data")
        data.remove_data(*ids)
        self._step("create data")
        data.create_data(*ids)
        format_data(domain, self._qemu_img, *ids, fake, None)
        data.settle_data(*ids)
        data.open_access(*ids)
        link_users(images, image_id, volume_id, self._step)


def find_used_template(images: Images, image_id: str) -> str | None:
    """The image's own volume that other images are based on."""
    for volume_id, record in images.read_all(image_id).items():
        is_template = record.role is VolumeRole.SHARED and record.image_id == image_id
        if is_template and images.list_users(image_id, volume_id):
            return volume_id
    return None


def link_users(images: Images, image_id: str, volume_id: str, step: Steps) -> None:
    """Let the images that are based on a template have what is now in its place (facts: storage §3.5)."""
    for user_id in images.list_users(image_id, volume_id):
        step("link user")
        images.backend.volumes.unshare(user_id, volume_id)
        images.backend.volumes.share(volume_id, image_id, user_id)
