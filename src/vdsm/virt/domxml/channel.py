"""Ports for agents in the guest."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import Channel, VmSpec


def build(spec: VmSpec) -> list[Element]:
    """One `<channel>` for each port."""
    return [_channel(port) for port in spec.channels]


def _channel(port: Channel) -> Element:
    made = element("channel", type=port.type)
    if port.type == "unix":
        made.append(element("source", mode="bind", path=port.path))
    made.append(element("target", type="virtio", name=port.name))
    return made
