"""A whole file domain looked at, its metadata against its disk; and what is safe mended, by who may write.

Nothing that is found is followed: links, and what is no file, are told and not opened.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec import Struct

from vdsm.core.errors import NodeError
from vdsm.core.ids import is_uuid
from vdsm.storage.backends.domain_leases import WRITER
from vdsm.storage.backends.file import MAILBOX_BYTES, MAILBOXES
from vdsm.storage.backends.file_volumes import DRAFT_MODE, PURGED_PREFIX
from vdsm.storage.domain import Domain
from vdsm.storage.errors import StorageDomainAccessError, io_failing_as
from vdsm.storage.examination.chains import Fault, find_faults, find_header_fault
from vdsm.storage.images.chain import order_chain
from vdsm.storage.images.volume_metadata import RECORD_BYTES
from vdsm.storage.layout import FileDomainLayout
from vdsm.storage.leases.on_disk import DiskRecord, read_records
from vdsm.storage.leases.xleases import INDEX_BYTES, RECORDS, get_offset
from vdsm.storage.model import ISO_IMAGE, XLEASES_VERSION, DomainType, VolumeFormat, VolumeMetadata
from vdsm.storage.ports import ImageFile, QemuImg, QemuImgFailed, Steps

Stats = dict[str, os.stat_result]
_ORDER = ("leftover", "lease", "role", "capacity")  # records are changed under their leases


class Finding(Struct, frozen=True):
    """Something wrong: its kind in a word, where, and what. `mend` is there when it is safe to mend."""

    kind: str
    place: str
    text: str
    mend: Callable[[], object] | None = None


class SurveyedImage(Struct, frozen=True):
    """An image's readable records in the order of its chain, with its template's, what their files say, and faults."""

    image_id: str
    records: dict[str, VolumeMetadata]
    files: dict[str, ImageFile]
    stats: Stats
    findings: list[Finding]


class Survey:
    """Looks at one domain."""

    def __init__(self, domain: Domain, qemu_img: QemuImg) -> None:
        self._domain = domain
        self._qemu_img = qemu_img
        self._layout = FileDomainLayout(domain.backend.domain.path)
        self._step = domain.metadata.alignment_bytes
        self._is_shared = domain.backend.traits.type is not DomainType.LOCALFS
        self._has_external = self._is_shared and domain.metadata.version >= XLEASES_VERSION

    def find_all(self) -> Iterator[Finding]:
        """All that is wrong on the domain. Raises StorageDomainAccessError when it cannot be read at all."""
        yield from self._look_at_files()
        for name, status in sorted(_scan(self._layout.images).items()):
            place, is_removed = f"images/{name}", name.startswith(PURGED_PREFIX)
            if not stat.S_ISDIR(status.st_mode) or not is_uuid(name.removeprefix(PURGED_PREFIX)):
                yield Finding("stray", place, "no image; nothing looks at it")
            elif is_removed:
                yield Finding("leftover", place, "an image that was removed", self._clean)
            elif name != ISO_IMAGE:
                yield from _guard("image", place, (found for found in self.look_at_image(name).findings))

    def list_images(self) -> list[SurveyedImage]:
        """All images, each as `look_at_image` sees it."""
        return [self.look_at_image(image_id) for image_id in self._domain.backend.volumes.list_images()]

    def look_at_image(self, image_id: str) -> SurveyedImage:
        """One image, record by record and file by file."""
        stats = _scan(self._layout.get_image(image_id))
        findings = [*self._look_at_names(image_id, stats)]
        regular = {name: status for name, status in stats.items() if stat.S_ISREG(status.st_mode)}
        found: dict[str, VolumeMetadata] = {}
        for name in regular:
            volume_id = name.removesuffix(".meta")
            if volume_id != name and is_uuid(volume_id):
                try:
                    found[volume_id] = self._domain.images.read(image_id, volume_id)
                except NodeError as error:
                    findings.append(Finding("record", f"images/{image_id}/{name}", str(error)))
        records = {volume_id: found[volume_id] for volume_id in order_chain(found)}
        own = [volume_id for volume_id, record in records.items() if record.image_id == image_id]
        for volume_id in set(records) - set(own):
            if regular[f"{volume_id}.meta"].st_nlink == 1:
                text = f"it is of image {records[volume_id].image_id}"
                findings.append(Finding("record", f"images/{image_id}/{volume_id}.meta", text))
        if not own:
            findings.append(Finding("image", f"images/{image_id}", "it has no readable volume of its own"))
        files: dict[str, ImageFile] = {}
        faults = [*self._look_at_data(image_id, records, regular, files)]
        faults += find_faults(self._domain.domain_id, image_id, records)
        # What may be a part of a chain that cannot be read makes every correction a guess.
        is_sure = all(one.mend for one in findings) and all(f.right or f.kind == "illegal" for f in faults)
        findings += [self._judge(image_id, fault, is_sure) for fault in faults]
        for volume_id in own if self._is_shared else ():
            path = self._layout.get_lease(image_id, volume_id)
            make = partial(self._domain.backend.volumes.create_lease, image_id, volume_id)
            findings += self._look_at_lease(path, volume_id, 0, make)
        return SurveyedImage(image_id, records, files, regular, findings)

    def list_leases(self) -> Iterator[tuple[Path, DiskRecord]]:
        """Every record of sanlock's on the domain, with its file: hosts, the writer's, external ones, volumes'."""
        if not self._is_shared:
            return
        layout, step = self._layout, self._step
        spans = {layout.ids: (0, self._domain.metadata.block_size_bytes, step), layout.leases: (step, step, 2 * step)}
        spans |= {layout.xleases: (get_offset(0, step), step, get_offset(RECORDS, step))} if self._has_external else {}
        volumes, seen = self._domain.backend.volumes, set[str]()
        for image_id in volumes.list_images():
            for volume_id in volumes.list_records(image_id):
                if volume_id not in seen:  # a template is in its users' folders, too
                    spans[layout.get_lease(image_id, volume_id)] = (0, step, step)
                seen.add(volume_id)
        for path, span in spans.items():
            try:
                yield from ((path, one) for one in read_records(path, *span) if one.name)  # not where no host ever was
            except OSError:
                continue  # `find_all` tells why

    def _look_at_files(self) -> Iterator[Finding]:
        sizes = {"metadata": 1, **dict.fromkeys(MAILBOXES, MAILBOX_BYTES)}
        sizes |= {"ids": self._step, "leases": 2 * self._step} if self._is_shared else {"ids": 0, "leases": 0}
        sizes |= {"xleases": self._step + INDEX_BYTES} if self._has_external else {}
        found = _scan(self._layout.metadata.parent)
        for name, size_bytes in sizes.items():
            status = found.get(name)
            if status is None or not stat.S_ISREG(status.st_mode):
                yield Finding("layout", f"dom_md/{name}", "missing" if status is None else "not a file")
            elif status.st_size < size_bytes:
                yield Finding("layout", f"dom_md/{name}", f"{status.st_size} of at least {size_bytes} bytes")
        if "metadata.new" in found:
            yield Finding("leftover", "dom_md/metadata.new", "of a write that did not end", self._clean)
        if self._is_shared:
            yield from self._look_at_lease(self._layout.ids, "", 0)
            yield from self._look_at_lease(self._layout.leases, WRITER, self._step)
        if self._has_external and (opened := self._domain.backend.open_external_leases) is not None:
            place = "dom_md/xleases"
            yield from _guard("xlease", place, (Finding("xlease", place, text) for text in opened().find_faults()))

    def _look_at_lease(
        self, path: Path, name: str, begin_bytes: int, make: Callable[[], object] | None = None
    ) -> Iterator[Finding]:
        """Whether a lease, or without a name the first host's sign of life, is there; `make` where there is nothing."""
        place, domain_id = str(path.relative_to(self._layout.root)), self._domain.domain_id
        try:
            record = next(read_records(path, begin_bytes, self._step, begin_bytes + self._step), None)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            yield Finding("lease", place, str(error.strerror), make if is_missing else None)
            return
        if record is None:
            yield Finding("lease", place, "no lease", make)
        elif record.lockspace != domain_id or (record.name != name if name else not record.is_host):
            yield Finding("lease", place, f"a lease {record.name!r} of {record.lockspace!r}")

    def _look_at_names(self, image_id: str, stats: Stats) -> Iterator[Finding]:
        for name, status in sorted(stats.items()):
            place, stem = f"images/{image_id}/{name}", name.partition(".")[0]
            if is_uuid(stem) and name.endswith(".meta.new"):
                yield Finding("leftover", place, "of a write that did not end", self._clean)
            elif not is_uuid(stem) or name.removeprefix(stem) not in ("", ".meta", ".lease"):
                yield Finding("stray", place, "no volume; nothing looks at it")
            elif not stat.S_ISREG(status.st_mode):
                yield Finding("layout", place, "not a file")
            elif name == stem and f"{name}.meta" not in stats:
                is_draft = stat.S_IMODE(status.st_mode) == DRAFT_MODE or status.st_nlink > 1
                yield Finding("orphan", place, "half made; the next SPM removes it" if is_draft else "without a record")
            elif name.endswith(".meta") and (stem not in stats or status.st_size > RECORD_BYTES):
                yield Finding("record", place, "without data" if stem not in stats else f"{status.st_size} bytes")
            elif name.endswith(".lease") and not stats.keys() & {stem, f"{stem}.meta"}:
                yield Finding("leftover", place, "a lease of no volume", self._clean)

    def _look_at_data(
        self, image_id: str, records: dict[str, VolumeMetadata], regular: Stats, files: dict[str, ImageFile]
    ) -> Iterator[Fault]:
        for volume_id in records.keys() & regular.keys():
            record, file = records[volume_id], ImageFile("raw", regular[volume_id].st_size)
            try:
                if record.format is VolumeFormat.COW:
                    file = self._qemu_img.inspect(self._layout.get_volume(image_id, volume_id))
            except QemuImgFailed as error:
                yield Fault("data", volume_id, error.reason)
                continue
            files[volume_id] = file
            fault = find_header_fault(volume_id, record, file, records.get(record.parent_id))
            if fault is not None and record.image_id == image_id:
                yield fault

    def _judge(self, image_id: str, fault: Fault, is_sure: bool) -> Finding:
        place = "/".join(filter(None, ("images", image_id, fault.volume_id)))
        right = fault.right if is_sure else None
        mend = None if right is None else partial(self._change, image_id, fault.volume_id, right)
        return Finding(fault.kind, place, fault.text, mend)

    def _change(self, image_id: str, volume_id: str, right: VolumeMetadata) -> None:
        with self._domain.backend.volumes.hold_lease(image_id, volume_id):
            self._domain.images.change(image_id, volume_id, right)

    def _clean(self) -> None:
        self._domain.backend.leftovers.clean_temporaries()


def repair(survey: Survey, step: Steps = lambda _: None) -> Iterator[tuple[Finding, NodeError | None]]:
    """Mend all that is safe to mend, and tell of each how it went; whoever calls it is the domain's only writer.

    Each thing is mended as one: who is killed leaves the others as they were, and the next call finds them.
    """
    for finding in sorted((one for one in survey.find_all() if one.mend), key=lambda one: _ORDER.index(one.kind)):
        assert finding.mend is not None
        step(f"mend {finding.kind}")
        try:
            finding.mend()
        except NodeError as error:
            yield finding, error
        else:
            yield finding, None


def _guard(kind: str, place: str, look: Iterable[Finding]) -> list[Finding]:
    """What a look finds; one more finding, when it cannot be ended."""
    told: list[Finding] = []
    try:
        with io_failing_as(StorageDomainAccessError):
            told.extend(look)
    except NodeError as error:
        told.append(Finding(kind, place, str(error)))
    return told


def _scan(folder: Path) -> Stats:
    found: Stats = {}
    with io_failing_as(StorageDomainAccessError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed meanwhile
                found[entry.name] = entry.stat(follow_symlinks=False)
    return found
