"""The life of a VM on the real thing, from both forms of its description to its end."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.system.kernel import make_kernel
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import LIMIT_S, Pool, Vdsmd, Volume, make_id, poll
from vdsm.wire.client import CallFailed, Client

CONSOLES = "run/ovirt-vmconsole-console"
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def node(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[Vdsmd]:
    """One daemon for all tests here."""
    _libvirtd_of_session.start()
    (_libvirtd_of_session.root / CONSOLES).mkdir(exist_ok=True)
    with Vdsmd(_libvirtd_of_session.uri, {"vars": {"vm_sample_interval": "0.5"}}) as daemon:
        (daemon.root / "kernel").write_bytes(make_kernel())
        (daemon.root / "initrd").write_bytes(b"the initrd")
        (daemon.root / "cd.iso").write_bytes(bytes(2**16))
        yield daemon


@pytest.fixture(scope="module")
def pool_of_node(node: Vdsmd) -> Pool:
    return Pool.create(node)


@pytest.fixture(autouse=True)
def _no_vms_left(node: Vdsmd, libvirtd: PrivateLibvirtd) -> Iterator[None]:
    """Whatever a test leaves is destroyed through the API, and that is the end of it."""
    yield
    for vm in node.call("Host.getVMList"):
        node.call("VM.destroy", vmID=vm["vmId"])
    assert libvirtd.run("virsh", "-q", "list", "--all", "--name").split() == []


def read_domain(libvirtd: PrivateLibvirtd, vm_id: str) -> ElementTree.Element:
    return ElementTree.fromstring(libvirtd.run("virsh", "-q", "dumpxml", "--security-info", vm_id))


def get_attribute(domain: ElementTree.Element, path: str, name: str) -> str:
    found = domain.find(path)
    assert found is not None, f"the domain has no {path}"
    return found.get(name, "")


class Console:
    """The other end of a VM's serial port."""

    def __init__(self, libvirtd: PrivateLibvirtd, vm_id: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT_S)
        self._socket.connect(str(libvirtd.root / CONSOLES / f"{vm_id}.sock"))
        self._read = b""

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait_for(self, words: bytes) -> None:
        """Return when the guest has said these words; what it said before that is forgotten."""
        while words not in self._read:
            said = self._socket.recv(4096)
            assert said, f"the guest is gone; it said {self._read!r}"
            self._read += said
        self._read = self._read.partition(words)[2]


@pytest.fixture
def listener(node: Vdsmd) -> Iterator[Client]:
    """A connection that hears of all that happens from now on."""
    with node.connect_tls() as client:
        client.subscribe()
        client.call("Host.ping2")  # it came after the subscription
        yield client


def watch_statuses(listener: Client, vm_id: str, last: str) -> list[str]:
    """The statuses that events tell of a VM, up to the last one."""
    seen: list[str] = []
    while last not in seen:
        notice = listener.get_event(LIMIT_S)
        assert notice is not None, f"no more events after {seen}"
        if notice.method == f"|virt|VM_status|{vm_id}":
            # Events with figures are flat, others are below the id.
            seen.append(notice.params.get(vm_id, notice.params)["status"])
    return seen


def kernel_of(node: Vdsmd, words: str) -> dict[str, str]:
    return {"kernel": str(node.root / "kernel"), "initrd": str(node.root / "initrd"), "kernelArgs": words}


SERIAL = {"type": "console", "device": "console", "specParams": {"consoleType": "serial", "enableSocket": "true"}}


