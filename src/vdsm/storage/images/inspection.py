"""Looking at volumes' data: what qemu tells of it, what a copy needs, whether it is what it says (facts: §9.8).

Export is here, too: it changes nothing of the repository.
"""

import logging
from functools import partial
from pathlib import Path

from msgspec import Struct

from vdsm.core.undo import Undo
from vdsm.storage import checks, durable, errors, locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.images.appliance import write_appliance
from vdsm.storage.images.archive import BadArchive, is_archive, list_members
from vdsm.storage.images.formatting import OLD_COMPAT, get_compat
from vdsm.storage.images.operation import Chain, Operations, get_layer
from vdsm.storage.images.trust import find_mismatch
from vdsm.storage.model import VolumeFormat, VolumeMetadata, VolumeRef
from vdsm.storage.ports import UNWATCHED, Conversion, ImageFile, Layer, Measure, QemuImg, Watch

FILE_FORMATS = ("raw", "qcow2", "vmdk", "vdi")
"""What files outside of the repository may be, in qemu's words."""
ARCHIVE_FORMAT = "ova"

log = logging.getLogger(__name__)


class Inspection(Struct, frozen=True):
    """Reads data of volumes, also of ones that VMs use; nothing is changed."""

    _domains: Domains
    _locks: locks.Locks
    _operations: Operations
    _qemu_img: QemuImg

    def get_image_info(self, domain_id: str, image_id: str, volume_id: str) -> ImageFile:
        """What qemu tells of a volume's file, bitmaps included. Raises 201, 209, ImageVerificationError (484) for one
        that names another file as its data."""
        domain, record = self._read(domain_id, image_id, volume_id)
        if record.format is VolumeFormat.COW and self._inspect(domain, image_id, volume_id).has_data_file:
            raise errors.ImageVerificationError(volume_id, "its data is in another file")
        layer = get_layer(domain, image_id, volume_id, record)
        with errors.qemu_failing_as(partial(errors.VolumeAccessError, volume_id)):
            return self._qemu_img.info(layer.path, layer.format)

    def measure(
        self,
        domain_id: str,
        image_id: str,
        volume_id: str,
        format: VolumeFormat,
        *,
        backing_chain: bool = True,
        base_id: str | None = None,
    ) -> Measure:
        """What a copy in that format needs: of the chain, of the volume alone, or of the volume over its parent.

        Raises UnsupportedOperation (2009) for a base that is not the parent, 262 for a header that does not fit.
        """
        domain, record = self._read(domain_id, image_id, volume_id)
        if base_id is not None:
            checks.check_real_ids(baseID=base_id)
            if record.parent_id != base_id:
                raise errors.UnsupportedOperation(f"{base_id} is not the parent of {volume_id}")
        chain = self._operations.open_chain(domain, image_id, volume_id, allow_illegal=True)
        wanted: Chain = chain if base_id is None and backing_chain else chain[: 1 if base_id is None else 2]
        layers = [get_layer(domain, image_id, chained_id, record) for chained_id, record in wanted]
        with errors.qemu_failing_as(partial(errors.VolumeAccessError, volume_id)):
            return self._qemu_img.measure(layers, format.qemu)

    def verify(self, domain_id: str, image_id: str, volume_id: str) -> None:
        """Check data that came from elsewhere, without following what it names: ImageVerificationError (484)."""
        with self._locks.hold(locks.domain(domain_id, shared=True), locks.image(domain_id, image_id, shared=True)):
            domain, record = self._read(domain_id, image_id, volume_id)
            parent = domain.images.read(image_id, record.parent_id) if record.has_parent else None
            with errors.qemu_failing_as(partial(errors.ImageVerificationError, volume_id)):
                image = self._qemu_img.inspect(domain.backend.data.get_path(image_id, volume_id))
            fault = find_mismatch(image, record, parent, (OLD_COMPAT, get_compat(domain)))
            if fault is not None:
                raise errors.ImageVerificationError(volume_id, fault)
            layer = get_layer(domain, image_id, volume_id, record)
            with errors.qemu_failing_as(partial(errors.ImageVerificationError, volume_id)):
                self._qemu_img.info(layer.path, layer.format)  # qemu agrees that it is one
        if image.virtual_size_bytes < record.capacity_bytes:
            log.warning("Volume %s has %d bytes, not %d", volume_id, image.virtual_size_bytes, record.capacity_bytes)

    def read_piece(self, source: VolumeRef, begin_bytes: int, length_bytes: int) -> bytes:
        """What a guest reads there of a volume with all below it; in whole sectors, less behind the end."""
        failed = partial(errors.VolumeAccessError, source.volume_id)
        with self._operations.reading(source) as (domain, record), errors.qemu_failing_as(failed):
            layer = get_layer(domain, source.image_id, source.volume_id, record)
            return self._qemu_img.read(layer, begin_bytes, length_bytes)

    def find_images(self, path: Path) -> dict[str, Layer]:
        """What could be imported from a file outside of the repository, by name: the file itself, or the images in an
        archive (OVA) that tell what they are. Who knows better, as of a raw image, makes a Layer of his own.

        Whether they may be imported is told by `get_file_size`. Raises ImageVerificationError (484).
        """
        failed, found = partial(errors.ImageVerificationError, str(path)), dict[str, Layer]()
        with errors.io_failing_as(failed), errors.qemu_failing_as(failed):
            if not is_archive(path):
                return {path.name: Layer(path, self._qemu_img.inspect(path).format)}
            try:
                for name, *place in list_members(path):
                    part = (place[0], place[1])
                    format = self._qemu_img.inspect(path, part).format
                    if name in found:
                        raise BadArchive(f"it has {name!r} twice")
                    if format in FILE_FORMATS[1:]:
                        found[name] = Layer(path, format, part)
            except BadArchive as error:
                raise failed(str(error)) from error
        return found

    def get_file_size(self, source: Layer) -> int:
        """Bytes that a volume needs for a file outside of the repository; raises what `check_file` does."""
        return check_file(self._qemu_img, source)

    def export_file(self, source: VolumeRef, target: Layer, *, watch: Watch = UNWATCHED) -> None:
        """Write all that a volume reads as into a new file outside of the repository, for its owner's eyes only.

        The format `ova` is an archive of it as VMDK, with a description of a machine that is called as the file is. It
        is PATH.part, after PATH.vmdk.part, until it is whole and on disk; who is killed leaves these: remove them, and
        export again.
        Raises CopyImageError (261), also where a file is there, 911, 202, and what an unusable chain raises.
        """
        if target.format not in (*FILE_FORMATS, ARCHIVE_FORMAT) or target.part is not None:
            raise errors.IncorrectFormat(target.format)
        path = target.path.absolute()  # qemu-img runs elsewhere, and takes other names for more than names
        ids, part = (source.image_id, source.volume_id), path.with_name(f"{path.name}.part")
        disk = Layer(part, target.format)
        if target.format == ARCHIVE_FORMAT:
            disk = Layer(path.with_name(f"{path.name}.vmdk.part"), "vmdk")
        failed = partial(errors.CopyImageError, source.volume_id)
        with self._operations.reading(source) as (domain, record):
            layer = get_layer(domain, *ids, record)
            with Undo() as undo, errors.io_failing_as(failed), errors.qemu_failing_as(failed):
                if path.exists():
                    raise errors.CopyImageError(source.volume_id, f"{path} is there already")
                durable.create_file(disk.path, 0o600, owner=lambda _: None)
                undo.push(disk.path.unlink, missing_ok=True)
                size_bytes = self._qemu_img.get_virtual_size(layer.path, layer.format)
                self._qemu_img.create(disk.path, disk.format, size_bytes)
                self._qemu_img.convert(Conversion(layer, disk, is_zero=True), watch)
                if disk.path != part:
                    durable.create_file(part, 0o600, owner=lambda _: None)
                    undo.push(part.unlink)
                    write_appliance(part, disk.path, path.stem, size_bytes, watch)
                    disk.path.unlink()
                durable.sync(part)
                part.rename(path)
                undo.forget()
                durable.sync(path.parent)
        log.info("Exported %s to %s", source, path)

    def _inspect(self, domain: Domain, image_id: str, volume_id: str) -> ImageFile:
        with errors.qemu_failing_as(partial(errors.VolumeAccessError, volume_id)):
            return self._qemu_img.inspect(domain.backend.data.get_path(image_id, volume_id))

    def _read(self, domain_id: str, image_id: str, volume_id: str) -> tuple[Domain, VolumeMetadata]:
        checks.check_real_ids(imageID=image_id, volumeID=volume_id)
        domain = self._domains.get_with_images(domain_id)
        return domain, domain.images.read(image_id, volume_id)


def check_file(qemu_img: QemuImg, source: Layer) -> int:
    """Bytes that a guest sees in a file outside of the repository, which qemu may open as that format afterwards.

    Raises ImageVerificationError (484) for one that is no such image or needs another file, IncorrectFormat (202).
    """
    if source.format not in FILE_FORMATS or (source.format == VolumeFormat.RAW.qemu and source.part):
        raise errors.IncorrectFormat(source.format)
    failed = partial(errors.ImageVerificationError, str(source.path))
    with errors.io_failing_as(failed), errors.qemu_failing_as(failed):
        if not source.path.is_file():
            raise failed("it is no file")
        if source.format != VolumeFormat.RAW.qemu:
            image = qemu_img.inspect(source.path, source.part)
            if image.format != source.format or image.has_data_file or image.backing_file is not None:
                raise failed(f"it is no {source.format} image, or needs another file")
        return qemu_img.get_virtual_size(source.path, source.format, source.part)
