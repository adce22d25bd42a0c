"""What the VM boots: firmware order, boot menu or a kernel from the host; disks' own boot order is left to `disk`."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import HostFacts, VmSpec


def build(spec: VmSpec, host: HostFacts) -> list[Element]:
    """`<os>`; devices with a boot order of their own rule out the global order, so that is left out then."""
    os = element("os", element("type", text="hvm", arch=host.arch, machine=spec.machine))
    orders = [disk.boot_order for disk in spec.disks] + [card.boot_order for card in spec.interfaces]
    if all(order is None for order in orders):
        os.extend([element("boot", dev=device) for device in spec.boot_devices])
    if spec.boot_menu:
        os.append(element("bootmenu", enable=True, timeout=10000))
    if spec.kernel is not None:
        os.append(element("kernel", text=spec.kernel.kernel))
        if spec.kernel.initrd:
            os.append(element("initrd", text=spec.kernel.initrd))
        if spec.kernel.arguments:
            os.append(element("cmdline", text=spec.kernel.arguments))
    if host.arch == "x86_64":
        os.append(element("smbios", mode="sysinfo"))
    return [os]
