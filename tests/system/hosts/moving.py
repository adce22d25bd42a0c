"""A VM that writes and verifies, and moves between the daemons of two hosts on one storage domain."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from lab.commands import PartFailed, wait_for
from lab.shared_pool import SharedPool, trust
from lab.vdsmd import Settings
from tests.system.hosts.verifier import BOOT_SECTOR, DISK_BYTES, read_count
from tests.system.vdsmd import CallFailed, Volume, make_id

SETTINGS: Settings = {
    "vars": {"migration_retry_timeout": 1, "migration_monitor_interval": 0.5, "vm_sample_interval": 1}
}
SLOW = {"maxBandwidth": 1, "convergenceSchedule": {"init": [{"name": "setDowntime", "params": ["10"]}], "stalling": []}}
"""So the guest of these tests, which changes much more of its memory, never arrives."""
UP = ("Up", "Powering up")
ARRIVAL_S = 60.0
SETTLED_S = 120.0


@dataclass
class Mover:
    """The VM; `here` is the host that should have it."""

    here: SharedPool
    there: SharedPool
    vm_id: str
    volume: Volume
    count: int = 0

    @classmethod
    def create(cls, here: SharedPool, there: SharedPool) -> "Mover":
        volume = here.create_volume(Volume(format="RAW"), DISK_BYTES)
        boot = here.host.folder.parent / "boot-sector"
        boot.write_bytes(BOOT_SECTOR)
        to = f"of={here.get_mounted_path(volume)}"
        here.run_on_host("dd", f"if={boot}", to, "conv=notrunc,fsync", "status=none")
        vm_id = here.vdsmd.create_vm(devices=[here.drive(volume)])
        return cls(here, there, vm_id, volume)

    def migrate(self, **params: object) -> None:
        """Ask for it."""
        whole = {"vmId": self.vm_id, "dst": self.there.host.address, **params}
        self.here.vdsmd.call("VM.migrate", vmID=self.vm_id, params=whole)

    def wait_arrived(self) -> None:
        """Until it is there and not here; from then on `here` is there."""
        assert self.here.vdsmd.wait_status(self.vm_id, "Down")["exitReason"] == 4
        self.there.vdsmd.wait_status(self.vm_id, *UP)
        self.here.vdsmd.call("VM.destroy", vmID=self.vm_id)
        self.here, self.there = self.there, self.here
        self.check()

    def wait_stayed(self) -> dict[str, Any]:
        """Until it is as it was, and forgotten there; how the migration ended."""
        self.here.vdsmd.wait_status(self.vm_id, *UP)
        wait_for(lambda: self.get_status(self.there) is None, "nothing is left there", ARRIVAL_S)
        self.check()
        return dict(self.get_migration()["status"])

    def settle(self) -> bool:
        """Until both daemons agree on who has it, which is `here` then; whether it moved."""
        wait_for(lambda: self._has_moved() is not None, "both daemons agree on who has it", SETTLED_S)
        if has_moved := self._has_moved():
            self.here.vdsmd.call("VM.destroy", vmID=self.vm_id)
            self.here, self.there = self.there, self.here
        self.check()
        return bool(has_moved)

    def _has_moved(self) -> bool | None:
        mine, theirs = self.get_status(self.here), self.get_status(self.there)
        if mine in UP and theirs is None:
            return False
        return True if mine == "Down" and theirs in UP else None

    def get_migration(self) -> dict[str, Any]:
        return dict(self.here.vdsmd.call("VM.getMigrationStatus", vmID=self.vm_id))

    def get_status(self, pool: SharedPool) -> str | None:
        """What that daemon says of the VM; None when it knows none."""
        try:
            return str(pool.vdsmd.get_stats(self.vm_id)["status"])
        except CallFailed as error:
            assert error.code == 1, error
            return None

    def list_running(self) -> list[SharedPool]:
        """The hosts where libvirt says that it runs."""
        found = []
        for pool in (self.here, self.there):
            with suppress(PartFailed):
                if pool.host.run("virsh", "-q", "domstate", self.vm_id).split()[:1] == ["running"]:
                    found.append(pool)
        return found

    def is_prepared(self, pool: SharedPool) -> bool:
        """Whether its image is prepared on that host."""
        link = pool.vdsmd.paths.root / "run/vdsm/storage" / self.here.domain_id / self.volume.image_id
        return link.is_symlink()  # what is behind it only the host itself sees

    def check(self) -> None:
        """It is on one host alone, as both daemons say; its disk is prepared there alone, is whole, and grows."""
        assert self.list_running() == [self.here]
        wait_for(lambda: not self.is_prepared(self.there), "the image is released", ARRIVAL_S)
        assert self.is_prepared(self.here)
        self.here.vdsmd.call("VM.pause", vmID=self.vm_id)
        count = read_count(self._read_disk())
        self.here.vdsmd.call("VM.cont", vmID=self.vm_id)
        assert count >= self.count, "the guest counts backwards"
        self.count = count
        wait_for(lambda: self._peek() > count, "the guest goes on", ARRIVAL_S)

    def _read_disk(self) -> bytes:
        copy = self.here.host.folder.parent / f"copy-{make_id()}"
        source = f"if={self.here.get_mounted_path(self.volume)}"
        self.here.run_on_host("dd", source, f"of={copy}", "iflag=direct", "bs=1M", "status=none")
        content = copy.read_bytes()
        copy.unlink()
        return content

    def _peek(self) -> int:
        """The largest number on its disk while it runs."""
        disk = self._read_disk()[2048 * 512 :]
        return max(int.from_bytes(disk[at : at + 4], "little") for at in range(0, 64 * 4096, 4096))


@pytest.fixture
def settings() -> Settings:
    """Quick ones."""
    return SETTINGS


@pytest.fixture
def mover(pools: tuple[SharedPool, SharedPool]) -> Mover:
    """A VM on the first of two hosts, which is the SPM."""
    trust(pools)
    assert pools[0].try_spm() == 0
    return Mover.create(*pools)
