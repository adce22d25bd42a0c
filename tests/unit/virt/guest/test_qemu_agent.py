"""Answers of the qemu agent: what they tell, and that whatever comes is read within bounds."""

import json

import pytest
from msgspec import UNSET

from vdsm.api.guest import GuestInterface, GuestMount, GuestOs, GuestPciDevice, GuestTimezone
from vdsm.virt.guest import qemu_agent
from vdsm.virt.guest.figures import LONGEST_TEXT, MOST, GuestFigures
from vdsm.virt.guest.qemu_agent import BadAnswer, has_address, read, read_commands


def answer(command: str, result: object, known: GuestFigures | None = None) -> GuestFigures:
    return read(known or GuestFigures(), command, json.dumps({"return": result}))


def test_only_commands_that_are_enabled_and_known_are_used() -> None:
    commands = [
        {"name": "guest-get-users", "enabled": True, "success-response": True},
        {"name": "guest-get-vcpus", "enabled": False},
        {"name": "guest-exec", "enabled": True},
    ]
    told = json.dumps({"return": {"version": "7.2.0", "supported_commands": commands}})
    assert read_commands(told) == {"guest-get-users"}
    assert read(GuestFigures(), "guest-info", told).applications == ["qemu-guest-agent-7.2.0"]


def test_linux_and_its_kernel_among_the_applications() -> None:
    linux = {"id": "debian", "name": "Debian GNU/Linux", "version-id": "12", "machine": "x86_64"}
    linux |= {"kernel-release": "6.1.0-18", "kernel-version": "#1 SMP", "pretty-name": "Debian 12"}
    known = answer("guest-get-osinfo", linux, GuestFigures(applications=["qemu-guest-agent-7"]))
    assert known.os_version == "6.1.0-18"
    expected = {"arch": "x86_64", "kernel": "6.1.0-18", "distribution": "Debian GNU/Linux", "version": "12"}
    assert known.os == GuestOs(type="linux", **expected)
    assert known.applications == ["kernel-6.1.0-18", "qemu-guest-agent-7"]
    newer = answer("guest-get-osinfo", {**linux, "kernel-release": "6.2"}, known)
    assert newer.applications == ["kernel-6.2", "qemu-guest-agent-7"]


def test_windows() -> None:
    windows = {"id": "mswindows", "pretty-name": "Windows 11", "kernel-version": "22000", "machine": "x86_64"}
    known = answer("guest-get-osinfo", windows)
    assert (known.os_version, known.applications) == ("Windows 11", UNSET)
    assert known.os == GuestOs(type="windows", arch="x86_64", version="22000", codename="Windows 11")


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("i686", "x86"), ("i386", "x86"), ("ppc64le", "ppc64le"), ("riscv64", "unknown"), ("", "unknown")],
)
def test_machines(machine: str, arch: str) -> None:
    os = answer("guest-get-osinfo", {"machine": machine}).os
    assert os is not UNSET and os.arch == arch


def test_processors_users_and_names() -> None:
    cpus = [{"logical-id": 0, "online": True, "can-offline": False}, {"logical-id": 1, "online": False}]
    assert answer("guest-get-vcpus", cpus).cpus == 1
    assert answer("guest-get-users", []).user == ""
    users = [{"user": "a", "login-time": 1.5}, {"user": "b", "domain": "D", "login-time": 2}]
    assert answer("guest-get-users", users).user == "a, b@D"
    named = answer("guest-get-host-name", {"host-name": "h"})
    assert (named.host_name, named.fqdn) == ("h", "h")
    assert answer("guest-get-timezone", {"zone": "CET", "offset": 3600}).timezone == GuestTimezone(
        zone="CET", offset_min=60
    )
    west = answer("guest-get-timezone", {"offset": -12600}).timezone
    assert west == GuestTimezone(zone="", offset_min=-210)


