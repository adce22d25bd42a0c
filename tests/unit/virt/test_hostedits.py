"""What the host changes in a VM's XML before the start."""

from xml.etree.ElementTree import Element, fromstring

import pytest

from tests.unit.virt.builders import HOST, VM_ID, domain_xml
from vdsm.virt import hostedits
from vdsm.virt.domain import parse_domain, read_domain
from vdsm.virt.elements import set_child
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.ports import NetworkDisk, PreparedImage

FILE = PreparedImage("/rhev/image/volume", "file", "cow")


def domain(devices: str = "", extra: str = "") -> Element:
    return fromstring(domain_xml(devices=devices, extra=extra))


def disk(read: Element) -> Element:
    found = read.find("devices/disk")
    assert found is not None
    return found


def test_identity_placeholders_are_filled() -> None:
    entries = {
        "product": "OS-NAME:",
        "version": "OS-VERSION:",
        "serial": "HOST-SERIAL:",
        "uuid": VM_ID,
        "family": "OS-NAME:",
    }
    text = "".join(f'<entry name="{name}">{value}</entry>' for name, value in entries.items())
    read = domain(extra=f"<sysinfo type='smbios'><system>{text}</system></sysinfo>")
    hostedits.set_identity(read, HOST, None)
    found = {entry.get("name"): entry.text for entry in read.iterfind("sysinfo/system/entry")}
    assert found == {
        "product": HOST.os_name,
        "version": HOST.os_version,
        "serial": HOST.uuid,
        "uuid": VM_ID,
        "family": "OS-NAME:",
    }


def test_a_serial_of_the_caller_wins() -> None:
    read = domain(extra="<sysinfo><system><entry name='serial'>HOST-SERIAL:</entry></system></sysinfo>")
    hostedits.set_identity(read, HOST, "SN-1")
    assert read.findtext("sysinfo/system/entry") == "SN-1"


@pytest.mark.parametrize(("policy", "destroys"), [("destroy", True), ("restart", False)])
def test_reboot_policy_is_taken_out(policy: str, destroys: bool) -> None:
    read = domain(extra=f"<on_reboot>{policy}</on_reboot>")
    assert hostedits.take_reboot_policy(read) is destroys
    assert read.find("on_reboot") is None
    assert hostedits.take_reboot_policy(read) is False


def test_a_prepared_image_replaces_what_the_caller_guessed_and_nothing_else() -> None:
    read = domain(
        '<disk type="block" device="disk" snapshot="no"><source dev="/guess"/><target dev="vda" bus="virtio"/>'
        '<driver name="qemu" type="raw" cache="none" io="native"/><serial>s</serial></disk>'
    )
    hostedits.set_images(read, {"vda": FILE}, relabel=False)
    found, source, driver = disk(read), read.find("devices/disk/source"), read.find("devices/disk/driver")
    assert source is not None and driver is not None
    assert found.attrib == {"type": "file", "device": "disk", "snapshot": "no"}
    assert source.attrib == {"file": FILE.path}
    assert [child.attrib for child in source] == [{"relabel": "no", "model": "dac"}]
    assert driver.attrib == {"name": "qemu", "type": "qcow2", "cache": "none", "io": "native"}
    assert found.findtext("serial") == "s"


def test_paths_of_disks_are_found_wherever_they_are() -> None:
    read = domain(
        '<disk type="block"><source file="/a" dev="/b"/><target dev="vda"/>'
        '<backingStore type="file"><source file="/c"/><backingStore/></backingStore>'
        '<mirror><source dir="/d"/></mirror></disk>'
        '<disk type="file" device="cdrom"><source file=""/></disk><disk type="network"><source name="e"/></disk><disk/>'
    )
    assert hostedits.list_paths(read) == ["/a", "/b", "/c", "/d"]


