"""The network cards of the dictionary form (facts §2.2, network §6.3 and §9), new and old style."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from msgspec import UNSET, UnsetType, structs

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import Bandwidth, DeviceParameters, DeviceSpec, VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.virt.elements import element
from vdsm.virt.legacy.host import build_pci_address
from vdsm.virt.legacy.values import given, list_places
from vdsm.virt.metadata import DeviceMetadata

_BACKENDS = {"true": "vhost", "false": "qemu"}


def build_card(device: DeviceSpec, custom: Mapping[str, str]) -> Element:
    """A device of type `interface`; `custom` are the VM's properties. Raises CreateFailed, InvalidArgument."""
    kind = given(device.device, "bridge")
    if kind in ("hostdev", "sriov"):
        return _host_card(device)
    if kind != "bridge":
        raise CreateFailed(f"unknown kind of network card {kind[:40]!r}")
    if given(device.port_mirroring, []):
        raise CreateFailed(f"network card {given(device.mac_address, '')}: mirroring of ports is not supported")
    mac, model, bridge = (given(text, "") for text in (device.mac_address, device.nic_model, device.network))
    card = _card(mac, model, bridge, is_up=given(device.link_active, True))
    card.extend(_filter(device))
    if model in ("", "pv", "virtio"):
        card.extend(_driver(device, bridge, custom))
    if custom.get("sndbuf"):
        card.append(element("tune", element("sndbuf", text=custom["sndbuf"])))
    wishes = given(device.parameters, DeviceParameters())
    ways = [*_limits("inbound", wishes.inbound), *_limits("outbound", wishes.outbound)]
    card.extend([element("bandwidth", *ways)] if ways else [])
    card.extend(list_places(device))
    return card


def _host_card(device: DeviceSpec) -> Element:
    """A card of the host, mostly a virtual function, that libvirt gives the address and the VLAN."""
    address = build_pci_address(given(device.host_device, ""), type="pci")
    if address is None:
        raise CreateFailed("a network card of the host needs hostdev, such as pci_0000_05_10_0")
    mac, tag = given(device.mac_address, ""), given(device.parameters, DeviceParameters()).vlan_tag
    return element(
        "interface",
        *([element("mac", address=mac)] if mac else []),
        element("source", address),
        *([] if tag is UNSET else [element("vlan", element("tag", id=tag))]),
        *list_places(device),
        type="hostdev",
        managed="yes",
    )


def tell_card(device: DeviceSpec) -> list[DeviceMetadata]:
    """What the metadata keeps of the card: its custom properties, for hooks."""
    if not device.mac_address or not device.custom:
        return []
    told = DeviceMetadata({"mac_address": device.mac_address}, {"network": given(device.network, "")})
    return [told.with_part("custom", device.custom)]


def build_old_cards(old: VmParameters) -> list[Element]:
    """Comma lists of addresses, models and bridges; the shorter ones repeat their last value.

    But for addresses: libvirt makes one up, as an address given twice would be two cards with one address.
    """
    addresses, models, bridges = (_split(text) for text in (old.mac_addresses, old.nic_models, old.bridges))
    count = max(len(addresses), len(bridges))
    addresses += [""] * count
    return [_card(addresses[index], _padded(models, index), _padded(bridges, index)) for index in range(count)]


def _card(mac_address: str, model: str, bridge: str, *, is_up: bool = True) -> Element:
    """A network card; one without a bridge gets a tap that leads nowhere, with the link down."""
    return element(
        "interface",
        *([element("mac", address=mac_address)] if mac_address else []),
        *([element("source", bridge=bridge)] if bridge else []),
        element("model", type="virtio" if model in ("", "pv") else model),
        element("link", state="up" if bridge and is_up else "down"),
        type="bridge" if bridge else "ethernet",
    )


def _filter(device: DeviceSpec) -> list[Element]:
    if not device.filter:
        return []
    parameters = [element("parameter", name=one.name, value=one.value) for one in given(device.filter_parameters, [])]
    return [element("filterref", *parameters, filter=device.filter)]


def _driver(device: DeviceSpec, bridge: str, custom: Mapping[str, str]) -> list[Element]:
    """Queues are vhost's; the VM's property `vhost` names a backend for the cards of a network."""
    queues = given(device.custom, {}).get("queues")
    wanted = dict(part.partition(":")[::2] for part in custom.get("vhost", "").replace(" ", "").split(",") if part)
    backend = "vhost" if queues else _BACKENDS.get(wanted.get(bridge, "").lower())
    return [element("driver", name=backend, queues=queues or None)] if backend else []


def _limits(way: str, wanted: Bandwidth | UnsetType) -> list[Element]:
    """libvirt needs an average; 0 of anything is no limit."""
    figures = {} if wanted is UNSET else {name: value for name, value in structs.asdict(wanted).items() if value}
    if any(value < 0 for value in figures.values()):
        raise InvalidArgument("specParams", "a rate is negative")
    made = Element(way, {name: str(value) for name, value in figures.items()})
    return [made] if "average" in figures else []


def _split(text: str | UnsetType) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _padded(values: list[str], index: int) -> str:
    return values[min(index, len(values) - 1)] if values else ""
