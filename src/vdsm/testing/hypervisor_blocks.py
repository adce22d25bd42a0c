"""Layers of disks of the hypervisor that is only memory: what libvirt's XML tells of them; no data is moved."""

from typing import Protocol
from xml.etree.ElementTree import Element, SubElement

from defusedxml.ElementTree import fromstring

from vdsm.testing import hypervisor_xml
from vdsm.virt import ports

_INVALID_ARGUMENT, _CONFIG_UNSUPPORTED, _NO_AGENT = 8, 67, 86


class _Domain(Protocol):
    definition: Element

    @property
    def xml(self) -> Element: ...


class _World(Protocol):
    agents: set[str]
    held: set[str]

    async def _find(self, method: str, vm_id: str) -> _Domain: ...

    async def _find_active(self, method: str, vm_id: str) -> _Domain: ...


class FakeBlocks:
    """Fits `virt.ports.BlockChanger`."""

    async def snapshot(self: _World, vm_id: str, xml: str) -> None:
        domain = await self._find("snapshot", vm_id)
        named = {disk.get("name", ""): disk for disk in fromstring(xml).iterfind("disks/disk")}
        for disk in domain.xml.iterfind("devices/disk"):
            target = _find(disk, "target").get("dev", "")
            if target not in named and disk.get("snapshot") != "no" and disk.find("readonly") is None:
                raise ports.HypervisorRefused(f"missing existing file for disk {target}", _CONFIG_UNSUPPORTED)
        new = {target: disk for target, disk in named.items() if disk.get("snapshot") == "external"}
        for xml_of in {id(xml): xml for xml in (domain.xml, domain.definition)}.values():
            for disk, top in [(find_disk(xml_of, target), top) for target, top in new.items()]:
                add_layer(disk, top)

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
    source = Element("source", {**_find(new, "source").attrib, "index": str(len(list(store.iter("backingStore"))))})
    disk.insert(place, source)
    disk.insert(place + 1, store)
    disk.set("type", new.get("type", "file"))
    _find(disk, "driver").set("type", "qcow2")


def _find(parent: Element, tag: str) -> Element:
    found = parent.find(tag)
    return SubElement(parent, tag) if found is None else found


def _check_agent(world: _World, vm_id: str) -> None:
    if vm_id not in world.agents:
        raise ports.HypervisorRefused("Guest agent is not responding: QEMU guest agent is not connected", _NO_AGENT)
