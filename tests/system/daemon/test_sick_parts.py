"""One sick part hurts only itself: of many VMs one qemu is stopped; libvirtd is stopped, killed and started again."""

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.rounds import SOAK_FACTOR
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import NOT_READY, Pool, Vdsmd, Volume, poll
from vdsm.wire.client import CallFailed, Client

VMS = 50 if SOAK_FACTOR else 20
CALLS = 15
GROWTH, NOISE_S = 1.5, 0.03
"""A median may grow by half; below the noise of a busy machine nothing is said."""
ATTEMPTS = 4
DOWN_AT_ONCE_S = 1.0
SETTINGS = {"vars": {"vm_sample_interval": "0.5", "vm_command_timeout": "5", "host_sample_stats_interval": "1"}}


@dataclass
class Herd:
    """The daemon with its VMs, a volume, and how long each verb usually takes."""

    vdsmd: Vdsmd
    libvirtd: PrivateLibvirtd
    pool: Pool
    volume: Volume
    vm_ids: list[str]
    usual_s: dict[str, float]

    def list_verbs(self, *, power: bool) -> dict[str, Callable[[Client], object]]:
        """The verbs that are measured, on the first VM: those that ask libvirt only with `power`."""
        vm, place = {"vmID": self.vm_ids[0]}, self.pool.place(self.volume)
        verbs: dict[str, Callable[[Client], object]] = {
            "VM.getStats": lambda client: client.call("VM.getStats", vm),
            "Host.getAllVmStats": lambda client: client.call("Host.getAllVmStats"),
            "Host.getVMList": lambda client: client.call("Host.getVMList"),
            "Host.ping2": lambda client: client.call("Host.ping2"),
            "Host.getStats": lambda client: client.call("Host.getStats"),
            "Volume.getInfo": lambda client: client.call("Volume.getInfo", place),
            "Volume.create, delete": lambda client: self._create_and_delete(),
        }
        if power:
            verbs["VM.pause, cont"] = lambda client: (client.call("VM.pause", vm), client.call("VM.cont", vm))
        return verbs

    def _create_and_delete(self) -> None:
        volume = self.pool.create_volume()
        assert self.vdsmd.wait_task(self.pool.begin_delete(volume))["code"] == 0

    def measure(self, *, power: bool) -> dict[str, float]:
        """The median of each verb, in seconds."""
        medians = {}
        for name, call in self.list_verbs(power=power).items():
            times = []
            for _ in range(CALLS if "," not in name else CALLS // 3):
                begin = time.perf_counter()
                call(self.vdsmd.client)
                times.append(time.perf_counter() - begin)
            medians[name] = statistics.median(times)
        return medians

    def check_unhurt(self, *, power: bool) -> None:
        """No verb takes longer than usual. The machine may be busy with other tests, so a second look is allowed."""
        for _ in range(ATTEMPTS):
            measured = self.measure(power=power)
            slow = {name: took_s for name, took_s in measured.items() if took_s > self._get_limit_s(name)}
            if not slow:
                return
        assert not slow, f"slower than usual: {slow}, usually {self.usual_s}"

    def _get_limit_s(self, name: str) -> float:
        return max(self.usual_s[name] * GROWTH, self.usual_s[name] + NOISE_S)

    def get_all_stats(self) -> dict[str, dict[str, object]]:
        return {stats["vmId"]: stats for stats in self.vdsmd.call("Host.getAllVmStats")}

    def wait_sampled(self, vm_ids: list[str]) -> None:
        """Return when each of these VMs has been sampled after now."""
        asked_s = time.monotonic()

        def is_sampled() -> bool:
            stats = self.get_all_stats()
            ages = [stats[vm_id].get("sampleAge") for vm_id in vm_ids]
            return all(isinstance(age, float) and age < time.monotonic() - asked_s for age in ages)

        poll(is_sampled, "these VMs are sampled again")

    def check_all_well(self) -> None:
        """All VMs are up, are sampled, and obey."""
        self.wait_sampled(self.vm_ids)
        stats = self.get_all_stats()
        assert {figures["status"] for figures in stats.values()} <= {"Up", "Powering up"}
        assert stats.keys() == set(self.vm_ids)
        for vm_id in self.vm_ids:
            self.vdsmd.call("VM.pause", vmID=vm_id)
            self.vdsmd.call("VM.cont", vmID=vm_id)
        assert len(self.list_qemus()) == VMS

    def list_qemus(self) -> set[int]:
        pids = (self.libvirtd.qemu_pid(f"vm-{vm_id[:8]}") for vm_id in self.vm_ids)
        return {pid for pid in pids if pid is not None}

    @contextmanager
    def stopped_qemu(self, vm_id: str) -> Iterator[None]:
        pid = self.libvirtd.qemu_pid(f"vm-{vm_id[:8]}")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def herd(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[Herd]:
    libvirtd = _libvirtd_of_session
    libvirtd.start()
    with Vdsmd(libvirtd.uri, SETTINGS) as vdsmd:
        pool = Pool.create(vdsmd)
        vm_ids = [vdsmd.create_vm(wait=False) for _ in range(VMS)]
        for vm_id in vm_ids:
            vdsmd.wait_status(vm_id, "Up", "Powering up")
        herd = Herd(vdsmd, libvirtd, pool, pool.create_volume(), vm_ids, {})
        herd.wait_sampled(vm_ids)
        herd.measure(power=True)  # the guests' firmware comes to rest meanwhile
        herd.usual_s = herd.measure(power=True)
        yield herd
        libvirtd.start()
        vdsmd.kill()
        libvirtd.kill_guests()


def test_one_stopped_qemu(herd: Herd) -> None:
    sick = herd.vm_ids[7]
    others = [vm_id for vm_id in herd.vm_ids if vm_id != sick]
    with herd.stopped_qemu(sick), ThreadPoolExecutor(1) as thread, herd.vdsmd.connect_tls() as beside:
        stuck = thread.submit(beside.call, "VM.pause", {"vmID": sick})
        herd.wait_sampled(others)
        herd.check_unhurt(power=True)
        with pytest.raises(CallFailed):
            stuck.result()
        poll(lambda: herd.vdsmd.get_stats(sick)["monitorResponse"] == "-1", "the sick VM is told apart")
        assert {herd.vdsmd.get_stats(vm_id)["monitorResponse"] for vm_id in others} == {"0"}
        herd.check_unhurt(power=True)
    poll(lambda: obeys(herd, sick), "the sick VM obeys again")
    herd.check_all_well()


def obeys(herd: Herd, vm_id: str) -> bool:
    """Whether the VM can be paused and resumed; it may be paused already."""
    try:
        if herd.vdsmd.get_stats(vm_id)["status"] != "Paused":
            herd.vdsmd.call("VM.pause", vmID=vm_id)
        herd.vdsmd.call("VM.cont", vmID=vm_id)
    except CallFailed:
        return False
    return True


def test_libvirtd_stopped_killed_and_started(herd: Herd) -> None:
    libvirtd, vdsmd = herd.libvirtd, herd.vdsmd
    pids = herd.list_qemus()
    libvirtd.freeze()
    with ThreadPoolExecutor(1) as thread, vdsmd.connect_tls() as beside:
        stuck = thread.submit(beside.call, "VM.pause", {"vmID": herd.vm_ids[3]})
        herd.check_unhurt(power=False)
        with pytest.raises(CallFailed):
            stuck.result()
    libvirtd.kill()
    poll(lambda: is_told_down(vdsmd, herd.vm_ids[0]), "it is known that libvirtd is gone")
    begin = time.monotonic()
    for vm_id in herd.vm_ids:
        assert is_told_down(vdsmd, vm_id)
    assert time.monotonic() - begin < DOWN_AT_ONCE_S, "a refusal for each VM"
    herd.check_unhurt(power=False)
    assert set(herd.get_all_stats()) == set(herd.vm_ids)
    assert not {stats["status"] for stats in herd.get_all_stats().values()} & {"Down"}
    libvirtd.start()
    poll(lambda: obeys(herd, herd.vm_ids[0]), "libvirtd is used again")
    herd.check_all_well()
    assert herd.list_qemus() == pids
    herd.check_unhurt(power=True)


def is_told_down(vdsmd: Vdsmd, vm_id: str) -> bool:
    """Whether a verb that needs libvirt is refused with a clear word."""
    with pytest.raises(CallFailed) as caught:
        vdsmd.call("VM.pause", vmID=vm_id)
    return "libvirt" in caught.value.message.lower()


def test_the_daemon_starts_without_libvirtd_and_finds_its_vms_later(herd: Herd) -> None:
    herd.vdsmd.kill()
    herd.libvirtd.kill()
    herd.vdsmd.start(wait=False)
    herd.vdsmd.wait_listening()
    for verb in ("Host.ping2", "Host.getVMList"):
        with pytest.raises(CallFailed) as caught:
            herd.vdsmd.call(verb)
        assert caught.value.code == NOT_READY
    herd.libvirtd.start()
    herd.vdsmd.wait_ready()
    herd.check_all_well()