def test_paths_of_what_is_no_disk_are_found_too() -> None:
    read = domain(
        '<serial type="file"><source path="/a"/></serial><input type="evdev"><source dev="/b"/></input>'
        '<memory model="nvdimm"><source><path> /c </path></source></memory>'
        '<filesystem><source dir="/shared"/></filesystem><interface><source dev="eth0"/></interface>'
    )
    system = read.find("os")
    system = set_child(read, "os") if system is None else system
    for name in ("kernel", "initrd", "nvram"):
        set_child(system, name).text = f"/{name}"
    set_child(set_child(system, "acpi"), "table").text = "/table"
    assert hostedits.list_paths(read) == ["/a", "/b", "/kernel", "/initrd", "/nvram", "/table", "/c"]


def test_relabelling_is_left_to_libvirt_when_asked() -> None:
    read = domain('<disk type="file"><target dev="vda"/></disk>')
    hostedits.set_images(read, {"vda": FILE}, relabel=True)
    assert read.find("devices/disk/source/seclabel") is None


def test_a_label_of_the_caller_stays() -> None:
    read = domain('<disk type="file"><source file="x"><seclabel model="selinux"/></source><target dev="vda"/></disk>')
    hostedits.set_images(read, {"vda": FILE}, relabel=False)
    assert [label.get("model") for label in read.iterfind("devices/disk/source/seclabel")] == ["selinux"]


def test_other_disks_and_floppies_keep_their_shape() -> None:
    read = domain(
        '<disk type="file" device="disk"><source file="/a"/><target dev="vdb"/></disk>'
        '<disk type="file" device="floppy"><source file="/b"/><target dev="fda"/></disk>'
    )
    hostedits.set_images(read, {"fda": FILE}, relabel=True)
    assert [source.attrib for source in read.iterfind("devices/disk/source")] == [{"file": "/a"}, {"file": FILE.path}]
    assert read.find("devices/disk/driver") is None


def test_a_network_disk_is_one_where_its_image_can_be() -> None:
    network = NetworkDisk("gluster", "vol/d/images/i/v", "gl1", "tcp")
    image = PreparedImage("/mnt/v", "file", "cow", network=network)
    sent = '<disk type="network"><source protocol="rbd" name="x"><host name="h"/><host name="i"/></source>{}</disk>'
    read = domain(sent.format('<target dev="vda"/>') + sent.format('<target dev="vdb"/>'))
    hostedits.set_images(read, {"vda": image, "vdb": FILE}, relabel=False)
    first, second = read.iterfind("devices/disk")
    source = first.find("source")
    assert first.get("type") == "network" and source is not None
    assert source.attrib == {"protocol": "gluster", "name": "vol/d/images/i/v"}
    assert [host.attrib for host in source.iterfind("host")] == [{"name": "gl1", "port": "0", "transport": "tcp"}]
    assert source.find("seclabel") is not None
    assert (second.get("type"), [one.attrib for one in second.iter("source")]) == ("file", [{"file": FILE.path}])
    assert second.find("source/host") is None
    read = domain('<disk type="file"><target dev="vda"/></disk>')
    hostedits.set_images(read, {"vda": image}, relabel=False)
    assert [source.attrib for source in read.iterfind("devices/disk/source")] == [{"file": "/mnt/v"}]


def test_leases_of_volumes_get_their_place() -> None:
    place = "<target path='LEASE-PATH:{}:d' offset='LEASE-OFFSET:{}:d'/>"
    lease = "<lease><key>{}</key><lockspace>d</lockspace>" + place + "</lease>"
    read = domain(lease.format("v", "v", "v") + lease.format("w", "w", "w"))
    top = {"domainID": "d", "volumeID": "v", "leasePath": "/leases", "leaseOffset": "1048576"}
    images = {"vda": PreparedImage("/p", "file", "raw", chain=({"volumeID": "base"}, top))}
    assert hostedits.list_open_leases(read) == [("v", "d"), ("w", "d")]
    hostedits.set_leases(read, hostedits.find_volume_leases(images))
    assert hostedits.list_open_leases(read) == [("w", "d")]
    targets = [target.attrib for target in read.iterfind("devices/lease/target")]
    assert targets == [
        {"path": "/leases", "offset": "1048576"},
        {"path": "LEASE-PATH:w:d", "offset": "LEASE-OFFSET:w:d"},
    ]


