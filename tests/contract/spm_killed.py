"""An SPM that is killed amid the creation of a volume, and the next one, another host: run by `test_spm_killed`.

`python -m tests.contract.spm_killed FOLDER SCENARIO STRIDE` kills at each named step, one after another. Prints how
many were killed.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from tests.contract.storage_killed import run_child
from tests.contract.test_storage_service import House
from vdsm.tasks.model import TaskState
from vdsm.tasks.service import format_status
from vdsm.testing.storage import make_id

DOMAIN, POOL, IMAGE, BASE, OTHER_IMAGE, NEW = (make_id() for _ in range(6))
BEGIN = ["create data", "format data", "settle data", "create lease", "write record", "settle rollbacks", "open data"]
SCENARIOS: dict[str, tuple[str, dict[str, str], list[str]]] = {
    # name: the image of the volume that is made, what else is asked for, and the steps of that
    "base": (OTHER_IMAGE, {}, ["create image", *BEGIN, "done"]),
    "layer": (IMAGE, {"parent_id": BASE}, [BEGIN[0], "mark parent", *BEGIN[1:], "done"]),
    "on-template": (
        OTHER_IMAGE,
        {"parent_id": BASE, "parent_image_id": IMAGE},
        ["make template", "create image", "share parent", *BEGIN, "done"],  # it is made a template once
    ),
}


async def be_spm(folder: Path, host_id: int) -> House:
    house = House(folder, DOMAIN, POOL)
    await house.runner.__aenter__()
    return await (await house.connect(host_id)).be_spm()


async def create(house: House, scenario: str) -> str:
    image, parent, _ = SCENARIOS[scenario]
    return await house.create(NEW, image, **parent)


async def prepare(folder: Path) -> None:
    House(folder, DOMAIN, POOL).world.create_pool()
    house = await be_spm(folder, 1)
    task_id = await house.create(BASE, IMAGE)
    await house.wait(task_id)
    await house.runner.clear(task_id)


async def be_killed(folder: Path, scenario: str, step: str) -> None:
    house = await be_spm(folder, 1)
    house.gate.close(step)
    await create(house, scenario)
    await house.gate.wait()
    os.kill(os.getpid(), signal.SIGKILL)


def read_images(folder: Path) -> dict[str, str]:
    """What is in all images, with the text of records; a template stays one."""
    images = folder / "server_1" / DOMAIN / "images"
    return {
        str(path.relative_to(images)): path.read_text().replace("SHARED", "LEAF") if path.suffix == ".meta" else ""
        for path in images.rglob("*")
    }


def find_task(folder: Path) -> tuple[str, str]:
    """The id of the one task that is kept on the domain, and the state that it has there."""
    [task] = (folder / "server_1" / DOMAIN / "master/tasks").iterdir()
    fields = dict(line.split(" = ") for line in (task / f"{task.name}.task").read_text().splitlines())
    assert "=" not in fields["store"]
    return task.name, fields["state"]


async def take_over(folder: Path, scenario: str, before: dict[str, str]) -> None:
    """What was begun is undone, and the task tells so; then the manager has it done again, and deletes it."""
    task_id, state = find_task(folder)
    assert state == "running"
    house = await be_spm(folder, 2)
    status = format_status(await house.wait(task_id))
    assert (status.state, status.result) == ("finished", "cleanSuccess")
    assert (read_images(folder), find_task(folder)) == (before, (task_id, "recovered"))
    again = await create(house, scenario)
    assert (await house.wait(again)).state is TaskState.FINISHED
    for one in (task_id, again):
        await house.runner.clear(one)
    house.world.delete(SCENARIOS[scenario][0], NEW)
    assert (read_images(folder), list(house.tasks.iterdir())) == (before, [])


def run(work: Callable[[], Coroutine[None, None, None]]) -> bool:
    """In a process of its own; whether it was killed."""
    return run_child(lambda: asyncio.run(work()))


def kill_everywhere(folder: Path, scenario: str, stride: int) -> int:
    steps = SCENARIOS[scenario][2][::stride]
    assert not run(partial(prepare, folder))
    before = read_images(folder)
    for step in steps:
        assert run(partial(be_killed, folder, scenario, step)), f"there is no step {step}"
        assert not run(partial(take_over, folder, scenario, before))
    return len(steps)


if __name__ == "__main__":
    place = Path(sys.argv[1]) / "a=b"  # what is written otherwise in records of tasks
    place.mkdir()
    sys.stdout.write(f"{kill_everywhere(place, sys.argv[2], int(sys.argv[3]))}\n")
