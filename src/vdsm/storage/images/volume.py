"""Creating, removing and reading volumes (facts: storage §9.1 to §9.3, §4.4); the steps of removal are in `removal`."""

import logging
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.clock import Clock
from vdsm.core.undo import Undo
from vdsm.storage import checks, errors, locks, model
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors_jobs import VolumeNonWritable, VolumeResizeValueError
from vdsm.storage.images.formatting import extend_data, format_data
from vdsm.storage.images.operation import Operations
from vdsm.storage.images.removal import check_removal, remove_empty_image, remove_volume
from vdsm.storage.images.volume_metadata import format_volume_metadata
from vdsm.storage.layout import Layout
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import QemuImg, QemuImgFailed, Rollbacks, Steps
from vdsm.storage.recovery import Recovery
from vdsm.storage.rollbacks import RollbacksInMemory, VolumeRollbacks

log = logging.getLogger(__name__)


class _Creation(Struct, frozen=True):
    """One creation, checked: nothing of it was done yet."""

    request: model.VolumeRequest
    domain: Domain
    parent: model.VolumeMetadata | None
    metadata: model.VolumeMetadata
    record: bytes
    rollbacks: VolumeRollbacks

    @property
    def parent_in_other_image(self) -> bool:
        return self.parent is not None and self.request.source_image_id != self.request.image_id


