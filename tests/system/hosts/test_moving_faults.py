"""What is under a migration fails: libvirt on either side, the network, the other host. The VM stays where it is."""

from collections.abc import Callable
from functools import partial

import pytest

from lab.commands import wait_for
from lab.libvirt_tls import forget_tls
from lab.shared_pool import trust
from tests.system.hosts.moving import SLOW, UP, Mover, mover, settings
from tests.system.vdsmd import Volume

__all__ = ["mover", "settings"]  # fixtures: pytest finds them here
pytestmark = pytest.mark.timeout(900)


def begin(mover: Mover) -> None:
    """Its memory is on its way, and will be for long. A host that was away may need a moment to find its storage."""

    def is_moving() -> bool:
        if mover.get_status(mover.here) in UP:
            mover.migrate(**SLOW)
        return mover.get_migration()["progress"] > 0

    wait_for(is_moving, "its memory is on its way", pause_s=1.0)


def test_what_is_under_a_migration_fails(mover: Mover) -> None:
    here, there = mover.here, mover.there
    for host in (here.host, there.host):
        begin(mover)
        host.libvirtd.kill()
        wait_for(lambda host=host: host.libvirtd.pid is None, "libvirtd is gone")  # type: ignore[misc]
        host.libvirtd.start()
        here.vdsmd.wait_status(mover.vm_id, *UP)
        assert not mover.settle() and mover.get_migration()["status"]["code"] != 0
    fail_and_heal(mover, there.host.cut, there.host.heal)
    fail_and_heal(mover, there.host.kill, partial(come_back, mover))
    mover.migrate()
    assert mover.settle()


def fail_and_heal(mover: Mover, fail: Callable[[], object], heal: Callable[[], object]) -> None:
    """The VM is here and runs while the other host is away, and nothing is left there when it is back."""
    begin(mover)
    fail()
    mover.here.vdsmd.wait_status(mover.vm_id, *UP)
    assert mover.get_migration()["status"]["code"] != 0
    heal()
    assert not mover.settle()


def come_back(mover: Mover) -> None:
    """The other host starts again after a loss of power."""
    forget_tls(mover.there.host)
    mover.there.host.start()
    trust((mover.here, mover.there))
    mover.there.sanlock.start()
    mover.there.vdsmd.start()
    wait_for(lambda: mover.there.vdsmd.call("Host.getConnectedStoragePools"), "the pool is connected again")


def test_one_that_is_saved_here_is_taken_up_there(mover: Mover) -> None:
    here, there = mover.here, mover.there
    memory, beside = (here.create_volume(Volume(format="RAW"), size) for size in (64 << 20, 64 << 10))
    ids = (here.domain_id, here.pool_id, memory.image_id, memory.volume_id, beside.image_id, beside.volume_id)
    here.vdsmd.call("VM.hibernate", vmID=mover.vm_id, hibernationVolHandle=",".join(ids))
    assert here.vdsmd.wait_status(mover.vm_id, "Down")["exitReason"] == 5
    here.vdsmd.call("VM.destroy", vmID=mover.vm_id)
    there.vdsmd.create_vm(vm_id=mover.vm_id, devices=[there.drive(mover.volume)], hiberVolHandle=",".join(ids))
    mover.here, mover.there = there, here
    mover.check()


def test_post_copy(mover: Mover) -> None:
    schedule = {"init": [{"name": "setDowntime", "params": ["10"]}]}
    schedule["stalling"] = [{"limit": 0, "action": {"name": "postcopy", "params": []}}]  # type: ignore[dict-item]
    mover.migrate(maxBandwidth=1, convergenceSchedule=schedule)  # it would not arrive without
    here = mover.here
    mover.wait_arrived()
    assert f"VM {mover.vm_id} runs on the other host, with a part of its memory here" in here.vdsmd.read_log()