def test_everything_of_the_dictionary_form(
    node: Vdsmd, pool_of_node: Pool, libvirtd: PrivateLibvirtd, listener: Client
) -> None:
    volume = pool_of_node.create_volume()
    devices = [
        pool_of_node.drive(volume),
        {"type": "disk", "device": "cdrom", "iface": "ide", "path": str(node.root / "cd.iso"), "readonly": "true"},
        {"type": "graphics", "device": "vnc"},
        {"type": "video", "device": "vga", "specParams": {"vram": "16384"}},
        {"type": "balloon", "device": "memballoon", "specParams": {"model": "virtio"}},
        {"type": "rng", "device": "virtio", "model": "virtio", "specParams": {"source": "urandom"}},
        SERIAL,
    ]
    vm_id = node.create_vm(
        wait=False, devices=devices, launchPaused="true", memSize=32, memGuaranteedSize=16, **kernel_of(node, "hello=1")
    )
    assert watch_statuses(listener, vm_id, "Paused") == ["Paused"]
    with Console(libvirtd, vm_id) as console:
        node.call("VM.cont", vmID=vm_id)
        console.wait_for(b"hello=1\nthe initrd\n")
    assert watch_statuses(listener, vm_id, "Powering up") == ["Powering up"]

    domain = read_domain(libvirtd, vm_id)
    assert domain.get("type") == "qemu"
    sources = {disk.get("device"): get_attribute(disk, "source", "file") for disk in domain.iterfind("devices/disk")}
    assert sources["cdrom"] == str(node.root / "cd.iso")
    assert os.path.realpath(sources["disk"]) == str(pool_of_node.get_data_path(volume))
    assert domain.findtext("devices/rng/backend") == "/dev/urandom"
    assert get_attribute(domain, "devices/memballoon", "model") == "virtio"
    stats = poll(lambda: (s := node.get_stats(vm_id)).get("disks") and s, "the VM is sampled")
    assert stats["kvmEnable"] == "false"
    assert stats["displayType"] == "vnc" and int(stats["displayPort"]) >= 5900
    assert stats["disks"]["vda"]["imageID"] == volume.image_id
    assert (stats["balloonInfo"]["balloon_max"], stats["balloonInfo"]["balloon_min"]) == ("32768", "16384")


def test_the_xml_form(node: Vdsmd, pool_of_node: Pool, libvirtd: PrivateLibvirtd) -> None:
    vm_id, volume = make_id(), pool_of_node.create_volume()
    log = node.root / f"{vm_id}.serial"
    drive = {"poolID": pool_of_node.pool_id, "domainID": pool_of_node.domain_id}
    drive |= {"imageID": volume.image_id, "volumeID": volume.volume_id}
    known = "".join(f"<ovirt-vm:{name}>{value}</ovirt-vm:{name}>" for name, value in drive.items())
    kernel = kernel_of(node, "from the xml form")
    xml = f"""
    <domain type='kvm' xmlns:ovirt-vm='http://ovirt.org/vm/1.0'>
      <name>of xml</name><uuid>{vm_id}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>
      <metadata><ovirt-vm:vm>
        <ovirt-vm:device devtype='disk' name='vda'>{known}</ovirt-vm:device></ovirt-vm:vm></metadata>
      <os><type arch='x86_64' machine='q35'>hvm</type>
        <kernel>{kernel["kernel"]}</kernel><initrd>{kernel["initrd"]}</initrd><cmdline>{kernel["kernelArgs"]}</cmdline></os>
      <features><acpi/></features>
      <devices>
        <disk type='file' device='disk' snapshot='no'><driver name='qemu' type='qcow2'/>
          <source file='/rhev/filled/in'/><target dev='vda' bus='virtio'/></disk>
        <serial type='file'><source path='{log}'/></serial>
        <graphics type='vnc' autoport='yes' listen='127.0.0.1' passwd='*****' passwdValidTo='1970-01-01T00:00:01'/>
      </devices>
    </domain>"""
    node.call("VM.create", vmID=vm_id, vmParams={"xml": xml})
    stats = node.wait_status(vm_id, "Up", "Powering up")
    assert stats["vmName"] == "of xml"
    poll(lambda: b"from the xml form\nthe initrd\n" in log.read_bytes(), "the guest says what it was given")
    domain = read_domain(libvirtd, vm_id)
    path = get_attribute(domain, "devices/disk/source", "file")
    assert os.path.realpath(path) == str(pool_of_node.get_data_path(volume))
    [info] = node.call("Host.getVMFullList", vmList=[vm_id])
    assert info["vmName"] == "of xml" and vm_id in info["xml"]


