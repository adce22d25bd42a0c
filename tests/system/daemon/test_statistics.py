"""Statistics of real VMs, each field beside what virsh and /proc tell of the same, by the formulas of the facts."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.guests import Console, Writer, make_domain
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Vdsmd, make_id, poll

INTERVAL_S = 0.5
QUICK = {"vars": {"vm_sample_interval": INTERVAL_S}}
NAME, MAC, LIMIT = "figures", "52:54:00:00:00:07", 500_000_000
NS_PER_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
DISK_COUNTERS = {"readOps": "rd.reqs", "writeOps": "wr.reqs", "readBytes": "rd.bytes", "writtenBytes": "wr.bytes"}
CARD_COUNTERS = {"rx": "rx.bytes", "tx": "tx.bytes", "rxErrors": "rx.errs", "txErrors": "tx.errs"}
CARD_COUNTERS |= {"rxDropped": "rx.drop", "txDropped": "tx.drop"}


@dataclass
class Reading:
    """What virsh and /proc told at one moment."""

    at_s: float
    domstats: dict[str, str]
    qemu_ns: int
    """Processor time of qemu, its guest's included."""

    def __getitem__(self, key: str) -> int:
        return int(self.domstats[key])


@dataclass
class Observed:
    """A VM whose guest writes, and two ways to look at it."""

    vdsmd: Vdsmd
    libvirtd: PrivateLibvirtd
    vm_id: str
    disk: Path
    console: Console

    def read(self) -> Reading:
        text = self.libvirtd.run("virsh", "-q", "domstats", "--raw", self.vm_id)
        pairs = (line.strip().partition("=")[::2] for line in text.splitlines() if "=" in line)
        domstats = dict(pairs)
        pid = self.libvirtd.qemu_pid(NAME)
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return Reading(time.monotonic(), domstats, sum(map(int, ticks)) * NS_PER_TICK)

    def get_stats(self) -> dict[str, Any]:
        self.console.look()
        return dict(self.vdsmd.get_stats(self.vm_id))

    def wait_sampled(self, since_s: float) -> dict[str, Any]:
        """Statistics of which both samples are younger than that."""

        def look() -> dict[str, Any] | None:
            stats = self.get_stats()
            return stats if stats.get("sampleAge", 1e9) < time.monotonic() - since_s - 3 * INTERVAL_S else None

        return dict(poll(look, "a sample of now"))

    def between(self) -> tuple[Reading, dict[str, Any], Reading]:
        """A reading, statistics sampled after it, and a reading after that."""
        before = self.read()
        stats = self.wait_sampled(before.at_s)
        return before, stats, self.read()


