"""Layers of disks of the hypervisor that is only memory: what libvirt's XML tells of them; no data is moved."""

from collections.abc import Mapping
from typing import Protocol
from xml.etree.ElementTree import Element, SubElement

from defusedxml.ElementTree import fromstring
from msgspec import Struct

from vdsm.testing import hypervisor_xml
from vdsm.virt import ports

_INVALID_ARGUMENT, _OPERATION_INVALID, _CONFIG_UNSUPPORTED, _BLOCK_COPY_ACTIVE, _NO_AGENT = 8, 55, 67, 83, 86
_COMPLETED, _FAILED, _CANCELED, _READY = range(4)  # virConnectDomainEventBlockJobStatus
_COPY, _COMMIT, _ACTIVE_COMMIT = 2, 3, 4  # virDomainBlockJobType
_JOB_BYTES = 1 << 20
_LARGEST_BYTES = 1 << 50


class _Domain(Protocol):
    definition: Element

    @property
    def xml(self) -> Element: ...


class FakeBlockJob(Struct):
    """A job that writes a disk's layers from `top` down into `base`; layers by their indexes."""

    top: str
    base: str
    bandwidth_mib: int
    active: bool
    done_bytes: int = 0
    copies: bool = False


class _World(Protocol):
    agents: set[str]
    held: set[str]
    saved: dict[str, str]
    block_jobs: dict[tuple[str, str], FakeBlockJob]
    blocks_move: bool

    @property
    def domains(self) -> Mapping[str, _Domain]: ...

    def emit(self, event: ports.HypervisorEvent) -> None: ...

    def finish_block_job(self, vm_id: str, target: str, *, fails: bool = False) -> None: ...

    async def _find(self, method: str, vm_id: str) -> _Domain: ...

    async def _find_active(self, method: str, vm_id: str) -> _Domain: ...


