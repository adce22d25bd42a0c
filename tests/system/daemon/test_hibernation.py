"""VMs of the real thing are saved to volumes and taken up again; a daemon that is killed amid that goes on."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.hosts.verifier import BOOT_SECTOR, DISK_BYTES, read_count
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import CallFailed, Pool, Vdsmd, Volume, kill_during, poll

UP = ("Up", "Powering up")


class Sleeper:
    """A VM whose guest writes and verifies, and the volumes for its memory."""

    def __init__(self, vdsmd: Vdsmd, pool: Pool) -> None:
        self.vdsmd, self.pool, self.count = vdsmd, pool, 0
        self.disk = pool.create_volume(Volume(format="RAW"), DISK_BYTES)
        with pool.get_data_path(self.disk).open("r+b") as file:
            file.write(BOOT_SECTOR)
        self.memory = pool.create_volume(Volume(format="RAW"), 64 << 20)
        self.beside = pool.create_volume(Volume(format="RAW"), 64 << 10)
        self.vm_id = vdsmd.create_vm(devices=[pool.drive(self.disk)])

    @property
    def handle(self) -> str:
        first, second = self.memory, self.beside
        volumes = (first.image_id, first.volume_id, second.image_id, second.volume_id)
        return ",".join((self.pool.domain_id, self.pool.pool_id, *volumes))

    def save(self) -> None:
        self.vdsmd.call("VM.hibernate", vmID=self.vm_id, hibernationVolHandle=self.handle)

    def wake(self, *, wait: bool = True, handle: str = "") -> None:
        """Take it up again, and wait until the guest goes on."""
        self.vdsmd.create_vm(
            vm_id=self.vm_id, devices=[self.pool.drive(self.disk)], hiberVolHandle=handle or self.handle, wait=wait
        )
        if wait:
            poll(lambda: self._peek() > self.count, "the guest goes on")

    def check_asleep(self) -> None:
        """It is down for the right reason, its volumes are released, and its disk is whole."""
        stats = self.vdsmd.wait_status(self.vm_id, "Down")
        assert (stats["exitCode"], stats["exitReason"]) == (0, 5), stats
        poll(lambda: not self.list_prepared(), "the images are released")
        count = read_count(self.pool.get_data_path(self.disk).read_bytes())
        assert count > self.count
        self.count = count

    def list_prepared(self) -> set[str]:
        images = Path(self.vdsmd.root, "run/vdsm/storage", self.pool.domain_id)
        return {path.name for path in images.iterdir()} if images.exists() else set()

    def _peek(self) -> int:
        disk = self.pool.get_data_path(self.disk).read_bytes()[2048 * 512 :]
        return max(int.from_bytes(disk[at : at + 4], "little") for at in range(0, 64 * 4096, 4096))


@pytest.fixture
def sleeper(vdsmd: Vdsmd, pool: Pool) -> Sleeper:
    made = Sleeper(vdsmd, pool)
    poll(lambda: made._peek() > 0, "the guest writes")
    return made


def test_a_vm_sleeps_and_goes_on_where_it_was(sleeper: Sleeper, libvirtd: PrivateLibvirtd) -> None:
    vdsmd, vm_id = sleeper.vdsmd, sleeper.vm_id
    for _ in range(2):
        sleeper.save()
        assert vdsmd.get_stats(vm_id)["status"] in ("Saving State", "Down")
        sleeper.check_asleep()
        assert vdsmd.call("VM.getMigrationStatus", vmID=vm_id)["status"] == {"code": 0, "message": "SaveState done"}
        vdsmd.call("VM.destroy", vmID=vm_id)
        sleeper.wake()
        assert vdsmd.get_stats(vm_id)["status"] == "Up"
        poll(lambda: sleeper.list_prepared() == {sleeper.disk.image_id}, "only its disk is prepared")
        assert libvirtd.run("virsh", "-q", "domstate", "--reason", vm_id).split() == ["running", "(restored)"]


def test_what_cannot_be_saved_or_taken_up(sleeper: Sleeper) -> None:
    vdsmd, vm_id, pool = sleeper.vdsmd, sleeper.vm_id, sleeper.pool
    for handle in ({"a": 1}, "x", sleeper.handle[:-1]):
        with pytest.raises(CallFailed) as refused:
            vdsmd.call("VM.hibernate", vmID=vm_id, hibernationVolHandle=handle)
        assert refused.value.code == 100
    missing = sleeper.handle.replace(sleeper.memory.image_id, Volume().image_id)
    vdsmd.call("VM.hibernate", vmID=vm_id, hibernationVolHandle=missing)
    vdsmd.wait_status(vm_id, *UP)
    poll(lambda: sleeper.list_prepared() == {sleeper.disk.image_id}, "only its disk is prepared")
    sleeper.save()
    sleeper.check_asleep()
    vdsmd.call("VM.destroy", vmID=vm_id)
    pool.get_data_path(sleeper.beside).write_bytes(b"cos\nsystem\n(S'touch /tmp/evil'\ntR.".ljust(4096, b"\0"))
    memory = pool.get_data_path(sleeper.memory)
    whole = memory.read_bytes()
    memory.write_bytes(b"not a memory".ljust(4096, b"\0"))
    sleeper.wake(wait=False)
    stats = vdsmd.wait_status(vm_id, "Down")
    assert stats["exitMessage"].startswith("Wake up from hibernation failed:") and stats["exitCode"] == 1
    poll(lambda: not sleeper.list_prepared(), "the images are released")
    vdsmd.call("VM.destroy", vmID=vm_id)
    memory.write_bytes(whole)
    sleeper.wake()


@pytest.mark.timeout(900)
def test_a_daemon_that_is_killed_amid_it(sleeper: Sleeper, rounds: Callable[[int, int], int]) -> None:
    vdsmd, vm_id = sleeper.vdsmd, sleeper.vm_id

    def save() -> None:
        sleeper.save()
        vdsmd.wait_status(vm_id, "Down")

    for _ in range(rounds(4, 30)):
        kill_during(vdsmd, random.uniform(0, 1.5), save)
        vdsmd.start()
        if vdsmd.wait_status(vm_id, "Down", *UP)["status"] != "Down":
            poll(lambda: sleeper.list_prepared() == {sleeper.disk.image_id}, "only its disk is prepared")
            poll(lambda: vdsmd.get_stats(vm_id)["status"] in UP, "it runs")
            before = sleeper._peek()
            poll(lambda: sleeper._peek() > before, "the guest goes on")  # noqa: B023
            save()
        sleeper.check_asleep()
        vdsmd.call("VM.destroy", vmID=vm_id)
        kill_during(vdsmd, random.uniform(0, 1.5), lambda: sleeper.wake())
        vdsmd.start()
        if not vdsmd.call("Host.getVMList"):
            sleeper.wake()
        elif vdsmd.wait_status(vm_id, "Down", *UP)["status"] == "Down":
            poll(lambda: not sleeper.list_prepared(), "the images are released")
            vdsmd.call("VM.destroy", vmID=vm_id)
            sleeper.wake()
        poll(lambda: sleeper.list_prepared() == {sleeper.disk.image_id}, "only its disk is prepared")