@pytest.fixture(scope="module")
def observed(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[Observed]:
    libvirtd = _libvirtd_of_session
    libvirtd.start()
    with Vdsmd(libvirtd.uri, QUICK) as vdsmd, Console(vdsmd.root / "console") as console:
        disk, vm_id = vdsmd.root / "disk.raw", make_id()
        Writer(sectors_per_write=8, slots=64).at_rate(200_000).create_disk(disk, 64 << 20)
        os.chmod(disk, 0o666)
        xml = make_domain(NAME, disk, console.path, cache_mode="writeback")
        xml = xml.replace("</name>", f"</name><uuid>{vm_id}</uuid><features><acpi/></features>", 1)
        tune = f"<iotune><total_bytes_sec>{LIMIT}</total_bytes_sec></iotune>"
        xml = xml.replace("<target dev='vda'", f"{tune}<target dev='vda'", 1)
        devices = (
            f"<interface type='ethernet'><mac address='{MAC}'/><model type='rtl8139'/></interface>"
            "<graphics type='vnc' port='-1' autoport='yes' passwdValidTo='1970-01-01T00:00:01'>"
            "<listen type='address' address='127.0.0.1'/></graphics>"
        )
        xml = xml.replace("<memballoon model='none'/>", f"{devices}<memballoon model='virtio'/>", 1)
        vdsmd.call("VM.create", vmID=vm_id, vmParams={"xml": xml})
        vdsmd.wait_status(vm_id, "Up", "Powering up")
        console.wait_for_writes(5)
        yield Observed(vdsmd, libvirtd, vm_id, disk, console)
        vdsmd.kill()
        libvirtd.kill_guests()


def test_identity_and_times(observed: Observed) -> None:
    before = time.monotonic()
    stats = observed.get_stats()
    [same] = [one for one in observed.vdsmd.call("Host.getAllVmStats") if one["vmId"] == observed.vm_id]
    volatile = {"statusTime", "sampleAge", "elapsedTime", "disks", "network", "cpuUser", "cpuSys", "cpuUsage"}
    assert {key: stats[key] for key in stats.keys() - volatile} == {key: same[key] for key in same.keys() - volatile}
    assert (stats["vmId"], stats["vmName"], stats["vmType"]) == (observed.vm_id, NAME, "kvm")
    assert (stats["kvmEnable"], stats["acpiEnable"]) == ("false", "true")
    assert (stats["monitorResponse"], stats["clientIp"], stats["timeOffset"]) == ("0", "", "0")
    told_ms = int(stats["statusTime"]) - (2**31 - 1)
    assert int(before * 1000) <= told_ms <= int(time.monotonic() * 1000)
    pid = observed.libvirtd.qemu_pid(NAME)
    started_ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
    assert 0 <= int(stats["elapsedTime"]) - age_s + 5 < 10, "the VM began when its qemu did, or a moment before"


def test_processors(observed: Observed) -> None:
    before, stats, after = observed.between()
    assert stats["vcpuCount"] == before.domstats["vcpu.current"]
    assert stats["cpuActual"] is True
    assert (
        before["cpu.user"] + before["cpu.system"] <= int(stats["cpuUsage"]) <= after["cpu.user"] + after["cpu.system"]
    )
    slack_ns = 10 * NS_PER_TICK
    assert before.qemu_ns - slack_ns <= before["cpu.time"] <= after.qemu_ns + slack_ns, "as /proc tells"
    # Over a while, the daemon's rates are those of two readings of our own.
    begin, told = observed.read(), []
    while time.monotonic() - begin.at_s < 6:
        told.append(observed.wait_sampled(time.monotonic() - 3 * INTERVAL_S))
        assert all(f"{float(told[-1][key]):.2f}" == told[-1][key] for key in ("cpuUser", "cpuSys"))
    end = observed.read()
    seconds = end.at_s - begin.at_s
    system = 100 * sum(end[key] - begin[key] for key in ("cpu.user", "cpu.system")) / seconds / 1e9
    total = 100 * (end["cpu.time"] - begin["cpu.time"]) / seconds / 1e9
    mean_system = sum(float(stats["cpuSys"]) for stats in told) / len(told)
    mean_user = sum(float(stats["cpuUser"]) for stats in told) / len(told)
    assert mean_system == pytest.approx(system, rel=0.5, abs=3)
    assert mean_user == pytest.approx(max(0.0, total - system), rel=0.5, abs=3)


def test_disks(observed: Observed) -> None:
    before, stats, after = observed.between()
    disk = stats["disks"]["vda"]
    for field, key in DISK_COUNTERS.items():
        assert before[f"block.0.{key}"] <= int(disk[field]) <= after[f"block.0.{key}"], field
    assert int(disk["writeOps"]) > 0 and int(disk["writtenBytes"]) > 0
    assert int(disk["apparentsize"]) == observed.disk.stat().st_size == 64 << 20
    assert before["block.0.physical"] <= int(disk["truesize"]) <= after["block.0.physical"]
    assert abs(int(disk["truesize"]) - observed.disk.stat().st_blocks * 512) < 1 << 20
    for field in ("readRate", "writeRate"):
        assert repr(float(disk[field])) == disk[field]
    begin, rates, latencies = observed.read(), [], []
    while time.monotonic() - begin.at_s < 6:
        told = observed.wait_sampled(time.monotonic() - 3 * INTERVAL_S)["disks"]["vda"]
        rates.append(float(told["writeRate"]))
        latencies.append(float(told["writeLatency"]))
    end = observed.read()

    def grown(key: str) -> int:
        return end[f"block.0.{key}"] - begin[f"block.0.{key}"]

    rate = grown("wr.bytes") / (end.at_s - begin.at_s)
    assert sum(rates) / len(rates) == pytest.approx(rate, rel=0.3)
    latency = grown("wr.times") / grown("wr.reqs")
    assert min(latencies) * 0.5 <= latency <= max(latencies) * 2


def test_disks_that_rest(observed: Observed) -> None:
    """Stopped, the counters are those of virsh to the last digit, and nothing flows."""
    observed.vdsmd.call("VM.pause", vmID=observed.vm_id)
    try:
        observed.wait_sampled(time.monotonic())
        reading, stats = observed.read(), observed.get_stats()
        disk, [card] = stats["disks"]["vda"], stats["network"].values()
        assert {key: int(disk[key]) for key in DISK_COUNTERS} == {
            field: reading[f"block.0.{key}"] for field, key in DISK_COUNTERS.items()
        }
        assert (disk["readRate"], disk["writeRate"]) == ("0.0", "0.0")
        assert (disk["readLatency"], disk["writeLatency"], disk["flushLatency"]) == ("0", "0", "0")
        assert {key: int(card[key]) for key in CARD_COUNTERS} == {
            field: reading[f"net.0.{key}"] for field, key in CARD_COUNTERS.items()
        }
        assert (stats["status"], stats["pauseCode"]) == ("Paused", "NOERR")
    finally:
        observed.vdsmd.call("VM.cont", vmID=observed.vm_id)
    assert "pauseCode" not in observed.get_stats()


def test_network_cards(observed: Observed) -> None:
    tap = observed.read().domstats["net.0.name"]
    # Questions of the host for an address that nobody has: the guest receives them and sends nothing.
    ask = f"ip link set {tap} up; ip address add 192.0.2.1/24 dev {tap}; echo >/dev/udp/192.0.2.2/9"
    observed.libvirtd.run("bash", "-c", ask)
    poll(lambda: observed.read()["net.0.rx.bytes"] > 0, "something was sent to the guest")
    before, stats, after = observed.between()
    card = stats["network"][tap]
    assert (card["name"], card["macAddr"], card["speed"], card["state"]) == (tap, MAC, "100", "unknown")
    for field, key in CARD_COUNTERS.items():
        assert before[f"net.0.{key}"] <= int(card[field]) <= after[f"net.0.{key}"], field
    assert before.at_s <= card["sampleTime"] <= after.at_s
    assert int(card["rx"]) > int(card["tx"]) == 0
    sent = int(observed.libvirtd.run("bash", "-c", f"grep {tap}: /proc/net/dev").split()[9])
    assert before["net.0.rx.bytes"] <= sent, "what the host sends there the guest receives"


def test_memory(observed: Observed) -> None:
    before, stats, _ = observed.between()
    balloon = stats["balloonInfo"]
    assert (balloon["balloon_cur"], balloon["balloon_max"]) == (
        before.domstats["balloon.current"],
        before.domstats["balloon.maximum"],
    )
    assert (balloon["balloon_min"], balloon["balloon_target"]) == (str(16 * 1024), str(16 * 1024))
    assert balloon["ballooning_enabled"] is True
    assert stats["memUsage"] == "0", "a guest without a balloon's driver tells nothing"
    assert "memoryStats" not in stats


def test_displays_limits_and_the_hash(observed: Observed) -> None:
    stats = observed.get_stats()
    [display] = stats["displayInfo"]
    port = int(observed.libvirtd.run("virsh", "-q", "vncdisplay", observed.vm_id).rpartition(":")[2]) + 5900
    assert display == {"type": "vnc", "port": str(port), "tlsPort": "", "ipAddress": "127.0.0.1"}
    assert (stats["displayPort"], stats["displayIp"], stats["displayType"]) == (str(port), "127.0.0.1", "vnc")
    [tune] = stats["ioTune"]
    assert (tune["name"], tune["path"]) == ("vda", str(observed.disk))
    others = ("read_bytes_sec", "write_bytes_sec", "total_iops_sec", "read_iops_sec", "write_iops_sec")
    assert tune["ioTune"] == {"total_bytes_sec": str(LIMIT), **dict.fromkeys(others, "0")}
    observed.libvirtd.run("virsh", "-q", "blkdeviotune", observed.vm_id, "vda", "--live", "--total-bytes-sec", "0")
    changed = poll(
        lambda: found if "ioTune" not in (found := observed.get_stats()) else None, "the limit is gone here, too"
    )
    assert changed["hash"] != stats["hash"]


def test_after_a_restart_rates_come_back_and_never_leap(observed: Observed) -> None:
    observed.vdsmd.restart()
    fresh = observed.get_stats()
    if "disks" not in fresh:
        assert fresh["cpuActual"] is False and (fresh["cpuUser"], fresh["cpuSys"]) == ("0.00", "0.00")
        assert "network" not in fresh
    stats = poll(lambda: found if "disks" in (found := observed.get_stats()) else None, "two samples")
    assert float(stats["disks"]["vda"]["writeRate"]) < 20_000_000
    assert float(stats["cpuSys"]) + float(stats["cpuUser"]) < 100 * (os.cpu_count() or 1) + 50
    before, stats, after = observed.between()
    assert before["block.0.wr.bytes"] <= int(stats["disks"]["vda"]["writtenBytes"]) <= after["block.0.wr.bytes"]


def test_one_that_is_down(observed: Observed) -> None:
    pid = observed.libvirtd.qemu_pid(NAME)
    assert pid is not None
    os.kill(pid, 9)
    stats = observed.vdsmd.wait_status(observed.vm_id, "Down")
    assert set(stats) == {"vmId", "status", "statusTime", "exitCode", "exitMessage", "exitReason", "timeOffset"}
    assert (stats["exitCode"], stats["exitReason"]) == (1, 2)
