"""Tasks of another implementation's SPM, and ours as it reads them (facts: storage §8.4, §18.7)."""

from pathlib import Path

import pytest

from tests.contract.test_storage_service import GOLDEN, House, Houses, houses
from vdsm.storage.model import VolumeRole
from vdsm.tasks.format import format_record, parse_record
from vdsm.tasks.model import TaskState
from vdsm.tasks.service import format_status
from vdsm.testing.storage import make_id

__all__ = ["houses"]  # a fixture: pytest finds it here

Files = dict[str, str]


def read_golden() -> list[Files]:
    """The files of a task that creates a base, and of one that creates a layer, each amid its work and at its end."""
    moments = (GOLDEN / "tasks-create-volume.txt").read_text().split("=== ")[1:]
    return [dict(file.removeprefix("TASK/").split("\n", 1) for file in one.split("--- ")[1:]) for one in moments]


@pytest.mark.parametrize("moment", range(4))
def test_a_record_that_is_read_is_written_byte_for_byte(moment: int) -> None:
    files = {name: text.encode() for name, text in read_golden()[moment].items()}
    assert format_record(parse_record("TASK", "REPO/POOL/mastersd/master/tasks", files)) == files


def leave_task(house: House, files: Files, **names: str) -> str:
    """Put a running task on the domain, with the names and paths of another host."""
    task_id, mount = make_id(), "/rhev/data-center/mnt/server:_a__b"
    names |= {"TASK": task_id, "POOL": house.world.pool_id, "REPO": "/rhev/data-center", "MOUNT": mount}
    (house.tasks / task_id).mkdir(parents=True)
    for name, text in files.items():
        for word, value in names.items():
            name, text = name.replace(word, value), text.replace(word, value)
        (house.tasks / task_id / name).write_text(text.replace("state = finished", "state = running"))
    return task_id


@pytest.mark.parametrize("moment", [2, 3])
async def test_what_another_spm_has_begun_is_undone(houses: Houses, moment: int) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        base = house.world.create_base()
        before = house.list_files()
        layer = house.world.create_layer(base)
        await house.pools.spm_stop(house.world.pool_id)
    record = Path(house.world.get_path(layer)).with_name(f"{layer.volume_id}.meta")
    if moment == 2:
        record.unlink()
    names = {"DOMAIN": layer.domain_id, "IMAGE": layer.image_id, "BASE": base.volume_id, "LAYER": layer.volume_id}
    task_id = leave_task(house, read_golden()[moment], **names)
    async with houses.open() as house:
        await (await house.connect(2)).be_spm()
        status = format_status(await house.wait(task_id))
        assert (status.state, status.result) == ("finished", "cleanSuccess")
        assert house.list_files() == before
        assert house.world.get_record(base).role is VolumeRole.LEAF
        assert f"state = {TaskState.RECOVERED}\n" in (house.tasks / task_id / f"{task_id}.task").read_text()
        await house.runner.clear(task_id)
        assert list(house.tasks.iterdir()) == []