def test_a_spice_display(node: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = node.create_vm(devices=[{"type": "graphics", "device": "spice"}])
    shown = poll(lambda: (s := node.get_stats(vm_id))["displayPort"] not in ("", "-1") and s, "the display has a port")
    assert shown["displayType"] == "qxl"
    assert [display["type"] for display in shown["displayInfo"]] == ["spice"]
    node.call("VM.setTicket", vmID=vm_id, password="a longer password", ttl=60, existingConnAction="disconnect")
    domain = read_domain(libvirtd, vm_id)
    assert get_attribute(domain, "devices/graphics", "passwd") == "a longer password"
    assert get_attribute(domain, "devices/graphics", "connected") == "disconnect"


def test_a_ticket_opens_the_display(node: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = node.create_vm(devices=[{"type": "graphics", "device": "vnc"}])
    port = poll(lambda: (p := node.get_stats(vm_id)["displayPort"]) != "-1" and p, "the display has a port")

    def attempt(password: str) -> str:
        script = (
            f"import runpy, sys; sys.path.insert(0, {str(REPOSITORY)!r}); sys.argv = ['', {port!r}, {password!r}]; "
        )
        script += "runpy.run_module('tests.system.vnc', run_name='__main__')"
        return libvirtd.run(sys.executable, "-c", script).strip()

    assert attempt("*****") == "refused"  # locked from the start
    node.call("VM.setTicket", vmID=vm_id, password="opensesa", ttl=0, existingConnAction="keep")
    assert (attempt("opensesa"), attempt("other")) == ("let in", "refused")
    node.call("VM.setTicket", vmID=vm_id, password="opensesa", ttl=1, existingConnAction="keep")
    poll(lambda: attempt("opensesa") == "refused", "the ticket expires")
    assert "opensesa" not in node.read_log()


def test_pause_and_resume(node: Vdsmd, libvirtd: PrivateLibvirtd, listener: Client) -> None:
    vm_id = node.create_vm()
    for _ in range(2):
        node.call("VM.pause", vmID=vm_id)
        assert node.get_stats(vm_id)["status"] == "Paused"
        assert libvirtd.run("virsh", "-q", "domstate", vm_id).strip() == "paused"
        node.call("VM.cont", vmID=vm_id)
        assert node.get_stats(vm_id)["status"] != "Paused"
        assert libvirtd.run("virsh", "-q", "domstate", vm_id).strip() == "running"
    assert watch_statuses(listener, vm_id, "Paused")[-1] == "Paused"
    libvirtd.run("virsh", "-q", "suspend", vm_id)  # somebody else's doing is seen, too
    node.wait_status(vm_id, "Paused")


def test_reset_starts_the_guest_anew(node: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = node.create_vm(devices=[SERIAL], launchPaused="true", wait=False, **kernel_of(node, "again"))
    node.wait_status(vm_id, "Paused")
    pid = libvirtd.qemu_pid(f"vm-{vm_id[:8]}")
    with Console(libvirtd, vm_id) as console:
        node.call("VM.cont", vmID=vm_id)
        for _ in range(2):
            console.wait_for(b"again\nthe initrd\n")
            node.call("VM.reset", vmID=vm_id)
        console.wait_for(b"again\nthe initrd\n")
    assert libvirtd.qemu_pid(f"vm-{vm_id[:8]}") == pid is not None


def test_shutdown_by_acpi(node: Vdsmd, libvirtd: PrivateLibvirtd, listener: Client) -> None:
    vm_id = node.create_vm(devices=[SERIAL], launchPaused="true", wait=False, **kernel_of(node, "obedient"))
    node.wait_status(vm_id, "Paused")
    with Console(libvirtd, vm_id) as console:
        node.call("VM.cont", vmID=vm_id)
        console.wait_for(b"the initrd\n")
        node.call("VM.shutdown", vmID=vm_id, delay=0, message="")
        assert watch_statuses(listener, vm_id, "Down")[-2:] == ["Powering down", "Down"]
    down = node.get_stats(vm_id)
    assert (down["status"], down["exitCode"], down["exitReason"]) == ("Down", 0, 6)


def test_shutdown_of_a_deaf_guest_by_force(node: Vdsmd) -> None:
    vm_id = node.create_vm()
    node.call("VM.shutdown", vmID=vm_id, delay=0, message="", timeout=1, force=True)
    down = node.wait_status(vm_id, "Down")
    assert (down["exitCode"], down["exitReason"]) == (0, 6)


def test_destroy_forgets_the_vm(node: Vdsmd, pool_of_node: Pool, libvirtd: PrivateLibvirtd, listener: Client) -> None:
    volume = pool_of_node.create_volume()
    before = pool_of_node.get_data_path(volume).stat()
    vm_id = node.create_vm(devices=[pool_of_node.drive(volume)])
    node.call("VM.destroy", vmID=vm_id)
    assert set(watch_statuses(listener, vm_id, "Down")[:-1]) <= {"Powering up"}
    with pytest.raises(CallFailed) as caught:
        node.get_stats(vm_id)
    assert caught.value.code == 1
    assert libvirtd.qemu_pid(f"vm-{vm_id[:8]}") is None
    after = pool_of_node.get_data_path(volume).stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert node.wait_task(pool_of_node.begin_delete(volume))["code"] == 0
    again = node.create_vm(vm_id=vm_id)
    assert again == vm_id


def test_a_vm_that_cannot_start_is_down_and_says_why(node: Vdsmd, pool_of_node: Pool) -> None:
    nowhere = pool_of_node.drive(Volume())
    vm_id = node.create_vm(wait=False, devices=[nowhere])
    down = node.wait_status(vm_id, "Down")
    assert down["exitCode"] == 1
    assert "Bad volume specification" in down["exitMessage"]
    missing = {"type": "disk", "device": "disk", "iface": "virtio", "index": 0, "path": "/nowhere/disk"}
    vm_id = node.create_vm(wait=False, devices=[missing])
    assert "/nowhere/disk" in node.wait_status(vm_id, "Down")["exitMessage"]


def test_a_folder_that_is_named_as_a_file_stays_its_owners(node: Vdsmd, pool_of_node: Pool) -> None:
    before, folder = pool_of_node.folder.stat(), str(pool_of_node.folder)
    disks = ({"device": "disk"}, {"device": "disk", "diskType": "block"}, {"device": "cdrom"})
    wishes = [{"devices": [{"type": "disk", "path": folder, **disk}]} for disk in disks]
    for wish in (*wishes, {"kernel": folder}, {"kernel": "/etc/hostname", "initrd": folder}):
        vm_id = node.create_vm(wait=False, **wish)
        assert "is a folder" in node.wait_status(vm_id, "Down")["exitMessage"]
        after = pool_of_node.folder.stat()
        assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_a_qemu_that_dies_is_told(node: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = node.create_vm()
    pid = libvirtd.qemu_pid(f"vm-{vm_id[:8]}")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    down = node.wait_status(vm_id, "Down")
    assert (down["exitCode"], down["exitReason"]) == (1, 2)


def test_an_id_is_given_once(node: Vdsmd) -> None:
    vm_id = node.create_vm()
    with pytest.raises(CallFailed) as caught:
        node.create_vm(vm_id=vm_id)
    assert caught.value.code == 4


def test_the_accelerator_is_measured_and_used(libvirtd: PrivateLibvirtd) -> None:
    with Vdsmd(libvirtd.uri, {"virt": {"accelerator": "auto"}}) as daemon:
        vm_id = daemon.create_vm()
        domain_type = read_domain(libvirtd, vm_id).get("type")
        assert domain_type == {"true": "kvm", "false": "qemu"}[daemon.call("Host.getCapabilities")["kvmEnabled"]]
        daemon.call("VM.destroy", vmID=vm_id)


def test_two_daemons_leave_each_others_vms_alone(node: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    with Vdsmd(libvirtd.uri) as other:
        mine, theirs, ended = node.create_vm(), other.create_vm(), other.create_vm()
        libvirtd.run("virsh", "-q", "destroy", ended)
        other.wait_status(ended, "Down")
        before = {vm_id: libvirtd.run("virsh", "dumpxml", vm_id) for vm_id in (mine, theirs, ended)}
        pids = [libvirtd.qemu_pid(f"vm-{vm_id[:8]}") for vm_id in (mine, theirs)]
        other.restart()
        node.restart()
        assert {vm["vmId"] for vm in node.call("Host.getVMList")} == {mine, theirs}
        assert {vm["vmId"] for vm in other.call("Host.getVMList")} == {mine, theirs, ended}
        assert {vm_id: libvirtd.run("virsh", "dumpxml", vm_id) for vm_id in before} == before
        node.call("VM.destroy", vmID=mine)
        poll(lambda: mine not in str(other.call("Host.getVMList")), "the other sees that it is gone")
        assert node.stop() and other.stop()
        assert [libvirtd.qemu_pid(f"vm-{vm_id[:8]}") for vm_id in (mine, theirs)] == [None, pids[1]]
        node.start()
        other.start()
        for vm_id in (theirs, ended):
            other.call("VM.destroy", vmID=vm_id)
        poll(lambda: node.call("Host.getVMList") == [], "the first sees that all are gone")
