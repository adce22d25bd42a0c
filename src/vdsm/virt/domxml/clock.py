"""The guest's clock and timers."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """`<clock>` that runs at an offset which the guest may change."""
    made = element("clock", offset="variable", adjustment=spec.time_offset_s)
    made.append(element("timer", name="rtc", tickpolicy="catchup"))
    made.append(element("timer", name="pit", tickpolicy="delay"))
    made.append(element("timer", name="hpet", present=False))
    if spec.hyperv:
        made.append(element("timer", name="hypervclock", present=True))
    return [made]
