"""Work on volumes that any host may do: copies, bitmaps, attributes (facts: storage §10); merging is `merge`'s."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from vdsm.core.undo import Undo
from vdsm.storage import errors, locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors_jobs import AddBitmapError, GenerationMismatch, RemoveBitmapError, UnexpectedVolumeState
from vdsm.storage.images.formatting import OLD_COMPAT, format_data, get_compat
from vdsm.storage.images.image import ImageUse
from vdsm.storage.images.inspection import check_file
from vdsm.storage.images.operation import Operations, check_generation, get_layer, get_next_generation, list_bitmaps
from vdsm.storage.images.volume_metadata import MAXIMUM_GENERATION, check_description
from vdsm.storage.model import Allocation, Legality, VolumeChange, VolumeFormat, VolumeMetadata, VolumeRef, VolumeRole
from vdsm.storage.ports import UNWATCHED, Conversion, Layer, QemuImg, QemuImgFailed, Seal, Sparsify, Steps, Watch

log = logging.getLogger(__name__)


@dataclass
class DataJobs:
    """Each method is one whole job: it ends with the effect on disk and the generation counted, or raises.

    All raise GenerationMismatch (911) before they change anything. A job that fails or is killed while it changes data
    leaves the generation as it was, and doing it again is harmless.
    """

    _domains: Domains
    _operations: Operations
    _qemu_img: QemuImg
    _sparsify: Sparsify
    _images: ImageUse
    _seal: Seal
    _step: Steps

    def copy_data(
        self, source: VolumeRef, target: VolumeRef, *, copy_bitmaps: bool = False, watch: Watch = UNWATCHED
    ) -> None:
        """Copy a volume's data into another one that exists (facts: storage §10.2).

        A target with a parent gets the source's own layer, one without gets all that the source reads as. It is illegal
        until the copy is whole; the source is only read. Raises 261, 2009, 219.
        """
        with self._hold(source, target) as (layer, domain, record, parent):
            if copy_bitmaps and {record.format.qemu, layer.format} != {VolumeFormat.COW.qemu}:
                raise errors.UnsupportedOperation("bitmaps need the COW format on both sides")
            with self._operations.count(domain, target, illegal=True):
                self._copy(layer, domain, target, record, parent, copy_bitmaps, watch)
        log.info("Copied %s to %s", source, target)

    def fill_volume(
        self,
        source: VolumeRef,
        target: VolumeRef,
        role: VolumeRole,
        *,
        as_layer: bool = False,
        watch: Watch = UNWATCHED,
    ) -> None:
        """`copy_data` into an illegal volume that was made for it: it becomes legal and gets its role in one write.

        With `as_layer` it becomes what the source is, with its bitmaps, and the caller has both images locked.
        """
        with self._hold(source, target, as_layer) as (layer, domain, record, parent):
            if record.legality is not Legality.ILLEGAL:
                raise UnexpectedVolumeState(target.volume_id, f"it is {record.legality} already")
            can_have = as_layer and domain.metadata.version >= 4 and record.format is VolumeFormat.COW
            copy_bitmaps = can_have and bool(list_bitmaps(self._qemu_img, layer))
            self._copy(layer, domain, target, record, parent, copy_bitmaps, watch)
            self._step("write record")
            changed = replace(domain.images.read(target.image_id, target.volume_id), legality=Legality.LEGAL, role=role)
            domain.images.change(target.image_id, target.volume_id, changed)
            self._step("done")

    @contextmanager
    def _hold(
        self, source: VolumeRef, target: VolumeRef, as_layer: bool = False
    ) -> Iterator[tuple[Layer, Domain, VolumeMetadata, VolumeMetadata | None]]:
        """Both ends of a copy: the source as qemu may read it, the target's domain, record and parent's record.

        With `as_layer` they are locked already, and what is below may be a fake: it is not read.
        """
        where = (source.domain_id, source.image_id)
        in_one_image = where == (target.domain_id, target.image_id)
        others = () if in_one_image else (locks.domain(where[0], shared=True), locks.image(*where, shared=True))
        held = self._operations.lease(target) if as_layer else self._operations.hold(target, *others)
        with held as domain:
            source_domain = self._domains.get_with_images(source.domain_id)
            chain = self._operations.open_chain(source_domain, source.image_id, source.volume_id, fakes=as_layer)
            check_generation(source, chain[0][1])
            if in_one_image and target.volume_id in dict(chain):
                raise errors.InvalidParameterException("destination", "is the source, or below it")
            record = self._operations.read(domain, target)
            if record.role is VolumeRole.SHARED:
                raise errors.SharedVolumeNonWritable(target.volume_id)
            parent = self._read_parent(domain, target, record, fakes=as_layer)
            layer = get_layer(source_domain, source.image_id, source.volume_id, chain[0][1])
            yield layer, domain, record, parent

    def import_file(self, source: Layer, target: VolumeRef, *, watch: Watch = UNWATCHED) -> None:
        """Copy a file from outside of the repository into a volume that exists and has no parent, as `copy_data` does.

        The file is opened as that format and no other, and needs direct I/O. Raises 261, 2009, 219, 202, and
        ImageVerificationError (484) for an image that needs another file: that is not followed.
        """
        with self._operations.hold(target) as domain:
            check_file(self._qemu_img, source)
            record = self._operations.read(domain, target)
            if record.has_parent:
                raise errors.UnsupportedOperation(f"{target.volume_id} has a parent, the file has none")
            if record.role is VolumeRole.SHARED:
                raise errors.SharedVolumeNonWritable(target.volume_id)
            parent = self._read_parent(domain, target, record)
            if source.path.samefile(domain.backend.data.get_path(target.image_id, target.volume_id)):
                raise errors.InvalidParameterException("path", f"{source.path} is the volume's own file")
            layer = replace(source, path=source.path.absolute())
            with self._operations.count(domain, target, illegal=True):
                self._copy(layer, domain, target, record, parent, False, watch)
        log.info("Imported %s into %s", source, target)

    def _read_parent(
        self, domain: Domain, target: VolumeRef, record: VolumeMetadata, *, fakes: bool = False
    ) -> VolumeMetadata | None:
        """The parent of a target whose data is there; what the target has in it is not looked at."""
        domain.images.get_usable_chain(target.image_id, target.volume_id, allow_illegal=True)
        if not record.has_parent:
            return None
        ids = (target.image_id, record.parent_id)
        return self._operations.open_chain(domain, *ids, allow_illegal=True, fakes=fakes)[0][1]

    def _copy(
        self,
        layer: Layer,
        domain: Domain,
        target: VolumeRef,
        record: VolumeMetadata,
        parent: VolumeMetadata | None,
        copy_bitmaps: bool,
        watch: Watch,
    ) -> None:
        data, ids = domain.backend.data, (target.image_id, target.volume_id)
        with errors.qemu_failing_as(partial(errors.CopyImageError, target.volume_id)):
            size_bytes = self._qemu_img.get_virtual_size(layer.path, layer.format, layer.part)
        if size_bytes > record.capacity_bytes:
            record = replace(record, capacity_bytes=size_bytes)
        # A raw file that took its space when it was made keeps it, unless the source leaves some of it as it is; all
        # else begins anew, too: what an earlier copy left in it, blocks and bitmaps, is not the source's.
        keeps_space = record.format is VolumeFormat.RAW and record.allocation is Allocation.PREALLOCATED
        if keeps_space and size_bytes < data.get_size(*ids).apparent_bytes:
            keeps_space = data.is_zero(*ids)
        self._step("format data")
        if keeps_space:
            data.extend(*ids, record.capacity_bytes)
        else:
            format_data(domain, self._qemu_img, *ids, record, parent.format if parent else None)
        is_zero = data.is_zero(*ids) if keeps_space else parent is None
        self._step("copy data")
        with errors.qemu_failing_as(partial(errors.CopyImageError, target.volume_id)):
            backing = record.parent_id if record.has_parent else None
            conversion = Conversion(layer, get_layer(domain, *ids, record), backing, is_zero, copy_bitmaps)
            self._qemu_img.convert(conversion, watch)
        if keeps_space and not is_zero:
            data.preallocate(*ids, 0, record.capacity_bytes)
        self._step("settle data")
        data.settle_data(*ids)
        stored = domain.images.read(*ids)
        if stored.capacity_bytes < record.capacity_bytes:
            domain.images.change(*ids, replace(stored, capacity_bytes=record.capacity_bytes))

    def update_volume(self, target: VolumeRef, change: VolumeChange) -> None:
        """Change attributes in one write (facts: storage §10.3). The caller must know the generation (911).

        Raises InvalidVolumeUpdate (235) for a legality that it has, a template that it cannot become.
        """
        if change == VolumeChange():
            raise errors.InvalidParameterException("vol_attr", "nothing to change")
        if change.generation is not None and not 0 <= change.generation <= MAXIMUM_GENERATION:
            raise errors.InvalidParameterException("generation", str(change.generation))
        if change.role not in (None, VolumeRole.SHARED) or change.legality is Legality.FAKE:
            raise errors.InvalidParameterException("vol_attr", f"{change.role or change.legality}")
        if change.description is not None:
            check_description(change.description)
        with self._operations.hold(target) as domain:
            record = self._operations.read(domain, target)
            if target.generation is None:
                raise GenerationMismatch(None, record.generation)
            if change.legality is record.legality:
                raise errors.InvalidVolumeUpdate(target.volume_id, f"it is {record.legality} already")
            if change.role is not None and (record.role is not VolumeRole.LEAF or record.has_parent):
                raise errors.InvalidVolumeUpdate(target.volume_id, "only a leaf without a parent becomes a template")
            generation = get_next_generation(record.generation) if change.generation is None else change.generation
            self._step("write record")
            changed = replace(
                record,
                description=record.description if change.description is None else change.description,
                legality=change.legality or record.legality,
                role=change.role or record.role,
                generation=generation,
            )
            domain.images.change(target.image_id, target.volume_id, changed)
            self._step("done")

    def amend_volume(self, target: VolumeRef, compat: str | None, *, watch: Watch = UNWATCHED) -> None:
        """Turn a qcow2 volume into that version of the format, which its domain must allow (2009)."""
        with self._operations.hold(target) as domain:
            record = self._read_cow(domain, target)
            if record.role is VolumeRole.SHARED:
                raise errors.UnsupportedOperation("the volume is a template")
            if compat is None or compat not in {OLD_COMPAT, get_compat(domain)}:
                raise errors.UnsupportedOperation(f"compat {compat} on a domain of version {domain.metadata.version}")
            self._operations.open_chain(domain, target.image_id, target.volume_id)
            with self._operations.count(domain, target), errors.qemu_failing_as(QemuImgFailed):
                self._step("amend data")
                self._qemu_img.amend(get_layer(domain, target.image_id, target.volume_id, record).path, compat, watch)

    def sparsify_volume(self, target: VolumeRef, *, watch: Watch = UNWATCHED) -> None:
        """Give the space back that the disk's file systems do not use. Raises UnsupportedOperation (2009) where no
        program can, 219 and 220 for a volume that is not the top."""
        with self._operations.hold(target) as domain:
            layer = self._open_top(domain, target)
            with self._operations.count(domain, target):
                self._step("sparsify data")
                if not self._sparsify(layer, watch):
                    raise errors.UnsupportedOperation(
                        f"{layer.format} there: it takes virt-sparsify, or storage that makes holes"
                    )
                domain.backend.data.settle_data(target.image_id, target.volume_id)

    def seal_volumes(self, pool_id: str, targets: Sequence[VolumeRef], *, watch: Watch = UNWATCHED) -> None:
        """Take from the disks of one guest what is that machine's alone (facts: storage §9.11); they may be illegal.

        Images that were not prepared are so meanwhile. Where it fails what is sealed already stays so. Raises 1000
        (no disk, or one twice), 309, 219 and 220 for a volume that is not the top, GuestToolFailed.
        """
        images = {(target.domain_id, target.image_id) for target in targets}
        if not 0 < len(images) == len(targets):
            raise errors.InvalidParameterException("images", "there is none, or one twice")
        self._images.check_pool(pool_id)
        links = [locks.run_link(*ids) for ids in images]
        with self._operations.hold_all(targets, *links) as domains, Undo() as undo, ExitStack() as counted:
            ends = list(zip(domains, targets, strict=True))
            layers = [self._open_top(domain, target, allow_illegal=True) for domain, target in ends]
            for domain, target in ends:
                self._images.make_ready(undo, domain, target.image_id, target.volume_id, allow_illegal=True)
                counted.enter_context(self._operations.count(domain, target))
            self._step("seal data")
            self._seal(layers, watch)
            for domain, target in ends:
                domain.backend.data.settle_data(target.image_id, target.volume_id)
        log.info("Sealed %s", ", ".join(map(str, targets)))

    def _open_top(self, domain: Domain, target: VolumeRef, *, allow_illegal: bool = False) -> Layer:
        record = self._operations.read(domain, target)
        if record.role is VolumeRole.SHARED:
            raise errors.SharedVolumeNonWritable(target.volume_id)
        if record.role is VolumeRole.INTERNAL:
            raise errors.InternalVolumeNonWritable(target.volume_id)
        self._operations.open_chain(domain, target.image_id, target.volume_id, allow_illegal=allow_illegal)
        return get_layer(domain, target.image_id, target.volume_id, record)

    def add_bitmap(self, target: VolumeRef, bitmap: str) -> None:
        """Begin a bitmap whose name the chain does not have yet (1620)."""
        with self._operations.hold(target) as domain:
            self._read_cow(domain, target)
            for volume_id, record in self._operations.open_chain(domain, target.image_id, target.volume_id):
                layer = get_layer(domain, target.image_id, volume_id, record)
                if bitmap in {one.name for one in list_bitmaps(self._qemu_img, layer)}:
                    raise AddBitmapError(bitmap, f"{volume_id} has it")
            with self._operations.count(domain, target), errors.qemu_failing_as(partial(AddBitmapError, bitmap)):
                self._step("add bitmap")
                self._qemu_img.add_bitmap(domain.backend.data.get_path(target.image_id, target.volume_id), bitmap)

    def remove_bitmap(self, target: VolumeRef, bitmap: str) -> None:
        """Remove a bitmap; one that is not there is success."""
        self._remove_bitmaps(target, bitmap)

    def clear_bitmaps(self, target: VolumeRef) -> None:
        """Remove all bitmaps of a volume, which is no template (2009)."""
        self._remove_bitmaps(target, None)

    def _remove_bitmaps(self, target: VolumeRef, bitmap: str | None) -> None:
        with self._operations.hold(target) as domain:
            record = self._read_cow(domain, target)
            if bitmap is None and record.role is VolumeRole.SHARED:
                raise errors.UnsupportedOperation("the volume is a template")
            self._operations.open_chain(domain, target.image_id, target.volume_id)
            layer = get_layer(domain, target.image_id, target.volume_id, record)
            with self._operations.count(domain, target):
                for found in list_bitmaps(self._qemu_img, layer):
                    if bitmap in (None, found.name):
                        self._step("remove bitmap")
                        with errors.qemu_failing_as(partial(RemoveBitmapError, found.name)):
                            self._qemu_img.remove_bitmap(layer.path, found.name)

    def _read_cow(self, domain: Domain, target: VolumeRef) -> VolumeMetadata:
        record = self._operations.read(domain, target)
        if record.format is not VolumeFormat.COW:
            raise errors.UnsupportedOperation(f"the volume is {record.format}")
        return record
