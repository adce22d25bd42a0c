"""The VM's SMBIOS identity (facts §2.2)."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import HostFacts, VmSpec


def build(spec: VmSpec, host: HostFacts) -> list[Element]:
    """`<sysinfo>` on x86, where SMBIOS exists."""
    if host.arch != "x86_64":
        return []
    entries = {
        "manufacturer": host.manufacturer,
        "product": host.os_name,
        "version": host.os_version,
        "serial": spec.serial or host.uuid,
        "uuid": spec.vm_id,
    }
    system = element("system", *(element("entry", name=name, text=text) for name, text in entries.items() if text))
    return [element("sysinfo", system, type="smbios")]
