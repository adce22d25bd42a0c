"""The watchdog card."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """At most one `<watchdog>`."""
    if spec.watchdog is None:
        return []
    return [element("watchdog", model=spec.watchdog.model, action=spec.watchdog.action)]
