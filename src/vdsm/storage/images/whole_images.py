"""Whole images, as the pool's SPM: removing them and collapsing chains into new ones (facts: storage §9.3, §9.6)."""

import logging

from msgspec import Struct
from msgspec.structs import replace

from vdsm.storage import checks, locks, model
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import CannotDeleteSharedVolume, DiscardIsNotSupported, ImageIsNotLegalChain
from vdsm.storage.errors_jobs import ImageDoesNotExistInSD, OverwriteImageError
from vdsm.storage.images.chain import Images
from vdsm.storage.images.formatting import format_data
from vdsm.storage.images.jobs import DataJobs
from vdsm.storage.images.operation import Operations
from vdsm.storage.images.volume import Volumes
from vdsm.storage.locks import Locks
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import UNWATCHED, QemuImg, Rollbacks, Steps, Watch

log = logging.getLogger(__name__)


class WholeImages(Struct, frozen=True):
    """Removes images, and makes them of others. What a kill leaves of one that was set aside, the next SPM removes."""

    domains: Domains
    pools: Pools
    operations: Operations
    volumes: Volumes
    jobs: DataJobs
    locks: Locks
    qemu_img: QemuImg
    step: Steps

    def set_aside(self, pool_id: str, domain_id: str, image_id: str) -> str | None:
        """Take an image out of everybody's sight, on disk when this returns; `finish` does the rest.

        Raises ImageDoesNotExistInSD (268), CannotDeleteSharedVolume (223) for a template that other images use. On a
        Backup domain such a template stays until `finish`, and its volume is returned.
        """
        checks.check_real_ids(storagepoolID=pool_id, storagedomainID=domain_id, imageID=image_id)
        with self.locks.hold(locks.domain(domain_id, shared=True), locks.image(domain_id, image_id)):
            domain = require_writer(self.pools, pool_id, self.domains.get_with_images(domain_id))
            if not domain.backend.volumes.has_image(image_id):
                raise ImageDoesNotExistInSD(image_id, domain_id)
            template_id = find_used_template(domain.images, image_id)
            if template_id is None:
                self.step("set aside")
                domain.backend.volumes.set_aside(image_id)
                self.step("purge")
            elif (
                domain.metadata.domain_class is not model.DomainClass.BACKUP
                or len(domain.images.list_own(image_id)) > 1
            ):
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
        with self.locks.hold(whole, locks.image(domain_id, image_id)):
            domain = require_writer(self.pools, pool_id, self.domains.get_with_images(domain_id))
            if template_id is None:
                domain.backend.volumes.purge(image_id)
            else:
                self._replace_by_fake(domain, image_id, template_id)
            self.step("done")
            log.info("Removed image %s on %s", image_id, domain_id)
            if discard and not domain.backend.traits.supports_discard:
                raise DiscardIsNotSupported(domain_id)

    def copy(
        self,
        source: model.VolumeRef,
        request: model.VolumeRequest,
        role: model.VolumeRole,
        force: bool,
        rollbacks: Rollbacks | None = None,
        watch: Watch = UNWATCHED,
    ) -> None:
        """Make a volume of all that another one reads as: a template (SHARED) or a plain copy (LEAF), in its own image.

        The request's capacity and disk type are the source's. An image in its place is removed first when it is
        illegal or fake, or with force; else OverwriteImageError (265). The new volume is illegal until it is whole; the
        entries of a failed or killed copy remove it. Raises 262 for a chain that is not all legal, 1000, 223.
        """
        checks.check_copy(source, request, role)
        target = model.VolumeRef(request.domain_id, request.image_id, request.volume_id)
        with self.locks.hold(locks.new_image(target.domain_id, target.image_id)):
            top = self._read_source(source)
            found = replace(request, capacity_bytes=top.capacity_bytes, disk_type=top.disk_type, legal=False)
            request = checks.check_volume_request(found)
            own = (locks.domain(target.domain_id, shared=True), locks.image(target.domain_id, target.image_id))
            with self.locks.hold(*own):
                domain = self.make_room(request, force)
            self.volumes.create(request, rollbacks)
            self.jobs.fill_volume(source, target, role, watch=watch)
            ids = (target.image_id, target.volume_id)
            if domain.metadata.domain_class is model.DomainClass.BACKUP and domain.images.list_users(*ids):  # of a fake
                with self.locks.hold(locks.domain(target.domain_id)):
                    link_users(domain.images, *ids, self.step)
        log.info("Made %s of %s", target, source)

    def _read_source(self, source: model.VolumeRef) -> model.VolumeMetadata:
        ids = (source.domain_id, source.image_id)
        with self.locks.hold(locks.domain(source.domain_id, shared=True), locks.image(*ids, shared=True)):
            domain = self.domains.get_with_images(source.domain_id)
            for volume_id, record in domain.images.get_chain(source.image_id, source.volume_id):
                if record.legality is not model.Legality.LEGAL:
                    raise ImageIsNotLegalChain(source.image_id, f"{volume_id} is {record.legality}")
            return self.operations.open_chain(domain, source.image_id, source.volume_id)[0][1]

    def make_room(self, request: model.VolumeRequest, force: bool) -> Domain:
        """Remove what is in the place of a new image that the caller has locked; 265 and 223 as `copy` tells."""
        image_id = request.image_id
        domain = require_writer(self.pools, request.pool_id, self.domains.get_with_images(request.domain_id))
        images, volumes = domain.images, domain.backend.volumes
        if not volumes.list_records(image_id):
            return domain
        own = [record for record in images.read_all(image_id).values() if record.image_id == image_id]
        if not force and all(record.legality is model.Legality.LEGAL for record in own):
            raise OverwriteImageError(image_id)
        template_id = find_used_template(images, image_id)
        if template_id is not None and images.read(image_id, template_id).legality is not model.Legality.FAKE:
            raise CannotDeleteSharedVolume(template_id)
        self.step("set aside")
        volumes.set_aside(image_id)
        self.step("purge")
        volumes.purge(image_id)
        return domain

    def _replace_by_fake(self, domain: Domain, image_id: str, volume_id: str) -> None:
        # The record goes first: what is fake is not read any more, whatever its data is.
        images, data, ids = domain.images, domain.backend.data, (image_id, volume_id)
        fake = replace(
            images.read(*ids),
            format=model.VolumeFormat.COW,
            allocation=model.Allocation.SPARSE,
            legality=model.Legality.FAKE,
        )
        self.step("make fake")
        images.change(*ids, fake)
        self.step("remove data")
        data.remove_data(*ids)
        self.step("create data")
        data.create_data(*ids)
        format_data(domain, self.qemu_img, *ids, fake, None)
        data.settle_data(*ids)
        data.open_access(*ids)
        link_users(images, image_id, volume_id, self.step)


def find_used_template(images: Images, image_id: str) -> str | None:
    """The image's own volume that other images are based on."""
    for volume_id, record in images.read_all(image_id).items():
        is_template = record.role is model.VolumeRole.SHARED and record.image_id == image_id
        if is_template and images.list_users(image_id, volume_id):
            return volume_id
    return None


def link_users(images: Images, image_id: str, volume_id: str, step: Steps) -> None:
    """Let the images that are based on a template have what is now in its place (facts: storage §3.5)."""
    for user_id in images.list_users(image_id, volume_id):
        step("link user")
        images.backend.volumes.unshare(user_id, volume_id)
        images.backend.volumes.share(volume_id, image_id, user_id)
