"""Switches of the machine: ACPI and what Windows guests like to find."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """`<features>`, or nothing when none is on."""
    made = element("features")
    if spec.acpi:
        made.append(element("acpi"))
    if spec.hyperv:
        on = {"state": "on"}
        spinlocks = element("spinlocks", retries=8191, **on)
        made.append(element("hyperv", element("relaxed", **on), element("vapic", **on), spinlocks))
    return [made] if len(made) else []
