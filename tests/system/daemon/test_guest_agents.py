"""A real guest with both agents: what they tell through qemu's channels, what it is told, and how it shuts down."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from lab import debian
from lab.commands import PartFailed
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import LIMIT_S, Vdsmd, make_id, poll

AGENT = Path(__file__).parents[3] / "guest/vdsm_guest_agent.py"
BOOT_LIMIT_S = 240.0
SILENT = "its agent does not answer"
QUICK = {
    "vars": {"vm_sample_interval": "0.5"},
    "log": {"levels": "vdsm.virt.guest.poller=DEBUG"},  # all that is told of a silent agent after the first time
}
pytestmark = [
    pytest.mark.skipif(debian.why_not() is not None, reason=str(debian.why_not())),
    pytest.mark.timeout(900),  # the first run on a machine makes the guest
]


class Inside:
    """A VM of the daemon that has Debian and both agents in it."""

    def __init__(self, vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
        self.vdsmd = vdsmd
        self.libvirtd = libvirtd
        self.vm_id = make_id()
        self.console = vdsmd.root / "console"
        guest = debian.get_guest()
        folder = vdsmd.root / "inside"
        folder.mkdir()
        disk, program = folder / "disk.qcow2", folder / "program"
        guest.create_overlay(disk)
        code = AGENT.read_bytes()
        program.write_bytes(code + b"\n" * (-len(code) % 512))
        for file in (disk, program):
            os.chmod(file, 0o666)
        xml = guest.make_domain("debian", disk, self.console)
        xml = xml.replace("</name>", f"</name><uuid>{self.vm_id}</uuid>", 1)
        xml = xml.replace("<on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot>", "")
        xml = xml.replace("<memballoon model='none'/>", "<memballoon model='virtio'><stats period='1'/></memballoon>")
        xml = xml.replace("bus='virtio'/>", "bus='virtio'/><serial>root-disk</serial>", 1)
        xml = xml.replace(
            "<devices>",
            f"""<devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file={quoteattr(str(program))}/><target dev='vdb' bus='virtio'/>
      <readonly/><serial>{debian.PROGRAM_SERIAL}</serial>
    </disk>
    <channel type='unix'>
      <source mode='bind' path={quoteattr(str(vdsmd.root / "agent.sock"))}/>
      <target type='virtio' name='ovirt-guest-agent.0'/>
    </channel>""",
            1,
        )
        vdsmd.call("VM.create", vmID=self.vm_id, vmParams={"xml": xml})

    def get_stats(self) -> dict[str, Any]:
        return dict(self.vdsmd.get_stats(self.vm_id))

    def wait(self, what: str, holds: Any, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """The statistics as soon as that holds of them."""

        def look() -> dict[str, Any] | None:
            stats = self.get_stats()
            assert stats["status"] != "Down" or holds(stats), stats
            return stats if holds(stats) else None

        try:
            found: dict[str, Any] = poll(look, what, limit_s)
        except (AssertionError, PartFailed) as error:
            raise AssertionError(f"{self.get_stats()}\n{self.console.read_text(errors='replace')[-3000:]}") from error
        return found


@pytest.fixture(scope="module")
def inside(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[Inside]:
    libvirtd = _libvirtd_of_session
    libvirtd.start()
    with Vdsmd(libvirtd.uri, QUICK) as vdsmd:
        yield Inside(vdsmd, libvirtd)
        vdsmd.kill()
        libvirtd.kill_guests()


def test_what_agents_tell(inside: Inside) -> None:
    stats = inside.wait(
        "both agents have spoken",
        lambda stats: (
            stats.get("guestName") == debian.HOSTNAME
            and "netIfaces" in stats
            and "lastLogin" not in stats
            and any(name.startswith("qemu-guest-agent-") for name in stats["appsList"])
            and any(name.startswith("kernel-") for name in stats["appsList"])
            and stats["guestCPUCount"] > 0
            and any(name.startswith("linux-image-") for name in stats["appsList"])
            and "guestTimezone" in stats
            and "disksUsage" in stats
        ),
        BOOT_LIMIT_S,
    )
    assert stats["status"] == "Up"
    assert stats["guestFQDN"] == debian.HOSTNAME
    assert stats["guestCPUCount"] == 1
    assert (stats["guestOsInfo"]["type"], stats["guestOsInfo"]["arch"]) == ("linux", "x86_64")
    assert stats["guestOsInfo"]["distribution"] == "Debian GNU/Linux"
    assert stats["guestOs"] == stats["guestOsInfo"]["kernel"]
    assert f"kernel-{stats['guestOs']}" in stats["appsList"]
    assert stats["guestTimezone"]["offset"] == 0
    assert [card["inet"] for card in stats["netIfaces"] if card["name"] == "lo"] == [["127.0.0.1"]]
    [root] = [mount for mount in stats["disksUsage"] if mount["path"] == "/"]
    assert (root["fs"], 0 < int(root["used"]) < int(root["total"]) <= 2**30) == ("ext4", True)


def test_memory_of_the_balloon_and_the_agent(inside: Inside) -> None:
    stats = inside.wait(
        "both have spoken", lambda stats: {"mem_total", "mem_cached"} <= stats.get("memoryStats", {}).keys()
    )
    memory = stats["memoryStats"]
    told = inside.libvirtd.run("virsh", "-q", "dommemstat", inside.vm_id).split()
    dommemstat = dict(zip(told[::2], map(int, told[1::2]), strict=True))
    assert int(memory["mem_total"]) == dommemstat["available"]
    assert int(memory["mem_unused"]) == pytest.approx(dommemstat["unused"], rel=0.2)
    assert int(memory["mem_free"]) == pytest.approx(dommemstat["unused"] + dommemstat["disk_caches"], rel=0.2)
    assert 150_000 < int(memory["mem_total"]) < 256 * 1024
    assert 0 < int(memory["mem_unused"]) <= int(memory["mem_free"]) < int(memory["mem_total"])
    assert 0 < int(memory["mem_cached"]) < int(memory["mem_total"]), "only the oVirt agent tells this"
    assert 0 < int(stats["memUsage"]) < 100


def test_names_of_disks_are_in_the_definition(inside: Inside) -> None:
    def look() -> bool:
        xml = inside.vdsmd.call("Host.dumpxmls", vmList=[inside.vm_id])[inside.vm_id]
        return "guestName>/dev/vda</" in xml

    poll(look, "the disk's name inside is known", 60)


def test_the_agent_obeys(inside: Inside) -> None:
    inside.vdsmd.call("VM.desktopLock", vmID=inside.vm_id)
    inside.wait("the session is locked", lambda stats: stats["session"] == "Locked")
    inside.vdsmd.call("VM.desktopLogoff", vmID=inside.vm_id, force=False)
    inside.wait("nobody is logged in", lambda stats: stats["session"] == "LoggedOff")


def test_a_guest_that_stands_still_is_not_asked(inside: Inside) -> None:
    before = inside.vdsmd.log.stat().st_size
    inside.vdsmd.call("VM.pause", vmID=inside.vm_id)
    begin = time.monotonic()
    poll(lambda: time.monotonic() - begin > 12, "two turns", 60, 0.5)
    inside.vdsmd.call("VM.cont", vmID=inside.vm_id)
    assert SILENT not in inside.vdsmd.read_log(before)
    assert inside.get_stats()["status"] == "Up"


def test_an_agent_that_falls_silent_is_left_alone(inside: Inside) -> None:
    pid = inside.libvirtd.qemu_pid("debian")
    assert pid is not None
    before = inside.vdsmd.log.stat().st_size
    os.kill(pid, signal.SIGSTOP)
    try:
        poll(lambda: SILENT in inside.vdsmd.read_log(before), "the agent is found silent", 60)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "written off: guest-" not in inside.vdsmd.read_log(), "libvirt gave up before we did"


def test_a_new_daemon_finds_both_agents(inside: Inside) -> None:
    inside.vdsmd.restart()
    inside.wait(
        "both agents have spoken again",
        lambda stats: (
            stats.get("guestName") == debian.HOSTNAME
            and any(name.startswith("linux-image-") for name in stats["appsList"])
        ),
    )


def test_the_guest_shuts_down_when_its_agent_is_asked(inside: Inside) -> None:
    begin = time.monotonic()
    inside.vdsmd.call("VM.shutdown", vmID=inside.vm_id, delay=0, message="", timeout=200)
    stats = inside.wait("the guest is off", lambda stats: stats["status"] == "Down", BOOT_LIMIT_S)
    assert (stats["exitCode"], stats["exitReason"]) == (0, 6)
    assert time.monotonic() - begin < 150, "the first way that was tried did it"
    assert "cannot be shut down" not in inside.vdsmd.read_log()