@pytest.mark.parametrize(
    ("cpu", "edited"),
    [
        ("<cpu mode='host-passthrough' check='none' migratable='on'/>", {"mode": "maximum"}),
        ("<cpu mode='host-model'><feature name='x'/></cpu>", {"mode": "maximum"}),
        ("<cpu match='exact'><model>Skylake-Client</model><feature name='x' policy='require'/></cpu>", {}),
        ("<cpu><topology sockets='1' cores='1' threads='1'/></cpu>", {}),
    ],
)
def test_without_kvm_the_cpu_is_one_that_emulation_can_give(cpu: str, edited: dict[str, str]) -> None:
    read = domain(extra=cpu)
    hostedits.avoid_kvm(read)
    found = read.find("cpu")
    assert found is not None
    assert read.get("type") == "qemu" and found.attrib == edited
    assert found.find("feature") is None
    assert {child.tag for child in found} <= {"model", "topology"}


def test_what_wants_no_kvm_stays_as_it_is() -> None:
    read = domain(extra="<cpu mode='host-passthrough' check='none'/>")
    read.set("type", "qemu")
    hostedits.avoid_kvm(read)
    assert read.find("cpu").attrib == {"mode": "host-passthrough", "check": "none"}  # type: ignore[union-attr]


def test_pci_devices_are_libvirts_to_take_and_to_give_back() -> None:
    read = domain(
        '<hostdev type="pci" managed="no"/><hostdev type="usb"/><hostdev type="mdev"/><interface type="hostdev"/>'
    )
    hostedits.manage_host_devices(read)
    assert [device.get("managed") for device in read.iterfind("devices/hostdev")] == ["yes", None, None]
    assert read.find("devices/interface").get("managed") == "yes"  # type: ignore[union-attr]


def test_floppies_lose_what_qemu_refuses() -> None:
    read = domain(
        "".join(f'<disk device="{kind}"><driver error_policy="report"/></disk>' for kind in ("floppy", "cdrom"))
    )
    hostedits.drop_floppy_policies(read)
    assert [driver.get("error_policy") for driver in read.iterfind("devices/disk/driver")] == [None, "report"]


def test_the_placeholder_carries_identity_and_metadata() -> None:
    view = parse_domain(domain_xml())
    placeholder = read_domain(hostedits.build_placeholder(view, VmMetadata({"owner": "/x"})))
    assert (placeholder.vm_id, placeholder.name, placeholder.disks) == (VM_ID, "vm1", ())
    assert placeholder.metadata is not None and placeholder.metadata.owner == "/x"


@pytest.mark.parametrize(
    ("devices", "is_supported"),
    [
        ('<graphics type="vnc" passwdValidTo="1970-01-01T00:00:01"/>', True),
        ('<graphics type="vnc"/>', False),
        ('<graphics type="spice"/>', True),
        ('<disk><address type="drive" controller="255"/><target dev="sdzzz"/></disk>', True),
        ('<disk><address type="drive" controller="256"/></disk>', False),
        ('<disk><address type="drive" controller="0x100"/></disk>', False),
        ('<disk><address type="drive" controller="many"/></disk>', True),
        ('<disk><target dev="sdaaaa"/></disk>', False),
    ],
)
def test_what_this_host_cannot_start(devices: str, is_supported: bool) -> None:
    assert (hostedits.check_supported(domain(devices)) is None) is is_supported


@pytest.mark.parametrize("tag", ["vcpu", "iothreads"])
def test_counts_that_would_cost_libvirt_all_memory_are_refused(tag: str) -> None:
    read = fromstring(f"<domain><{tag}> 4096 </{tag}></domain>")
    assert hostedits.check_supported(read) is None
    read = fromstring(f"<domain><{tag}>4294967295</{tag}></domain>")
    assert hostedits.check_supported(read) == f"{tag} is 4294967295, more than 4096"
