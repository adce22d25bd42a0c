"""What domain XML tells: devices, units, and a hash that follows the devices only."""

import pytest

from tests.unit.virt.builders import VM_ID, domain_xml
from vdsm.virt.domain import DomainInvalid, parse_domain

GRAPHICS = '<graphics type="vnc" port="5900" {}><listen type="address" address="192.0.2.1"/></graphics>'
DISK = '<disk type="{}" device="disk"><source {}/><target dev="vda" bus="virtio"/><alias name="ua-1"/></disk>'


@pytest.mark.parametrize(
    ("kind", "source", "path"),
    [("file", 'file="/a"', "/a"), ("block", 'dev="/dev/a"', "/dev/a"), ("network", 'name="v/a" protocol="x"', "v/a")],
)
def test_disks(kind: str, source: str, path: str) -> None:
    disk = parse_domain(domain_xml(devices=DISK.format(kind, source))).disks[0]
    assert (disk.kind, disk.path, disk.target, disk.bus, disk.alias, disk.volume) == (
        kind,
        path,
        "vda",
        "virtio",
        "ua-1",
        None,
    )


def test_displays_print_what_libvirt_prints() -> None:
    devices = GRAPHICS.format("") + '<graphics type="spice" port="-1" tlsPort="5901"/>'
    first, second = parse_domain(domain_xml(devices=devices)).graphics
    assert (first.type, first.port, first.tls_port, first.address) == ("vnc", "5900", "", "192.0.2.1")
    assert (second.port, second.tls_port, second.address) == ("-1", "5901", "0")


@pytest.mark.parametrize(("unit", "kib"), [("KiB", 2048), ("MiB", 2097152), ("b", 2), ("KB", 2000), ("GiB", 2**31)])
def test_memory_in_every_unit(unit: str, kib: int) -> None:
    assert parse_domain(domain_xml().replace('"KiB">65536', f'"{unit}">2048')).memory_kib == kib


def test_vcpus_now_and_at_most() -> None:
    view = parse_domain(domain_xml().replace("<vcpu>1", '<vcpu current="2">8'))
    assert (view.cpus, view.maximum_cpus) == (2, 8)


@pytest.mark.parametrize(
    ("clock", "offset_s"),
    [("<clock offset='variable' adjustment='-5'/>", -5), ("<clock adjustment='reset'/>", 0), ("", 0)],
)
def test_clock(clock: str, offset_s: int) -> None:
    assert parse_domain(domain_xml(extra=clock)).time_offset_s == offset_s


def test_the_hash_follows_devices_and_guest_names_alone() -> None:
    def hash_of(graphics: str = "", metadata: str = "", devices: str = "") -> str:
        return parse_domain(domain_xml(metadata=metadata, devices=GRAPHICS.format(graphics) + devices)).hash

    guest_name = '<device devtype="disk" name="vda"><guestName>/dev/vda</guestName></device>'
    plain = hash_of()
    assert hash_of('passwd="*****" passwdValidTo="2020-01-01T00:00:00" connected="keep"') == plain
    assert hash_of(metadata='<startTime type="float">1</startTime>') == plain
    assert (
        len({plain, hash_of('keymap="de"'), hash_of(metadata=guest_name), hash_of(devices="<sound model='ac97'/>")})
        == 4
    )
    assert int(plain) != 0


@pytest.mark.parametrize("xml", ["", "<domain>", "<domain/>", domain_xml("x"), domain_xml().replace("65536", "x")])
def test_what_cannot_be_understood(xml: str) -> None:
    with pytest.raises(DomainInvalid):
        parse_domain(xml)


def test_ids_are_canonical() -> None:
    assert parse_domain(domain_xml(VM_ID.upper().replace("-", ""))).vm_id == VM_ID
