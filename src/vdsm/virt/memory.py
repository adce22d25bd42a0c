"""Memory modules, for VMs that start and for those that run: their elements."""

from xml.etree.ElementTree import Element

from msgspec import UNSET, UnsetType

from vdsm.api.errors import MissingParameter
from vdsm.core.errors import InvalidArgument
from vdsm.virt.elements import element

_LARGEST_MODULE_MIB = 1 << 24
_MOST_NODES = 1 << 10


def build_module(size_mib: int | UnsetType, node: int | UnsetType) -> Element:
    """A module in a NUMA cell of the guest, the first one by default. Raises MissingParameter, InvalidArgument."""
    if size_mib is UNSET:
        raise MissingParameter("memory.size")
    cell = 0 if node is UNSET else node
    if not 0 < size_mib <= _LARGEST_MODULE_MIB:
        raise InvalidArgument("memory.size", f"must be between 1 and {_LARGEST_MODULE_MIB} MiB")
    if not 0 <= cell < _MOST_NODES:
        raise InvalidArgument("memory.node", f"must be between 0 and {_MOST_NODES - 1}")
    size = element("size", text=str(size_mib * 1024), unit="KiB")
    return element("memory", element("target", size, element("node", text=str(cell))), model="dimm")
