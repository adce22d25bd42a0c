"""Sound cards."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """One `<sound>` for each card."""
    return [element("sound", model=model) for model in spec.sounds]
