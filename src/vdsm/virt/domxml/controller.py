"""Bus controllers that libvirt would not add by itself, or not like this."""

from xml.etree.ElementTree import Element

from vdsm.virt.domxml import address
from vdsm.virt.elements import element
from vdsm.virt.spec import Controller, VmSpec


def build(spec: VmSpec) -> list[Element]:
    """One `<controller>` for each."""
    return [_controller(bus) for bus in spec.controllers]


def _controller(bus: Controller) -> Element:
    made = element("controller", type=bus.type, index=bus.index, model=bus.model, ports=bus.ports)
    made.extend(address.build(bus.address))
    return made
