"""Values of the dictionary form: what was given, bounds, and places; what they mean is left to the files beside it."""

from typing import TypeVar
from xml.etree.ElementTree import Element

from msgspec import UNSET, UnsetType, structs

from vdsm.api.vm import DeviceAddress, DeviceSpec
from vdsm.core.errors import InvalidArgument
from vdsm.virt.elements import element

T = TypeVar("T")


def given(value: T | UnsetType, default: T) -> T:
    """The value, or the default when the caller gave none."""
    return default if value is UNSET else value


def at_least(name: str, value: int, least: int) -> int:
    """The value; raises InvalidArgument when it is less than that."""
    if value < least:
        raise InvalidArgument(name, f"must be at least {least}, not {value}")
    return value


def list_places(device: DeviceSpec) -> list[Element]:
    """`<boot>`, `<alias>` (libvirt takes only those of users, `ua-…`) and `<address>`, as far as given."""
    places = [] if device.boot_order is UNSET else [element("boot", order=device.boot_order)]
    if device.alias is not UNSET and device.alias.startswith("ua-"):
        places.append(element("alias", name=device.alias))
    return places + list_addresses(device.address)


def list_addresses(address: DeviceAddress | UnsetType) -> list[Element]:
    """`<address>`, if the caller wants a certain one."""
    if address is UNSET or address.type is UNSET:
        return []
    parts = {name: value for name, value in structs.asdict(address).items() if value is not UNSET}
    return [element("address", **parts)]