class Volumes(Struct, frozen=True):
    """Volumes of all domains."""

    _domains: Domains
    _pools: Pools
    _recovery: Recovery
    _operations: Operations
    _locks: locks.Locks
    _qemu_img: QemuImg
    _clock: Clock
    _layout: Layout
    _step: Steps

    def create(self, request: model.VolumeRequest, rollbacks: Rollbacks | None = None) -> None:
        """Make a volume; when it returns, the volume is whole and on disk. A refusal changes nothing.

        Without a recorder a failure is undone before it is raised; with one, undoing is its owner's. The volume exists
        from the moment that its record does, which is written last, so a process killed at any step leaves nothing that
        a listing shows:

        * image folder, template links: listings leave out images without a volume of their own;
        * data without record: listings look at records; the next SPM removes the draft and the empty folder;
        * parent marked internal: done after the data file, by whose lack of a record the next SPM knows to look again;
        * record written, not acknowledged: a whole volume; the task's entries take it back.
        """
        request = checks.check_volume_request(request)
        with self._locks.hold(
            locks.domain(request.domain_id, shared=True),
            locks.image(request.domain_id, request.image_id),
            # A template may be read by others, for hours.
            locks.image(request.domain_id, request.source_image_id, shared=True),
            locks.writing(request.pool_id, shared=True),
        ):
            self.create_held(request, rollbacks)

    def create_held(
        self, request: model.VolumeRequest, rollbacks: Rollbacks | None = None, *, on_illegal: bool = False
    ) -> None:
        """`create` for who has the locks and has checked the request; the parent in its image may be illegal, too."""
        own = RollbacksInMemory()
        creation = self._check(request, rollbacks or own, on_illegal)
        with Undo() as undo:
            undo.push(own.run, self._recovery.undo)
            self._create(creation)
            undo.forget()
        log.info("Created volume %s of image %s on %s", request.volume_id, request.image_id, request.domain_id)

    def delete(
        self,
        pool_id: str,
        domain_id: str,
        image_id: str,
        volume_ids: Sequence[str],
        *,
        force: bool = False,
        discard: bool = False,
        rollbacks: Rollbacks | None = None,
    ) -> None:
        """Remove volumes of one image in the order given, and the image when none of its own is left.

        Each is checked before it is touched (201, 204, 223, 651 while any host works on its data; discard is 349 on
        files); a refusal leaves that volume and those after it as they were. The recovery entry finishes the removal:
        what was begun cannot be taken back.
        """
        checks.check_real_ids(storagepoolID=pool_id, storagedomainID=domain_id, imageID=image_id)
        for volume_id in volume_ids:
            checks.check_real_ids(volumeID=volume_id)
        own = (locks.domain(domain_id, shared=True), locks.image(domain_id, image_id))
        with self._locks.hold(*own, locks.writing(pool_id, shared=True)):
            domain = self._get_writable(pool_id, domain_id)
            if discard and not domain.backend.traits.supports_discard:
                raise errors.DiscardIsNotSupported(domain_id)
            for volume_id in volume_ids:
                check_removal(domain.images, image_id, volume_id, force=force)
                # Asked for, and not taken: what has lost its lease, or lies where this host has no id, can be removed.
                lease = domain.backend.volumes.get_lease(image_id, volume_id)
                if lease is not None and lease.holder is not None:
                    raise errors.AcquireLockFailure(volume_id, f"host {lease.holder} works on it")
                if rollbacks is not None:
                    entries = VolumeRollbacks(rollbacks, domain.backend.traits, domain_id, image_id, volume_id)
                    folder = domain.backend.volumes.get_image_path(image_id)
                    entries.push_removal(self._layout.repository, folder)
                remove_volume(domain.images, image_id, volume_id, self._step)
                log.info("Removed volume %s of image %s on %s", volume_id, image_id, domain_id)
            remove_empty_image(domain.images, image_id, self._step)
            self._step("done")

    def extend(
        self, pool_id: str, target: model.VolumeRef, size_bytes: int, rollbacks: Rollbacks | None = None
    ) -> None:
        """Let a raw or preallocated volume have that size (facts: storage §9.5); a sparse COW one grows by itself.

        Only a leaf or a volume without a parent, and no template, takes it (213); smaller is VolumeResizeValueError
        (232). Should this be killed, the recovery entry lets the record tell what the file has.
        """
        size_bytes = checks.check_capacity_request(size_bytes)
        with self._operations.hold(target) as domain:
            require_writer(self._pools, pool_id, domain)
            record = domain.images.read(target.image_id, target.volume_id)
            is_inner = record.role is model.VolumeRole.INTERNAL and record.has_parent
            if record.role is model.VolumeRole.SHARED or is_inner:
                raise VolumeNonWritable(target.volume_id)
            old_bytes = domain.backend.data.get_size(target.image_id, target.volume_id).apparent_bytes
            if record.format is model.VolumeFormat.RAW and size_bytes < old_bytes:
                raise VolumeResizeValueError(target.volume_id, size_bytes, old_bytes)
            if record.format is model.VolumeFormat.RAW or record.allocation is model.Allocation.PREALLOCATED:
                extend_data(domain, target, record, size_bytes, rollbacks or RollbacksInMemory(), self._step)
            self._step("done")

    def get_metadata(self, domain_id: str, image_id: str, volume_id: str) -> model.VolumeMetadata:
        """A volume's record; ImagePathError (254) and VolumeDoesNotExist (201) when it is not there."""
        checks.check_ids(imageID=image_id, volumeID=volume_id)
        domain = self._domains.get_with_images(domain_id)
        if not domain.backend.volumes.has_image(image_id):
            raise errors.ImagePathError(str(domain.backend.volumes.get_image_path(image_id)))
        return domain.images.read(image_id, volume_id)

    def get_info(self, domain_id: str, image_id: str, volume_id: str) -> model.VolumeInfo:
        """A volume's record, sizes and status; a volume whose data is out of reach is INVALID, with sizes 0."""
        metadata = self.get_metadata(domain_id, image_id, volume_id)
        backend = self._domains.get_backend(domain_id)
        lease = backend.volumes.get_lease(image_id, volume_id)
        try:
            size = backend.data.get_size(image_id, volume_id)
        except errors.VolumeAccessError:
            return model.VolumeInfo(volume_id, metadata, model.VolumeSize(0, 0), model.VolumeStatus.INVALID, lease)
        status = model.VolumeStatus.ILLEGAL if metadata.legality is model.Legality.ILLEGAL else model.VolumeStatus.OK
        return model.VolumeInfo(volume_id, metadata, size, status, lease)

    def get_size(self, domain_id: str, image_id: str, volume_id: str) -> model.VolumeSize:
        """Sizes in bytes; raises VolumeDoesNotExist, VolumeAccessError."""
        self.get_metadata(domain_id, image_id, volume_id)
        return self._domains.get_backend(domain_id).data.get_size(image_id, volume_id)

    def _check(self, request: model.VolumeRequest, rollbacks: Rollbacks, on_illegal: bool) -> _Creation:
        domain = self._get_writable(request.pool_id, request.domain_id)
        version = domain.metadata.version
        if version < 4 and (request.add_bitmaps or request.bitmap is not None):
            raise errors.UnsupportedOperation(f"bitmaps on a domain of version {version}")
        if domain.backend.data.has_data(request.image_id, request.volume_id):
            raise errors.VolumeAlreadyExists(request.volume_id)
        if request.volume_id in domain.backend.volumes.list_records(request.image_id):
            raise errors.VolumeAlreadyExists(request.volume_id)
        parent = None
        if request.has_parent:
            parent = domain.images.read(request.source_image_id, request.parent_id)
            checks.check_parent(request, parent, on_illegal=on_illegal)
        metadata = self._make_metadata(request)
        record = format_volume_metadata(metadata, version)
        ids = (request.domain_id, request.image_id, request.volume_id)
        entries = VolumeRollbacks(rollbacks, domain.backend.traits, *ids)
        return _Creation(request, domain, parent, metadata, record, entries)

    def _get_writable(self, pool_id: str, domain_id: str) -> Domain:
        self._pools.require_spm(pool_id)
        return require_writer(self._pools, pool_id, self._domains.get_with_images(domain_id))

    def _make_metadata(self, request: model.VolumeRequest) -> model.VolumeMetadata:
        return model.VolumeMetadata(
            domain_id=request.domain_id,
            image_id=request.image_id,
            parent_id=request.parent_id,
            capacity_bytes=request.capacity_bytes,
            format=request.format,
            allocation=request.allocation,
            role=model.VolumeRole.LEAF,
            disk_type=request.disk_type,
            description=request.description,
            legality=model.Legality.LEGAL if request.legal else model.Legality.ILLEGAL,
            created_s=int(self._clock.time()),
            sequence=request.sequence,
        )

    def _create(self, creation: _Creation) -> None:
        request, rollbacks = creation.request, creation.rollbacks
        volumes, data = creation.domain.backend.volumes, creation.domain.backend.data
        image_id, volume_id = request.image_id, request.volume_id
        folder, path = volumes.get_image_path(image_id), data.get_path(image_id, volume_id)
        if not volumes.has_image(image_id):
            rollbacks.push_image(folder)
            self._step("create image")
            volumes.create_image(image_id)
        if creation.parent_in_other_image:
            self._share_parent(creation)
        rollbacks.push_sentinel()
        rollbacks.push_data(path)
        self._step("create data")
        data.create_data(image_id, volume_id)
        self._mark_parent(creation)
        self._step("format data")
        parent_format = None if creation.parent is None else creation.parent.format
        format_data(creation.domain, self._qemu_img, image_id, volume_id, creation.metadata, parent_format)
        self._add_bitmaps(creation)
        self._step("settle data")
        data.settle_data(image_id, volume_id)
        self._step("create lease")
        volumes.create_lease(image_id, volume_id)
        rollbacks.push_record(path)
        self._step("write record")
        volumes.write_record(image_id, volume_id, creation.record)
        self._step("settle rollbacks")
        rollbacks.replace_by_removal(self._layout.repository, folder)
        self._step("open data")
        data.open_access(image_id, volume_id)
        self._step("done")

    def _share_parent(self, creation: _Creation) -> None:
        request, parent = creation.request, creation.parent
        volumes = creation.domain.backend.volumes
        if parent is None or request.parent_id in volumes.list_records(request.image_id):
            return
        if parent.role is not model.VolumeRole.SHARED:
            self._step("make template")
            shared = replace(parent, role=model.VolumeRole.SHARED)
            creation.domain.images.change(request.source_image_id, request.parent_id, shared)
        creation.rollbacks.push_share(creation.domain.backend.data.get_path(request.image_id, request.parent_id))
        self._step("share parent")
        volumes.share(request.parent_id, request.source_image_id, request.image_id)

    def _mark_parent(self, creation: _Creation) -> None:
        request, parent = creation.request, creation.parent
        if parent is None or creation.parent_in_other_image or parent.role is not model.VolumeRole.LEAF:
            return
        creation.rollbacks.push_parent(request.image_id, request.parent_id)
        self._step("mark parent")
        internal = replace(parent, role=model.VolumeRole.INTERNAL)
        creation.domain.images.change(request.image_id, request.parent_id, internal)

    def _add_bitmaps(self, creation: _Creation) -> None:
        # A volume without its bitmaps is of use; the next backup is a full one.
        request, data = creation.request, creation.domain.backend.data
        path = data.get_path(request.image_id, request.volume_id)
        try:
            if request.add_bitmaps:
                parent = data.get_path(request.image_id, request.parent_id)
                for bitmap in self._qemu_img.info(parent, model.VolumeFormat.COW.qemu).bitmaps:
                    if bitmap.is_valid:
                        self._qemu_img.add_bitmap(path, bitmap.name, bitmap.granularity_bytes)
            if request.bitmap is not None:
                self._qemu_img.add_bitmap(path, request.bitmap)
        except QemuImgFailed as error:
            log.warning("Volume %s is made without some bitmaps: %s", request.volume_id, error)
