"""Distribution, firmware and kernel switches."""

import pytest
from msgspec import UNSET

from vdsm.adapters.procfs import MachineFiles
from vdsm.api.host_types import SelinuxStatus
from vdsm.host.capabilities import read_machine
from vdsm.host.system import read_hardware, read_operating_system, read_system


def test_a_server_with_everything(machine) -> None:
    read = read_machine(machine("two-sockets"))
    system = read.system
    assert read.kernel == "5.14.0-427.13.1.el9_4.x86_64"
    assert system.kernel_features == {
        "MELTDOWN": "(Mitigation: PTI)",
        "SPECTRE_V2": "(Mitigation: IBRS; IBPB: conditional)",
    }
    assert (system.nested_virtualization, system.fips_enabled, system.vnc_encrypted) == (True, True, True)
    assert (system.selinux.mode, system.kdump_status, system.device_passthrough) == (1, 1, True)
    assert system.rng_sources == ["random"]
    assert [hba.initiator_name for hba in system.hba_inventory.iscsi] == ["iqn.1994-05.com.redhat:5d1f8ab3c71"]
    assert [(port.port_name, port.node_name) for port in system.hba_inventory.fc] == [
        ("21000024ff7f1a2c", "20000024ff7f1a2c"),
        ("21000024ff7f1a2d", "20000024ff7f1a2d"),
    ]
    assert system.boot_partition_id == "3f2c9a52-0b9b-4c53-9a52-aa6a3b2f1d10"


def test_a_bare_machine_says_no_or_nothing(tmp_path) -> None:
    system = read_system(MachineFiles(tmp_path))
    assert (system.kernel_arguments, system.boot_partition_id) == (UNSET, UNSET)
    assert (system.selinux.mode, system.kdump_status) == (-1, -1)
    assert not (
        system.nested_virtualization or system.fips_enabled or system.vnc_encrypted or system.device_passthrough
    )
    assert not (system.realtime_kernel or system.hosted_engine_deployed or system.ovn_configured)
    assert system.hba_inventory.fc == system.hba_inventory.iscsi == system.rng_sources == []
    assert system.operating_system.name == "unknown"


@pytest.mark.parametrize(
    ("path", "text", "field", "value"),
    [
        ("etc/kdump.conf", "path /var/crash", "kdump_status", 0),
        ("sys/kernel/kexec_crash_loaded", "0", "kdump_status", 0),
        ("sys/fs/selinux/enforce", "0", "selinux", SelinuxStatus(mode=0)),
        ("etc/libvirt/qemu.conf", "# vnc_tls = 1", "vnc_encrypted", False),
        ("sys/module/kvm_intel/parameters/nested", "N", "nested_virtualization", False),
        ("etc/ovirt-hosted-engine/hosted-engine.conf", "fqdn=engine", "hosted_engine_deployed", True),
        ("sys/kernel/realtime", "1", "realtime_kernel", True),
        (
            "proc/mounts",
            "/dev/mapper/onn-root / xfs rw 0 0",
            "boot_partition_id",
            "7b0d7f7e-4f2c-4f0a-8d6c-90f1c0a3b7d2",
        ),
        ("proc/mounts", "overlay / overlay rw 0 0", "boot_partition_id", UNSET),
        ("proc/mounts", "/dev/vdb1 /boot ext4 rw 0 0", "boot_partition_id", UNSET),
    ],
)
def test_one_difference_at_a_time(record, path: str, text: str, field: str, value: object) -> None:
    root = record("two-sockets")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text + "\n")
    assert getattr(read_system(MachineFiles(root)), field) == value


def test_only_files_cannot_tell_whether_ovn_works(record) -> None:
    root = record("two-sockets")
    folder = root / "etc/pki/vdsm/ovn"
    folder.mkdir(parents=True)
    for name in ("ovn-key.pem", "ovn-cert.pem", "ca-cert.pem"):
        (folder / name).touch()
    assert read_system(MachineFiles(root)).ovn_configured is UNSET


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ('ID=fedora\nVERSION_ID=40\nPRETTY_NAME="Fedora Linux 40"', "Fedora", "40"),
        ('ID="rhel"\nVERSION_ID="9.4"', "RHEL", "9.4"),
        ('ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="9"', "RHEL", "9"),
        ('ID="centos"\nID_LIKE="rhel fedora"\nVARIANT_ID="ovirt-node"\nVERSION_ID="9"', "oVirt Node", "9"),
        ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04", "unknown", "24.04"),
        ("", "unknown", ""),
    ],
)
def test_families_of_distributions(tmp_path, text: str, name: str, version: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(text)
    found = read_operating_system(MachineFiles(tmp_path))
    assert (found.name, found.version) == (name, version)


def test_debian_has_a_finer_number(machine) -> None:
    found = read_operating_system(machine("small-vm"))
    assert (found.name, found.version, found.release) == ("Debian", "12", "12.11")
    assert found.pretty_name == "Debian GNU/Linux 12 (bookworm)"


def test_hardware_of_a_server_and_of_a_machine_without_tables(machine) -> None:
    server = read_hardware(machine("two-sockets"))
    assert (server.manufacturer, server.product_name) == ("Dell Inc.", "PowerEdge R740")
    assert server.uuid == "4C4C4544-0058-4B10-8032-B7C04F4C4D32"
    assert (server.serial_number, server.family, server.version) == ("7XK2LM2", "PowerEdge", "Not Specified")
    assert read_hardware(machine("small-vm")).uuid is UNSET


def test_hardware_of_a_power_machine(tmp_path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"8335-GTH\0")
    (tmp_path / "proc/device-tree/system-id").write_bytes(b"78AB12C\0")
    hardware = read_hardware(MachineFiles(tmp_path))
    assert (hardware.product_name, hardware.serial_number) == ("8335-GTH", "78AB12C")
