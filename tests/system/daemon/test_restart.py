"""The daemon ends, by force or as asked, while a VM runs: the VM does not notice, and the next daemon knows it all."""

import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import (
    LIMIT_S,
    Pool,
    Vdsmd,
    Volume,
    kill_during,
    make_environment,
    make_id,
    poll,
)
from vdsm.wire.client import CallFailed
from vdsm.wire.tls import TlsFiles, make_client_context

LASTING = ("vmName", "kvmEnable", "acpiEnable", "displayInfo", "displayType", "displayIp", "displayPort", "hash")
"""Figures that a restart must not change."""
STOP_LIMIT_S = 3.0


def start_vm(vdsmd: Vdsmd, pool: Pool, *extra: dict[str, Any]) -> str:
    """A VM with a disk of the pool and a display, that was sampled."""
    disk = pool.drive(pool.create_volume())
    vm_id = vdsmd.create_vm(devices=[disk, {"type": "graphics", "device": "vnc"}, *extra])
    poll(lambda: vdsmd.get_stats(vm_id).get("disks"), "the VM is sampled")
    return vm_id


def list_drives(info: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    drives = [device for device in info["devices"] if device["type"] == "disk"]
    return [(drive["name"], drive["path"], drive["imageID"], drive["volumeID"]) for drive in drives]


def get_info(vdsmd: Vdsmd, vm_id: str) -> dict[str, Any]:
    [info] = vdsmd.call("Host.getVMFullList", vmList=[vm_id])
    return dict(info)


def get_ticket(libvirtd: PrivateLibvirtd, vm_id: str) -> tuple[str, bool]:
    """The password of the VM's display and whether it expires, as libvirt holds them."""
    xml = libvirtd.run("virsh", "-q", "dumpxml", "--security-info", vm_id)
    line = next(line for line in xml.splitlines() if "<graphics" in line)
    return line.partition("passwd='")[2].partition("'")[0], "passwdValidTo=" in line


def is_pool_connected(vdsmd: Vdsmd, pool: Pool) -> bool:
    connected: list[str] = vdsmd.call("Host.getConnectedStoragePools")
    return pool.pool_id in connected


def test_a_vm_is_the_same_after_a_kill(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    vm_id = start_vm(vdsmd, pool)
    vdsmd.call("VM.setTicket", vmID=vm_id, password="s3cret", ttl=3600, existingConnAction="keep")
    qemu = libvirtd.qemu_pid(f"vm-{vm_id[:8]}")
    before = poll(lambda: (s := vdsmd.get_stats(vm_id)) and int(s["elapsedTime"]) >= 3 and s, "it runs for 3 s")
    drives, noted_at_s = list_drives(get_info(vdsmd, vm_id)), time.monotonic()
    ticket = get_ticket(libvirtd, vm_id)

    vdsmd.restart()

    after = vdsmd.get_stats(vm_id)
    passed_s = time.monotonic() - noted_at_s
    assert libvirtd.qemu_pid(f"vm-{vm_id[:8]}") == qemu is not None
    assert after["status"] == "Up"
    assert {key: after[key] for key in LASTING} == {key: before[key] for key in LASTING}
    assert int(before["elapsedTime"]) <= int(after["elapsedTime"]) <= int(before["elapsedTime"]) + passed_s + 1
    assert list_drives(get_info(vdsmd, vm_id)) == drives != []
    assert get_ticket(libvirtd, vm_id) == ticket == ("s3cret", True)
    resampled = poll(lambda: (s := vdsmd.get_stats(vm_id)).get("disks") and s, "it is sampled again")
    assert resampled["disks"].keys() == before["disks"].keys()
    vdsmd.call("VM.setTicket", vmID=vm_id, password="another", ttl=0, existingConnAction="keep")
    assert get_ticket(libvirtd, vm_id) == ("another", False)
    vdsmd.call("VM.pause", vmID=vm_id)
    vdsmd.wait_status(vm_id, "Paused")


def test_a_vm_that_was_paused_stays_paused(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = vdsmd.create_vm()
    vdsmd.call("VM.pause", vmID=vm_id)
    assert vdsmd.wait_status(vm_id, "Paused")["pauseCode"] == "NOERR"
    vdsmd.restart()
    stats = vdsmd.get_stats(vm_id)
    assert (stats["status"], stats["pauseCode"]) == ("Paused", "NOERR")
    vdsmd.call("VM.cont", vmID=vm_id)
    vdsmd.wait_status(vm_id, "Up")


def test_what_ended_meanwhile_is_down(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    ended, before = vdsmd.create_vm(), vdsmd.create_vm()
    libvirtd.run("virsh", "-q", "destroy", before)
    down = vdsmd.wait_status(before, "Down")
    vdsmd.kill()
    libvirtd.run("virsh", "-q", "destroy", ended)
    vdsmd.start()
    assert vdsmd.get_stats(ended)["status"] == "Down"
    assert vdsmd.get_stats(ended)["exitReason"] == 6  # by an administrator
    after = vdsmd.get_stats(before)
    assert [after[key] for key in ("status", "exitCode", "exitReason", "exitMessage")] == [
        down[key] for key in ("status", "exitCode", "exitReason", "exitMessage")
    ]
    for vm_id in (ended, before):
        vdsmd.call("VM.destroy", vmID=vm_id)
    assert vdsmd.call("Host.getVMList") == []
    assert libvirtd.run("virsh", "-q", "list", "--all", "--name").split() == []


def test_a_vm_whose_start_was_interrupted_is_told(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    """Killed right after it accepted a VM: the VM runs, or is down and says why; it is never forgotten."""
    vm_id = vdsmd.create_vm(wait=False)
    vdsmd.restart()
    stats = vdsmd.get_stats(vm_id)
    if stats["status"] == "Down":
        assert stats["exitCode"] == 1
        assert stats["exitMessage"]
        assert libvirtd.qemu_pid(f"vm-{vm_id[:8]}") is None
    vdsmd.call("VM.destroy", vmID=vm_id)
    assert libvirtd.run("virsh", "-q", "list", "--all", "--name").split() == []


@dataclass
class Herd:
    """What a client of the daemon was told of its VMs."""

    vdsmd: Vdsmd
    libvirtd: PrivateLibvirtd
    up: dict[str, int] = field(default_factory=dict)
    """Seen running, with the qemu's pid."""
    accepted: set[str] = field(default_factory=set)
    """Created, and not seen running yet."""
    unsure: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def live(self) -> None:
        """Create and destroy VMs until the connection breaks."""
        while True:
            vm_id = make_id()
            self.unsure.add(vm_id)
            self.vdsmd.create_vm(vm_id=vm_id, wait=False)
            self.unsure.discard(vm_id)
            self.accepted.add(vm_id)
            self.vdsmd.wait_status(vm_id, "Up", "Powering up")
            self.accepted.discard(vm_id)
            self.up[vm_id] = self.get_pid(vm_id) or 0
            if len(self.up) > 2:
                self.destroy(list(self.up)[1])  # the first one lives through all

    def destroy(self, vm_id: str) -> None:
        self.up.pop(vm_id, None)
        self.accepted.discard(vm_id)
        self.unsure.add(vm_id)
        self.vdsmd.call("VM.destroy", vmID=vm_id)
        self.unsure.discard(vm_id)
        self.gone.add(vm_id)

    def get_pid(self, vm_id: str) -> int | None:
        return self.libvirtd.qemu_pid(f"vm-{vm_id[:8]}")

    def check(self) -> None:
        """Compare what the daemon tells after its restart with what the client was told, and with libvirt."""
        listed = {vm["vmId"]: vm["status"] for vm in self.vdsmd.call("Host.getVMList")}
        assert self.up.keys() | self.accepted <= listed.keys() <= self.up.keys() | self.accepted | self.unsure
        assert {vm_id: listed[vm_id] for vm_id in self.up} == dict.fromkeys(self.up, "Up")
        assert {vm_id: self.get_pid(vm_id) for vm_id in self.up} == self.up
        assert set(self.libvirtd.run("virsh", "-q", "list", "--all", "--uuid").split()) == listed.keys()
        for vm_id, status in listed.items():
            if status == "Down":
                assert self.vdsmd.get_stats(vm_id)["exitMessage"]
                assert self.get_pid(vm_id) is None
        for vm_id in listed.keys() - self.up.keys():
            self.destroy(vm_id)


def test_killed_while_vms_come_and_go(
    vdsmd: Vdsmd, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    herd = Herd(vdsmd, libvirtd)
    first = vdsmd.create_vm()
    herd.up[first] = herd.get_pid(first) or 0
    for _ in range(rounds(8, 200)):
        kill_during(vdsmd, random.uniform(0, 1.5), herd.live)
        vdsmd.start()
        herd.check()


def test_storage_is_connected_again(vdsmd: Vdsmd, pool: Pool) -> None:
    volume = pool.create_volume()
    before = pool.get_info(volume)
    vdsmd.restart()
    poll(lambda: is_pool_connected(vdsmd, pool), "the pool is connected again")
    assert pool.get_info(volume) == before
    assert vdsmd.call("Image.prepare", **pool.place(volume))["path"].endswith(f"{volume.image_id}/{volume.volume_id}")
    status = vdsmd.call("StoragePool.getSpmStatus", storagepoolID=pool.pool_id)
    assert status["spmStatus"] == "Free"  # the role comes back only when it is asked for
    with pytest.raises(CallFailed):
        pool.begin_create(Volume())
    pool.connect_server()  # a client that connects all again is answered as the first time
    pool.connect()
    pool.start_spm()
    pool.create_volume()


def test_tasks_after_a_kill(vdsmd: Vdsmd, pool: Pool) -> None:
    pool.stop_spm()
    in_memory = pool.begin_spm()
    assert vdsmd.wait_task(in_memory, clear=False)["code"] == 0
    done_volume, cut_volume = Volume(), Volume()
    done = pool.begin_create(done_volume)
    assert vdsmd.wait_task(done, clear=False)["code"] == 0
    cut = cut_off_a_task(vdsmd, pool, cut_volume)

    vdsmd.start()
    poll(lambda: is_pool_connected(vdsmd, pool), "the pool is connected again")
    for task_id in (in_memory, done, cut):
        assert fails_with(vdsmd, "Task.getStatus", taskID=task_id) == 401
    pool.start_spm()
    assert fails_with(vdsmd, "Task.getStatus", taskID=in_memory) == 401
    finished = vdsmd.wait_task(done)
    assert (finished["taskState"], finished["taskResult"]) == ("finished", "success")
    undone = vdsmd.wait_task(cut)
    assert (undone["taskState"], undone["taskResult"]) == ("finished", "cleanSuccess")
    assert pool.list_volumes() == {done_volume.volume_id}
    assert not pool.get_data_path(cut_volume).parent.exists()


def cut_off_a_task(vdsmd: Vdsmd, pool: Pool, volume: Volume) -> str:
    """Kill the daemon while it makes the volume; the task's id. The daemon is down then."""
    task_id = pool.begin_create(volume)
    poll(lambda: pool.get_data_path(volume).exists(), "the volume is being made")
    vdsmd.kill()
    record = (pool.path / "master/tasks" / task_id / f"{task_id}.task").read_text()
    assert "state = running" in record or "state=running" in record, "the test came too late: " + record
    return task_id


def fails_with(vdsmd: Vdsmd, method: str, **params: object) -> int:
    with pytest.raises(CallFailed) as caught:
        vdsmd.call(method, **params)
    return caught.value.code


def test_sigterm_ends_it_in_time_and_leaves_vms_running(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    vm_id = start_vm(vdsmd, pool)
    qemu = libvirtd.qemu_pid(f"vm-{vm_id[:8]}")
    with ExitStack() as clients:
        hold_connections(vdsmd, clients)
        busy = pool.begin_create(Volume(format="RAW", allocation="PREALLOCATED"), 64 << 20)
        took_s = vdsmd.stop()
    assert took_s < STOP_LIMIT_S
    assert libvirtd.qemu_pid(f"vm-{vm_id[:8]}") == qemu is not None
    assert not vdsmd.paths.socket.exists()
    vdsmd.start()
    assert vdsmd.get_stats(vm_id)["status"] == "Up"
    poll(lambda: is_pool_connected(vdsmd, pool), "the pool is connected again")
    pool.start_spm()
    assert vdsmd.wait_task(busy)["taskState"] == "finished"


def test_a_root_has_one_daemon(vdsmd: Vdsmd) -> None:
    pid = vdsmd.process.pid
    command = [sys.executable, "-m", "vdsm.daemon", "--root", str(vdsmd.root), "--port", "0", "--foreground"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=make_environment())
    assert second.returncode != 0
    assert "another vdsmd serves" in second.stderr
    assert vdsmd.process.poll() is None and vdsmd.call("Host.ping2") is True
    assert (vdsmd.paths.run / "vdsmd.pid").read_text().split() == [str(pid)]


def test_sigterm_while_libvirtd_hangs(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = vdsmd.create_vm()
    libvirtd.freeze()
    vdsmd.client  # noqa: B018 (connected)
    assert vdsmd.stop() < STOP_LIMIT_S
    libvirtd.thaw()
    vdsmd.start()
    assert vdsmd.get_stats(vm_id)["status"] == "Up"


def hold_connections(vdsmd: Vdsmd, clients: ExitStack) -> None:
    """Clients that do not let go: one subscribed, one in the middle of an event stream, one that said nothing yet."""
    clients.enter_context(vdsmd.connect_tls()).subscribe()
    context = make_client_context(TlsFiles.of_client(vdsmd.paths.pki))
    stream = clients.enter_context(open_tls(vdsmd.port, context))
    stream.sendall(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
    assert b" 200 " in stream.recv(4096)
    clients.enter_context(socket.create_connection(("localhost", vdsmd.port)))


def open_tls(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    connection = socket.create_connection(("localhost", port), 10)
    return context.wrap_socket(connection, server_hostname="localhost")
