"""Merging a layer into the one below while no VM uses them, and keeping records like the real chain (facts: §9.7)."""

import logging
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from vdsm.storage import checks, locks
from vdsm.storage.domain import Domain
from vdsm.storage.errors import ImageIsNotLegalChain, SharedVolumeNonWritable, VolumeAccessError, qemu_failing_as
from vdsm.storage.errors_jobs import MergeBitmapError, RemoveBitmapError, VolumeIsNotInChain, WrongParentVolume
from vdsm.storage.images.formatting import extend_data
from vdsm.storage.images.operation import Operations, get_layer, list_bitmaps
from vdsm.storage.model import Legality, Subchain, VolumeFormat, VolumeMetadata, VolumeRole
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import UNWATCHED, Bitmap, Layer, QemuImg, QemuImgFailed, Rollbacks, Steps, Watch
from vdsm.storage.rollbacks import RollbacksInMemory

log = logging.getLogger(__name__)


class Merges(Struct, eq=False):
    """Cold merges: `prepare` and `finalize` are the SPM's, `merge` any host's. Each can be done again after a kill:
    until `finalize` the top has its data, and whoever reads through it reads the same as before."""

    _pools: Pools
    _operations: Operations
    _qemu_img: QemuImg
    _step: Steps

    def prepare(self, pool_id: str, subchain: Subchain, rollbacks: Rollbacks | None = None) -> None:
        """Let the base be as large as the top, and drop its bitmaps that the top does not go on with."""
        with self._operations.hold(subchain.base, locks.writing(pool_id, shared=True)) as domain:
            require_writer(self._pools, pool_id, domain)
            top, base = self._check(domain, subchain)
            self._operations.open_chain(domain, subchain.image_id, subchain.top_id)
            self._prune_bitmaps(domain, subchain, top, base)
            if top.capacity_bytes > base.capacity_bytes:
                if base.format is VolumeFormat.RAW:
                    entries = rollbacks or RollbacksInMemory()
                    extend_data(domain, subchain.base, base, top.capacity_bytes, entries, self._step)
                else:
                    self._step("write capacity")
                    self._set_capacity(domain, subchain, top.capacity_bytes)
            self._step("done")

    def merge(self, subchain: Subchain, *, merge_bitmaps: bool = False, watch: Watch = UNWATCHED) -> None:
        """Write the top's data into the base (facts: storage §10.4), a job as `jobs.DataJobs` has them."""
        with self._operations.hold(subchain.base) as domain:
            top, base = self._check(domain, subchain)
            self._operations.open_chain(domain, subchain.image_id, subchain.top_id)
            top_layer, base_layer = self._get_layers(domain, subchain, top, base)
            with self._operations.count(domain, subchain.base):
                self._step("commit data")
                with qemu_failing_as(QemuImgFailed):
                    self._qemu_img.commit(top_layer, subchain.base_id, watch)
                domain.backend.data.settle_data(subchain.image_id, subchain.base_id)
                if top.capacity_bytes > base.capacity_bytes:  # nobody prepared it: qemu-img extended it
                    self._set_capacity(domain, subchain, top.capacity_bytes)
                if merge_bitmaps and base.format is VolumeFormat.COW:
                    self._merge_bitmaps(domain, subchain, top_layer, base_layer, base, watch)
        log.info("Merged %s into %s", subchain.top_id, subchain.base_id)

    def finalize(self, pool_id: str, subchain: Subchain) -> None:
        """Take the top out of the chain; it is illegal from now on, and waits for its removal."""
        with self._operations.hold(subchain.base, locks.writing(pool_id, shared=True)) as domain:
            require_writer(self._pools, pool_id, domain)
            top, base = self._check(domain, subchain)
            images, image_id = domain.images, subchain.image_id
            children = images.list_children(image_id, subchain.top_id)
            for child_id in children:
                with qemu_failing_as(partial(VolumeAccessError, child_id)):
                    child_file = self._qemu_img.inspect(domain.backend.data.get_path(image_id, child_id))
                if child_file.has_data_file:  # qemu-img would open that one, too
                    raise ImageIsNotLegalChain(image_id, f"{child_id}: its data is in another file")
            if top.legality is not Legality.ILLEGAL:
                self._step("make illegal")
                images.change(image_id, subchain.top_id, replace(top, legality=Legality.ILLEGAL))
            for child_id in children:
                self._step("rebase child")
                with qemu_failing_as(partial(VolumeAccessError, child_id)):
                    path = domain.backend.data.get_path(image_id, child_id)
                    self._qemu_img.rebase(path, subchain.base_id, base.format.qemu)
                domain.backend.data.settle_data(image_id, child_id)
                self._step("change parent")
                child = images.read(image_id, child_id)
                images.change(image_id, child_id, replace(child, parent_id=subchain.base_id))
            self._step("done")

    def _set_capacity(self, domain: Domain, subchain: Subchain, size_bytes: int) -> None:
        record = domain.images.read(subchain.image_id, subchain.base_id)
        domain.images.change(subchain.image_id, subchain.base_id, replace(record, capacity_bytes=size_bytes))

    def _prune_bitmaps(self, domain: Domain, subchain: Subchain, top: VolumeMetadata, base: VolumeMetadata) -> None:
        top_layer, base_layer = self._get_layers(domain, subchain, top, base)
        kept = {bitmap.name for bitmap in list_bitmaps(self._qemu_img, top_layer) if bitmap.is_valid}
        for bitmap in list_bitmaps(self._qemu_img, base_layer):
            if bitmap.name not in kept:
                self._step("remove bitmap")
                with qemu_failing_as(partial(RemoveBitmapError, bitmap.name)):
                    self._qemu_img.remove_bitmap(base_layer.path, bitmap.name)

    def _merge_bitmaps(
        self, domain: Domain, subchain: Subchain, top: Layer, base: Layer, record: VolumeMetadata, watch: Watch
    ) -> None:
        there = {bitmap.name for bitmap in list_bitmaps(self._qemu_img, base)}
        below: tuple[Bitmap, ...] = ()
        if record.has_parent:
            parent = domain.images.read(subchain.image_id, record.parent_id)
            below = list_bitmaps(self._qemu_img, get_layer(domain, subchain.image_id, record.parent_id, parent))
        for bitmap in list_bitmaps(self._qemu_img, top):
            # One that the base lacks although the volume below has it, is incomplete already.
            if not bitmap.is_valid or (bitmap.name not in there and bitmap.name in {one.name for one in below}):
                continue
            self._step("merge bitmap")
            with qemu_failing_as(partial(MergeBitmapError, bitmap.name)):
                if bitmap.name not in there:
                    self._qemu_img.add_bitmap(base.path, bitmap.name, bitmap.granularity_bytes)
                self._qemu_img.merge_bitmap(top, base.path, bitmap.name, watch)

    def _get_layers(
        self, domain: Domain, subchain: Subchain, top: VolumeMetadata, base: VolumeMetadata
    ) -> tuple[Layer, Layer]:
        return (
            get_layer(domain, subchain.image_id, subchain.top_id, top),
            get_layer(domain, subchain.image_id, subchain.base_id, base),
        )

    def _check(self, domain: Domain, subchain: Subchain) -> tuple[VolumeMetadata, VolumeMetadata]:
        checks.check_real_ids(top_id=subchain.top_id)
        records = domain.images.read_all(subchain.image_id)
        for volume_id in (subchain.top_id, subchain.base_id):
            if volume_id not in records:
                raise VolumeIsNotInChain(subchain.image_id, volume_id)
        top, base = records[subchain.top_id], records[subchain.base_id]
        if top.parent_id != subchain.base_id:
            raise WrongParentVolume(subchain.top_id, top.parent_id)
        for volume_id, record in ((subchain.top_id, top), (subchain.base_id, base)):
            if record.role is VolumeRole.SHARED:
                raise SharedVolumeNonWritable(volume_id)
        return top, base
