"""VMs of one daemon move to another's and back, or stay where they are when something is in the way."""

from typing import Any

import pytest

from lab.commands import wait_for
from tests.system.hosts.moving import SLOW, UP, Mover, mover, settings
from tests.system.vdsmd import CallFailed

__all__ = ["mover", "settings"]  # fixtures: pytest finds them here
pytestmark = pytest.mark.timeout(600)


def refuse(mover: Mover, method: str, **params: object) -> int:
    """The code that the call fails with."""
    with pytest.raises(CallFailed) as refused:
        mover.here.vdsmd.call(method, vmID=mover.vm_id, **params)
    return refused.value.code


def wait_moving(mover: Mover) -> None:
    """Until its memory is on its way."""
    wait_for(lambda: mover.get_migration()["progress"] > 0, "its memory is on its way")


def test_there_and_back_in_every_way(mover: Mover) -> None:
    mover.check()
    assert mover.get_migration() == {"status": {"code": 0, "message": "Done"}, "progress": 0}
    ways: list[dict[str, Any]] = [
        {},
        {"autoConverge": True, "compressed": True, "abortOnError": True, "maxBandwidth": 100},
        {"parallel": 2},
        {"tunneled": True},
        {"encrypted": True},
    ]
    for way in ways:
        home = mover.here
        mover.migrate(**way)
        mover.wait_arrived()
        assert mover.here is not home, way


def test_what_is_seen_of_a_migration(mover: Mover) -> None:
    here, there = mover.here.vdsmd, mover.there.vdsmd
    with here.connect_tls() as left, there.connect_tls() as reached:
        for connection in (left, reached):
            connection.subscribe()
        mover.migrate(**SLOW)
        assert here.get_stats(mover.vm_id)["status"] == "Migration Source"
        assert mover.get_migration()["status"] == {"code": 0, "message": "Migration in progress"}
        wait_for(lambda: mover.get_status(mover.there) == "Migration Destination", "it is expected there")
        assert refuse(mover, "VM.migrate", params={"vmId": mover.vm_id, "dst": "x"}) == 51
        assert refuse(mover, "VM.reset") == 51 and refuse(mover, "VM.shutdown") == 51
        wait_moving(mover)
        assert 0 < here.get_stats(mover.vm_id)["migrationProgress"] <= 100
        here.call("VM.migrateChangeParams", vmID=mover.vm_id, params={"maxBandwidth": 1000})
        mover.wait_arrived()
        told = list_events(left)
        statuses = [params[mover.vm_id]["status"] for method, params in told if method.startswith("|virt|VM_status|")]
        assert statuses == ["Migration Source", "Down"]
        moves = [params[mover.vm_id] for method, params in told if method.startswith("|virt|VM_migration_status|")]
        assert [move["progress"] for move in moves] == sorted(move["progress"] for move in moves)
        assert moves[-1]["progress"] == 100 and moves[-1]["downtime"] > 0 and moves[-1]["postcopy"] is False
        arrived = list_events(reached)[0][1][mover.vm_id]
        assert arrived["status"] == "Up" and arrived["hash"], "the first that is told is its arrival"
    assert refuse(mover, "VM.migrateChangeParams", params={"maxBandwidth": 1}) == 81


def list_events(connection: Any) -> list[tuple[str, dict[str, Any]]]:
    """What was told so far."""
    told = []
    while (notice := connection.get_event(1.0)) is not None:
        if notice.method.startswith("|virt|"):
            told.append((notice.method, notice.params))
    return told


def test_who_stays_is_as_before(mover: Mover) -> None:
    here, there = mover.here, mover.there
    here.vdsmd.call("VM.migrateCancel", vmID=mover.vm_id)  # one that never migrated
    mover.migrate(**SLOW)
    wait_moving(mover)
    here.vdsmd.call("VM.migrateCancel", vmID=mover.vm_id)
    assert mover.wait_stayed() == {"code": 47, "message": "Migration canceled"}
    assert refuse(mover, "VM.migrateCancel") == 47
    mover.migrate(**SLOW)
    here.vdsmd.call("VM.migrateCancel", vmID=mover.vm_id)  # at once, wherever it is
    assert mover.wait_stayed()["code"] == 47
    for way in ({"dst": "nobody.invalid"}, {"dst": f"{there.host.address}:9"}, {"dstqemu": "192.0.2.77"}):
        mover.migrate(**way)
        assert mover.wait_stayed()["code"] != 0
    mover.migrate(incomingLimit=0)
    wait_for(lambda: "waits: " in here.vdsmd.read_log(), "it waits for room")
    here.vdsmd.call("VM.migrateCancel", vmID=mover.vm_id)
    assert mover.wait_stayed()["code"] == 47
    there.host.libvirtd.stop()
    mover.migrate(incomingLimit=2)
    here.vdsmd.wait_status(mover.vm_id, *UP)
    there.host.libvirtd.start()
    assert mover.wait_stayed()["code"] != 0
    mover.migrate()
    mover.wait_arrived()
