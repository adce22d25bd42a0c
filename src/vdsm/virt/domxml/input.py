"""Pointing devices."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """A USB tablet or a PS/2 mouse."""
    if spec.tablet:
        return [element("input", type="tablet", bus="usb")]
    return [element("input", type="mouse", bus="ps2")]
