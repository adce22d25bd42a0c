"""Network cards on bridges that exist."""

from xml.etree.ElementTree import Element

from vdsm.virt.domxml import address
from vdsm.virt.elements import element
from vdsm.virt.spec import Interface, VmSpec


def build(spec: VmSpec) -> list[Element]:
    """One `<interface>` for each card; one without a bridge gets a tap that leads nowhere, with the link down."""
    return [_interface(card) for card in spec.interfaces]


def _interface(card: Interface) -> Element:
    plugged = bool(card.bridge)
    made = element("interface", type="bridge" if plugged else "ethernet")
    if card.mac_address:
        made.append(element("mac", address=card.mac_address))
    if plugged:
        made.append(element("source", bridge=card.bridge))
    made.append(element("model", type=card.model))
    made.append(element("link", state="up" if plugged and card.link_up else "down"))
    made.extend(address.build(card.address, card.alias, card.boot_order))
    return made
