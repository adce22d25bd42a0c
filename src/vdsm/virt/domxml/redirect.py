"""USB devices of the viewer's machine."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """One `<redirdev>` for each redirection."""
    return [element("redirdev", bus="usb", type="spicevmc") for _ in range(spec.usb_redirections)]
