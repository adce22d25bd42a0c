"""Documents that name one device to plug or unplug (facts §2.12), pure; acting on them is left to `devices`."""

from xml.etree.ElementTree import Element

from msgspec import Struct, field

from vdsm.core.errors import InvalidArgument
from vdsm.virt import hostedits
from vdsm.virt.devices.payload import PLACEHOLDER
from vdsm.virt.domain import DiskView, get_attribute, list_disk_views
from vdsm.virt.elements import parse_xml
from vdsm.virt.metadata import DeviceMetadata, MetadataInvalid, VmMetadata, find_metadata


class Plug(Struct, frozen=True):
    """One device, and what its metadata tells. `root` has the shape of a domain with this device alone."""

    root: Element
    device: Element
    metadata: VmMetadata = field(default_factory=VmMetadata)

    @property
    def alias(self) -> str:
        return get_alias(self.device)

    @property
    def disk(self) -> DiskView:
        """The disk as it would be in a domain."""
        [disk] = list_disk_views(self.root, self.metadata)
        return disk

    @property
    def mac_address(self) -> str:
        return get_attribute(self.device, "mac", "address")

    def find_metadata(self) -> DeviceMetadata | None:
        """What is told of the device itself."""
        if self.device.tag == "disk":
            return self.metadata.device(devtype="disk", name=self.disk.target)
        return self.metadata.device(mac_address=self.mac_address) if self.mac_address else None


def parse_plug(xml: str, tag: str) -> Plug:
    """Read a document with one device of that tag; raises InvalidArgument (91)."""
    try:
        root = parse_xml(xml)
        devices = root.findall("devices/*")
        if [device.tag for device in devices] != [tag]:
            raise ValueError(f"it must hold one {tag} in <devices>")
        plug = Plug(root, devices[0], find_metadata(root) or VmMetadata())
        if tag == "disk" and not plug.disk.target:
            raise ValueError("the disk has no target")
        plug.find_metadata()
    except (ValueError, MetadataInvalid) as error:
        raise InvalidArgument("xml", str(error)) from error
    reason = hostedits.check_supported(root)
    if get_attribute(root, "devices/disk/source", "file") == PLACEHOLDER:
        reason = "a disc of files is made for VMs that start"
    if reason is not None:
        raise InvalidArgument("xml", reason)
    return plug


def get_alias(device: Element) -> str:
    """The alias of a device, empty when it has none."""
    return get_attribute(device, "alias", "name")


def find_device(domain: Element, known: VmMetadata | None, plug: Plug) -> Element | None:
    """The device of a domain that the document means: by alias, else a disk by its volume, LUN or path, a card by its
    address. Several is none."""
    devices = domain.findall(f"devices/{plug.device.tag}")
    if plug.alias:
        found = [device for device in devices if get_alias(device) == plug.alias]
    elif plug.device.tag == "disk":
        targets = {disk.target for disk in list_disk_views(domain, known) if _is_same_disk(disk, plug.disk)}
        found = [device for device in devices if get_attribute(device, "target", "dev") in targets]
    elif plug.mac_address:
        wanted = plug.mac_address.lower()
        found = [device for device in devices if get_attribute(device, "mac", "address").lower() == wanted]
    else:
        found = []
    return found[0] if len(found) == 1 else None


def _is_same_disk(disk: DiskView, wanted: DiskView) -> bool:
    if wanted.volume is not None:
        return disk.volume is not None and disk.volume.image_id == wanted.volume.image_id
    if wanted.lun_id is not None:
        return disk.lun_id == wanted.lun_id
    return bool(wanted.path) and disk.path == wanted.path
