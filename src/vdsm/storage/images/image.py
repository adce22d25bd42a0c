"""Making images ready for use and putting them away (facts: storage §9.4); what a VM does with them is left to virt."""

import logging
import uuid
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.ids import BLANK_UUID
from vdsm.core.undo import Undo
from vdsm.storage import checks, durable, locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import ImagePathError, StoragePoolUnknown, VolumeAccessError, io_failing_as, qemu_failing_as
from vdsm.storage.layout import Layout
from vdsm.storage.model import PreparedImage, VolumeLocation, VolumeMetadata, VolumeRole
from vdsm.storage.pools.pool import Pools
from vdsm.storage.ports import QemuImg

log = logging.getLogger(__name__)


class ImageUse(Struct, frozen=True):
    """Images of all domains, as VMs on this host use them."""

    _domains: Domains
    _pools: Pools
    _locks: locks.Locks
    _qemu_img: QemuImg
    _layout: Layout

    def list_volumes(self, domain_id: str, image_id: str) -> list[str]:
        """The image's own volumes; ImagePathError (254) when there is no such image."""
        checks.check_ids(imageID=image_id)
        domain = self._domains.get_with_images(domain_id)
        if not domain.backend.volumes.has_image(image_id):
            raise ImagePathError(str(domain.backend.volumes.get_image_path(image_id)))
        return domain.images.list_own(image_id)

    def prepare(
        self, pool_id: str, domain_id: str, image_id: str, volume_id: str, *, allow_illegal: bool = False
    ) -> PreparedImage:
        """Make an image ready and tell where it is; repeating it is harmless, a failure leaves nothing behind.

        A blank pool is for images outside of pools: the path is then the run-time link's. A stored capacity that is
        smaller than the image's is repaired. Raises 201, 227, 262, 309, and what reading the domain raises.
        """
        checks.check_ids(imageID=image_id, volumeID=volume_id)
        self.check_pool(pool_id)
        with self._locks.hold(locks.domain(domain_id, shared=True), *_list_resources(domain_id, image_id)):
            domain, network = self._domains.get_with_images(domain_id), None
            if domain.backend.find_network is not None:
                network = domain.backend.find_network()
                network = replace(network, name=f"{network.name}/{domain_id}/images/{image_id}/{volume_id}")
            with Undo() as undo:
                chain = self.make_ready(undo, domain, image_id, volume_id, allow_illegal=allow_illegal)
                undo.forget()
        link = self._layout.get_run_link(domain_id, image_id)
        backend = domain.backend
        locations = (
            VolumeLocation(domain_id, *ids, backend.data.get_path(*ids), backend.volumes.find_lease(*ids))
            for ids in ((image_id, chained_id) for chained_id, _ in chain)
        )
        path = link / volume_id if pool_id == BLANK_UUID else backend.data.get_path(image_id, volume_id)
        return PreparedImage(path, "file", chain[0][1].format, tuple(locations), network)

    def check_pool(self, pool_id: str) -> None:
        """Raises StoragePoolUnknown (309) for one that is neither connected nor blank."""
        checks.check_ids(storagepoolID=pool_id)
        if pool_id != BLANK_UUID and pool_id not in self._pools.list_connected():
            raise StoragePoolUnknown(pool_id)

    def make_ready(
        self, undo: Undo, domain: Domain, image_id: str, volume_id: str, *, allow_illegal: bool
    ) -> list[tuple[str, VolumeMetadata]]:
        """`prepare` for who has the domain, the image and its run-time link locked; gives the chain."""
        chain = domain.images.get_usable_chain(image_id, volume_id, allow_illegal=allow_illegal)
        link = self._layout.get_run_link(domain.domain_id, image_id)
        if self._link(link, domain.backend.volumes.get_image_path(image_id)):
            undo.push(self._unlink, link)
        for chained_id, record in chain:
            domain.backend.data.open_access(image_id, chained_id)
            self._repair_capacity(domain, image_id, chained_id, record)
        return chain

    def teardown(self, domain_id: str, image_id: str) -> None:
        """Remove the run-time link; nothing when the image is not prepared, also when its domain is gone."""
        checks.check_ids(storagedomainID=domain_id, imageID=image_id)
        with self._locks.hold(*_list_resources(domain_id, image_id)):
            self._unlink(self._layout.get_run_link(domain_id, image_id))

    def _repair_capacity(self, domain: Domain, image_id: str, volume_id: str, record: VolumeMetadata) -> None:
        if record.role is VolumeRole.SHARED:
            return
        path = domain.backend.data.get_path(image_id, volume_id)
        with qemu_failing_as(partial(VolumeAccessError, volume_id)):
            real_bytes = self._qemu_img.get_virtual_size(path, record.format.qemu)
        if record.capacity_bytes < real_bytes:
            log.warning("Volume %s has %d bytes, not %d", volume_id, real_bytes, record.capacity_bytes)
            domain.images.change(image_id, volume_id, replace(record, capacity_bytes=real_bytes))

    def _link(self, link: Path, folder: Path) -> bool:
        with io_failing_as(lambda _: ImagePathError(str(link))):
            if link.is_symlink() and link.readlink() == folder:
                return False
            link.parent.mkdir(parents=True, exist_ok=True)
            durable.replace_link(link, folder, link.with_name(f".{uuid.uuid4()}"))
            return True

    def _unlink(self, link: Path) -> None:
        with io_failing_as(lambda _: ImagePathError(str(link))):
            link.unlink(missing_ok=True)


def _list_resources(domain_id: str, image_id: str) -> tuple[locks.Resource, ...]:
    # The image stays as it is, and may be read by others meanwhile: a copy of it can take hours.
    return locks.image(domain_id, image_id, shared=True), locks.run_link(domain_id, image_id)