class FakeBlocks:
    """Fits `virt.ports.BlockChanger`."""

    async def snapshot(self: _World, vm_id: str, xml: str, *, has_memory: bool = False) -> None:
        domain = await self._find("snapshot", vm_id)
        memory = fromstring(xml).find("memory")
        if (memory is not None) is not has_memory:
            raise ports.HypervisorRefused("memory is told of in one place only", _INVALID_ARGUMENT)
        named = {disk.get("name", ""): disk for disk in fromstring(xml).iterfind("disks/disk")}
        for disk in domain.xml.iterfind("devices/disk"):
            target = _find(disk, "target").get("dev", "")
            if target not in named and disk.get("snapshot") != "no" and disk.find("readonly") is None:
                raise ports.HypervisorRefused(f"missing existing file for disk {target}", _CONFIG_UNSUPPORTED)
        new = {target: disk for target, disk in named.items() if disk.get("snapshot") == "external"}
        if any((vm_id, target) in self.block_jobs for target in new):
            raise ports.HypervisorRefused("a disk has an active block job", _CONFIG_UNSUPPORTED)
        if memory is not None:
            self.saved[memory.get("file", "")] = hypervisor_xml.format_xml(domain.xml)
        for xml_of in {id(xml): xml for xml in (domain.xml, domain.definition)}.values():
            for disk, top in [(find_disk(xml_of, target), top) for target, top in new.items()]:
                add_layer(disk, top)

    async def commit_blocks(
        self: _World, vm_id: str, target: str, base: str, top: str, bandwidth_mib: int, *, active: bool
    ) -> None:
        domain = await self._find_active("commit_blocks", vm_id)
        disk = find_disk(domain.xml, target)
        if (vm_id, target) in self.block_jobs:
            raise ports.HypervisorRefused(f"disk '{target}' already in active block job", _OPERATION_INVALID)
        indexes = [index for index, _ in _list_layers(disk)]
        upper, lower = (name.removeprefix(f"{target}[").removesuffix("]") for name in (top, base))
        if upper not in indexes or lower not in indexes[indexes.index(upper) + 1 :]:
            raise ports.HypervisorRefused(f"'{base}' does not lie below '{top}'", _INVALID_ARGUMENT)
        self.block_jobs[vm_id, target] = FakeBlockJob(upper, lower, bandwidth_mib, active)
        if active:
            source = dict(_list_layers(disk))[lower].attrib
            SubElement(SubElement(disk, "mirror", {"job": "active-commit"}), "source", source)
        if self.blocks_move:
            self.finish_block_job(vm_id, target)

    async def copy_blocks(self: _World, vm_id: str, target: str, xml: str) -> None:
        domain = await self._find_active("copy_blocks", vm_id)
        disk = find_disk(domain.xml, target)
        if (vm_id, target) in self.block_jobs:
            raise ports.HypervisorRefused(f"disk '{target}' already in active block job", _OPERATION_INVALID)
        self.block_jobs[vm_id, target] = FakeBlockJob("", "", 0, True, copies=True)
        SubElement(disk, "mirror", {"job": "copy"}).append(_find(fromstring(xml), "source"))
        if self.blocks_move:
            self.finish_block_job(vm_id, target)

    async def resize_block(self: _World, vm_id: str, target: str, size_bytes: int) -> int:
        disk = find_disk((await self._find_active("resize_block", vm_id)).xml, target)
        if (vm_id, target) in self.block_jobs:
            raise ports.HypervisorRefused(f"disk '{target}' has an active block job", _OPERATION_INVALID)
        if size_bytes > _LARGEST_BYTES:
            raise ports.HypervisorRefused(f"size {size_bytes} is too large", _INVALID_ARGUMENT)
        size_bytes = -(-size_bytes // 512) * 512
        disk.set("fake-size", str(size_bytes))
        return size_bytes

    async def find_block_job(self: _World, vm_id: str, target: str) -> ports.BlockJobFigures | None:
        await self._find_active("find_block_job", vm_id)
        job = self.block_jobs.get((vm_id, target))
        return None if job is None else ports.BlockJobFigures(job.done_bytes, _JOB_BYTES, job.bandwidth_mib)

    async def end_block_job(self: _World, vm_id: str, target: str, *, pivot: bool) -> None:
        domain = await self._find_active("end_block_job", vm_id)
        job = self.block_jobs.get((vm_id, target))
        if job is None:
            raise ports.HypervisorRefused(f"no active block job on disk '{target}'", _OPERATION_INVALID)
        if pivot and (not job.active or job.done_bytes < _JOB_BYTES):
            raise ports.HypervisorRefused(f"disk '{target}' not ready for pivot yet", _BLOCK_COPY_ACTIVE)
        for xml in (domain.xml, domain.definition) if pivot else ():
            disk = find_disk(xml, target)
            if job.copies:
                source = _find(_find(find_disk(domain.xml, target), "mirror"), "source")
                _find(disk, "source").set("file", source.get("file", ""))
            elif xml is domain.xml:
                drop_layers(disk, job.top, job.base)
            else:
                _find(disk, "source").set("file", _find(find_disk(domain.xml, target), "source").get("file", ""))
        disk = find_disk(domain.xml, target)
        disk.remove(_find(disk, "mirror"))
        del self.block_jobs[vm_id, target]
        self.emit(_tell(vm_id, target, job, _COMPLETED if pivot else _CANCELED))

    def finish_block_job(self: _World, vm_id: str, target: str, *, fails: bool = False) -> None:
        """All data of the disk's job is where it is to be, or its job fails."""
        job, disk = self.block_jobs[vm_id, target], find_disk(self.domains[vm_id].xml, target)
        job.done_bytes = _JOB_BYTES
        if fails or not job.active:
            if mirror := disk.findall("mirror"):
                disk.remove(mirror[0])
            elif not fails:
                drop_layers(disk, job.top, job.base)
            del self.block_jobs[vm_id, target]
            self.emit(_tell(vm_id, target, job, _FAILED if fails else _COMPLETED))
            return
        _find(disk, "mirror").set("ready", "yes")
        self.emit(_tell(vm_id, target, job, _READY))

    async def freeze_filesystems(self: _World, vm_id: str) -> None:
        await self._find_active("freeze_filesystems", vm_id)
        _check_agent(self, vm_id)
        self.held.add(vm_id)

    async def thaw_filesystems(self: _World, vm_id: str) -> None:
        await self._find_active("thaw_filesystems", vm_id)
        _check_agent(self, vm_id)
        self.held.discard(vm_id)


def find_disk(domain: Element, target: str) -> Element:
    """The disk of that name; HypervisorRefused without it."""
    for disk in domain.iterfind("devices/disk"):
        if hypervisor_xml.is_at(disk, target) and disk.find("source") is not None:
            return disk
    raise ports.HypervisorRefused(f"no disk named '{target}'", _CONFIG_UNSUPPORTED)


def add_layer(disk: Element, new: Element) -> None:
    """Put the new source on top of what the disk has."""
    old, below = _find(disk, "source"), disk.find("backingStore")
    store = Element("backingStore", {"type": disk.get("type", "file"), "index": old.attrib.pop("index", "1")})
    SubElement(store, "format", {"type": _find(disk, "driver").get("type", "raw")})
    store.append(old)
    store.append(Element("backingStore") if below is None else below)
    place = list(disk).index(old)
    for gone in (old, *([] if below is None else [below])):
        disk.remove(gone)
    highest = max(int(layer.get("index", "0")) for layer in store.iter("backingStore"))
    source = Element("source", {**_find(new, "source").attrib, "index": str(highest + 1)})
    disk.insert(place, source)
    disk.insert(place + 1, store)
    disk.set("type", new.get("type", "file"))
    _find(disk, "driver").set("type", "qcow2")


def drop_layers(disk: Element, top: str, base: str) -> None:
    """Take the layers from the top down to above the base out of the chain."""
    stores = list(disk.iter("backingStore"))
    lower = next(store for store in stores if store.get("index") == base)
    if _find(disk, "source").get("index") == top:
        source = _find(lower, "source")
        source.set("index", base)
        place = list(disk).index(_find(disk, "source"))
        for gone in [*disk.findall("source"), *disk.findall("backingStore")]:
            disk.remove(gone)
        disk.insert(place, source)
        disk.extend(lower.findall("backingStore"))
        return
    for parent in (disk, *stores):
        child = parent.find("backingStore")
        if child is not None and child.get("index") == top:
            parent.remove(child)
            parent.append(lower)


def _list_layers(disk: Element) -> list[tuple[str, Element]]:
    """Indexes and sources, top first."""
    first = _find(disk, "source")
    below = [(store.get("index", ""), _find(store, "source")) for store in disk.iter("backingStore") if len(store)]
    return [(first.get("index", "1"), first), *below]


def _tell(vm_id: str, target: str, job: FakeBlockJob, status: int) -> ports.HypervisorEvent:
    kind = _COPY if job.copies else _ACTIVE_COMMIT if job.active else _COMMIT
    return ports.HypervisorEvent(vm_id, ports.EventKind.BLOCK_JOB, (kind, status), names=(target,))


def _find(parent: Element, tag: str) -> Element:
    found = parent.find(tag)
    return SubElement(parent, tag) if found is None else found


def _check_agent(world: _World, vm_id: str) -> None:
    if vm_id not in world.agents:
        raise ports.HypervisorRefused("Guest agent is not responding: QEMU guest agent is not connected", _NO_AGENT)
