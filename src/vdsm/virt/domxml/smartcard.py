"""Smart card readers."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """The host's reader, or the viewer's over SPICE."""
    if spec.smartcard is None:
        return []
    if spec.smartcard == "host":
        return [element("smartcard", mode="host")]
    return [element("smartcard", mode="passthrough", type="spicevmc")]