@pytest.mark.parametrize(
    ("addresses", "is_reachable"),
    [
        ([], False),
        (["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "0.0.0.0", "nonsense"], False),
        (["127.0.0.1", "10.0.0.1"], True),
        (["2001:db8::1"], True),
    ],
)
def test_addresses(addresses: list[str], is_reachable: bool) -> None:
    listed = [
        {"ip-address": text, "ip-address-type": "ipv6" if ":" in text else "ipv4", "prefix": 8} for text in addresses
    ]
    known = answer("guest-network-get-interfaces", [{"name": "e", "hardware-address": "m", "ip-addresses": listed}])
    ipv6 = [text for text in addresses if ":" in text]
    ipv4 = [text for text in addresses if ":" not in text]
    assert known.interfaces == [GuestInterface(name="e", hardware_address="m", ipv4=ipv4, ipv6=ipv6)]
    assert has_address(known) is is_reachable
    assert not has_address(GuestFigures())


def test_pci_devices() -> None:
    device = {"driver-name": "virtio", "driver-date": 1_600_000_000_000_000_000, "driver-version": "1"}
    listed = [{**device, "id": {"type": "pci", "device-id": 4161, "vendor-id": 6900}}, {"driver-name": "no PCI device"}]
    assert answer("guest-get-devices", listed).pci_devices == [
        GuestPciDevice(
            device_id=4161, vendor_id=6900, driver_name="virtio", driver_version="1", driver_date="2020-09-13"
        )
    ]


@pytest.mark.parametrize(
    ("partition", "disk"),
    [
        ("/dev/sda1", "/dev/sda"),
        ("/dev/vda", "/dev/vda"),
        ("/dev/nvme0n1p2", "/dev/nvme0n1"),
        ("/dev/nvme0n1", "/dev/nvme0n1"),
    ],
)
def test_file_systems_tell_of_disks_until_disks_do(partition: str, disk: str) -> None:
    root = {"name": "sda1", "mountpoint": "/", "type": "ext4", "used-bytes": 5, "total-bytes": 9}
    listed = [{**root, "disk": [{"serial": "s1", "dev": partition, "bus": 0}]}, {"name": "x", "mountpoint": "/x"}]
    known = answer("guest-get-fsinfo", listed)
    assert known.mounts == [GuestMount(path="/", total_bytes=9, used_bytes=5, type="ext4")]
    assert known.disk_names == {"s1": disk}
    disks = [
        {"name": "/dev/sdb", "partition": False, "address": {"serial": "s1"}},
        {"name": "/dev/sdb1", "partition": True, "address": {"serial": "s2"}},
        {"name": "/dev/sr0", "partition": False},
    ]
    known = answer("guest-get-disks", disks, known)
    assert known.disk_names == {"s1": "/dev/sdb"}
    assert answer("guest-get-fsinfo", listed, known).disk_names == {"s1": "/dev/sdb"}


BAD = ["", "{}", "[]", "null", '{"return": 5}', '{"return": "x"}', '{"return": [5]}', '{"return": true}']
BAD += ['{"return": ' + "[" * 200_000, '{"return": [' + '{"x":' * 100_000, '{"error": {"class": "x"}}', "\ud800"]
BAD += ['{"return": [' + " " * qemu_agent.LARGEST_ANSWER + "]}"]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("command", qemu_agent.PERIODS)
def test_what_is_no_answer(command: str, bad: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read(GuestFigures(), command, bad)
    assert len(str(caught.value)) < 300


def test_lists_and_texts_are_cut() -> None:
    long = "x" * 1000
    known = answer("guest-get-host-name", {"host-name": long})
    known = answer("guest-get-users", [{"user": long, "domain": long}] * 300, known)
    known = answer("guest-get-fsinfo", [{"mountpoint": "/", "total-bytes": 1, "used-bytes": 1}] * 5000, known)
    known = answer("guest-get-devices", [{"id": {"device-id": -1}}] * 5000, known)
    known = answer("guest-get-disks", [{"name": long, "address": {"serial": str(n)}} for n in range(700)], known)
    assert known.host_name is not UNSET and len(known.host_name) == LONGEST_TEXT
    assert known.user is not UNSET and len(known.user) == LONGEST_TEXT
    assert known.mounts is not UNSET and len(known.mounts) == MOST
    assert known.pci_devices is not UNSET and len(known.pci_devices) == MOST
    assert len(known.disk_names) == MOST


@pytest.mark.parametrize("date", [-1, 2**62, -(2.0**62)])
def test_days_that_are_none(date: float) -> None:
    [device] = answer("guest-get-devices", [{"driver-date": date, "id": {}}]).pci_devices or []
    assert device.driver_date is UNSET
