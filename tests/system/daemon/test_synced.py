"""What is acknowledged is on disk: the log of system calls shows every write synced before the client is told."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.strace import Act, Kind, make_command, read_acts
from tests.system.vdsmd import Pool, Vdsmd, Volume

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture
def traced(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[Vdsmd]:
    """A daemon whose system calls are in tmp_path/calls."""
    with Vdsmd(libvirtd.uri, wrapper=make_command(tmp_path / "calls")) as daemon:
        yield daemon


def find_unsynced(acts: list[Act], below: Path, told: int) -> list[str]:
    """What was done below a folder before the line `told` and was not on disk then.

    Contents need a sync of their file, entries one of their folder; a sync counts that begins after the deed is done
    and has ended when the client is told. Where a folder itself was removed, its removal is what must be synced.
    """
    done = [act for act in acts if act.ends < told]
    syncs = [act for act in done if act.kind is Kind.SYNC]
    removed = {act.path / act.text for act in done if act.kind is Kind.REMOVAL}
    missing = []
    for act in done:
        if act.kind in (Kind.SEND, Kind.SYNC) or not act.path.is_relative_to(below) or act.path in removed:
            continue
        if not any(sync.path == act.path and sync.begins > act.ends for sync in syncs):
            missing.append(f"{act.kind.value} {act.path} {act.text}")
    return missing


def find_answer(acts: list[Act], *words: str) -> int:
    """The line where the first message begins that has all these words."""
    return next(act.begins for act in acts if act.kind is Kind.SEND and all(word in act.text for word in words))


def test_a_volume_is_on_disk_before_anybody_is_told(traced: Vdsmd, tmp_path: Path) -> None:
    pool = Pool.create(traced)
    base = pool.create_volume()
    volume = Volume(image_id=base.image_id, parent_id=base.volume_id)
    traced.client.subscribe()  # the event tells of the end, too, mostly sooner than the status
    created = pool.begin_create(volume)
    traced.wait_task(created, clear=False)
    deleted = pool.begin_delete(volume)
    traced.wait_task(deleted, clear=False)
    traced.stop()

    acts = read_acts(tmp_path / "calls")
    told_of_task = find_answer(acts, "MESSAGE", f'\\"result\\":\\"{created}\\"')
    told_of_end = find_answer(acts, created, '\\"finished\\"')
    told_of_removal = find_answer(acts, deleted, '\\"finished\\"')
    assert told_of_task < told_of_end < told_of_removal
    tasks, data = pool.path / "master/tasks", pool.get_data_path(volume)
    for told, wanted in (
        (told_of_task, {(Kind.ENTRY, tasks, created)}),
        (told_of_end, {(Kind.WRITE, data, ""), (Kind.ENTRY, data.parent, f"{data.name}.meta")}),
        (told_of_removal, {(Kind.REMOVAL, data.parent, data.name), (Kind.REMOVAL, data.parent, f"{data.name}.meta")}),
    ):
        done = {(act.kind, act.path, act.text) for act in acts if act.ends < told}
        assert wanted <= done, "the log does not show the work itself"
        # Earlier forms of a task's record may come back: the newest one counts.
        old_forms = [act for act in acts if act.kind is Kind.REMOVAL and ".backup" in str(act.path / act.text)]
        assert find_unsynced([act for act in acts if act not in old_forms], pool.path, told) == []
