"""The memory balloon."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec

STATS_PERIOD_S = 5


def build(spec: VmSpec) -> list[Element]:
    """A balloon that reports the guest's memory every few seconds; none must be said, or libvirt adds one."""
    if spec.balloon is None or spec.balloon == "none":
        return [element("memballoon", model="none")]
    return [element("memballoon", element("stats", period=STATS_PERIOD_S), model=spec.balloon)]
