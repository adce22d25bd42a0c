"""Guest memory and room for more of it; NUMA cells are left to `cpu`."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """`<maxMemory>` when memory may be plugged later, `<memory>` and `<currentMemory>`, in KiB."""
    size_kib = spec.memory.size_mib * 1024
    made = [
        element("memory", text=str(size_kib), unit="KiB"),
        element("currentMemory", text=str(size_kib), unit="KiB"),
    ]
    maximum_mib = spec.memory.maximum_mib
    if maximum_mib is not None and maximum_mib > spec.memory.size_mib:
        made.insert(0, element("maxMemory", text=str(maximum_mib * 1024), unit="KiB", slots=spec.memory.slots))
    return made
