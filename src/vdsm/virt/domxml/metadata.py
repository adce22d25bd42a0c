"""What the VM carries with it in libvirt: which volumes its disks are, custom properties, wishes of the client."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.metadata import DeviceMetadata, VmMetadata, set_metadata
from vdsm.virt.spec import Disk, VmSpec, VolumeRef


def build(spec: VmSpec) -> list[Element]:
    """`<metadata>` with our `vm` element; the owner and the start time are added when the VM starts."""
    values: dict[str, str | int | float | bool] = {}
    if spec.launch_paused:
        values["launchPaused"] = True
    if spec.memory.guaranteed_mib is not None:
        values["memGuaranteedSize"] = spec.memory.guaranteed_mib
    devices = tuple(_device(disk, disk.volume) for disk in spec.disks if disk.volume is not None)
    carrier = element("domain")
    set_metadata(carrier, VmMetadata(values, devices, spec.custom))
    return list(carrier)


def _device(disk: Disk, volume: VolumeRef) -> DeviceMetadata:
    ids = {
        "poolID": volume.pool_id,
        "domainID": volume.domain_id,
        "imageID": volume.image_id,
        "volumeID": volume.volume_id,
    }
    return DeviceMetadata({"devtype": "disk", "name": disk.target}, {**ids, "format": disk.format})
