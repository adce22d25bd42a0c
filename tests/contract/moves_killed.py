"""Images that are moved by processes that are killed, and what the next SPM makes of it: run by `test_moves_killed`.

`python -m tests.contract.moves_killed FOLDER SCENARIO HOOK STRIDE` kills at each named step (HOOK `steps`) or at each
system call that the interpreter reports (`calls`), one after another; the recovery is killed, too, at a step of it.
Prints how many were killed.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.contract.blocks import BLOCK, read, write
from tests.contract.storage_killed import DOMAIN, POOL, Killer, RollbacksOnDisk, make_world, run_child
from vdsm.storage.model import DomainClass, DomainType, ImageMove, Legality, VolumeFormat, VolumeMetadata
from vdsm.storage.ports import Layer, Steps
from vdsm.testing.storage import World, ignore_step, make_id

OTHER, BACKUP, TEMPLATE_IMAGE, TEMPLATE, IMAGE, BASE, TOP, USER_IMAGE, USER = (make_id() for _ in range(9))
SIZE = 4 * BLOCK
READS = {IMAGE: (TOP, "aBc."), TEMPLATE_IMAGE: (TEMPLATE, "tt.."), USER_IMAGE: (USER, "tU..")}


def open_world(folder: Path, steps: Steps = ignore_step) -> World:
    world = make_world(folder, steps)
    for name in ("other", "backup"):
        world.repository.servers.connect(DomainType.LOCALFS, str(folder / name))
    return world.resume()


def prepare(folder: Path) -> None:
    """On the first domain: a chain of two, a template, and an image that is based on it; a second and a Backup one."""
    world = make_world(folder).start_spm()
    for name, domain_id, domain_class in (
        ("other", OTHER, DomainClass.DATA),
        ("backup", BACKUP, DomainClass.BACKUP),
    ):
        (folder / name).mkdir()
        world.repository.servers.connect(DomainType.LOCALFS, str(folder / name))
        world.repository.domains.create(DomainType.LOCALFS, domain_id, name, str(folder / name), domain_class)
        world.repository.members.attach(POOL, domain_id)
        world.repository.members.activate(POOL, domain_id)
    base = world.request(IMAGE, BASE, format=VolumeFormat.RAW, capacity_bytes=SIZE)
    template = world.request(TEMPLATE_IMAGE, TEMPLATE, capacity_bytes=SIZE)
    user = world.request(USER_IMAGE, USER, parent_id=TEMPLATE, parent_image_id=TEMPLATE_IMAGE, capacity_bytes=SIZE)
    top = world.request(IMAGE, TOP, parent_id=BASE, capacity_bytes=SIZE)
    for request, word in ((base, "abc."), (top, ".B.."), (template, "tt.."), (user, ".U..")):
        world.create(request)
        write(Layer(world.get_path(request), request.format.qemu), word)


def see(world: World, domain_id: str, image_id: str) -> dict[str, VolumeMetadata]:
    return world.repository.domains.get(domain_id).images.read_all(image_id)


def is_usable(world: World, domain_id: str, image_id: str) -> bool:
    """Whether the image's top is there and legal; then it reads as it must, through all that is below it."""
    top_id, word = READS[image_id]
    record = see(world, domain_id, image_id).get(top_id)
    if record is None or record.legality is not Legality.LEGAL:
        return False
    chain = world.repository.domains.get(domain_id).images.get_chain(image_id, top_id)
    assert {one.legality for _, one in chain} <= {Legality.LEGAL, Legality.FAKE}
    path = world.repository.domains.get_backend(domain_id).data.get_path(image_id, top_id)
    expected = word if all(one.legality is Legality.LEGAL for _, one in chain) else ".U.."
    assert read(Layer(path, record.format.qemu)) == expected
    return True


Check = Callable[[World, bool], None]
"""Looks at both domains; told whether the move was acknowledged."""


def transfer(image_id: str, target_id: str, *, keep: bool) -> Callable[[World, RollbacksOnDisk], None]:
    def act(world: World, rollbacks: RollbacksOnDisk) -> None:
        move = ImageMove(POOL, DOMAIN, target_id, image_id)
        world.repository.moves.transfer(move, keep=keep, rollbacks=rollbacks)
        rollbacks.acknowledge()

    return act


def check(image_id: str, target_id: str, *, keep: bool) -> Check:
    def look(world: World, over: bool) -> None:
        here, there = is_usable(world, DOMAIN, image_id), is_usable(world, target_id, image_id)
        assert here or there
        if keep:
            assert here and (there or not over)
        else:
            assert not over or (there and not here)

    return look


def clone(world: World, rollbacks: RollbacksOnDisk) -> None:
    world.repository.moves.clone_structure(ImageMove(POOL, DOMAIN, OTHER, IMAGE), rollbacks)
    rollbacks.acknowledge()


def check_cloned(world: World, over: bool) -> None:
    assert is_usable(world, DOMAIN, IMAGE)
    assert not over or see(world, OTHER, IMAGE).keys() == {BASE, TOP}


SCENARIOS = {
    "copy": (transfer(IMAGE, OTHER, keep=True), check(IMAGE, OTHER, keep=True), IMAGE, OTHER),
    "move": (transfer(IMAGE, OTHER, keep=False), check(IMAGE, OTHER, keep=False), IMAGE, OTHER),
    "export": (transfer(USER_IMAGE, BACKUP, keep=False), check(USER_IMAGE, BACKUP, keep=False), USER_IMAGE, BACKUP),
    "clone": (clone, check_cloned, IMAGE, OTHER),
}


def work(folder: Path, scenario: str, hook: str, number: int) -> None:
    killer = Killer(number)
    world = open_world(folder, killer.step if hook == "steps" else ignore_step)
    rollbacks = RollbacksOnDisk(folder / "rollbacks")
    if hook == "calls":
        killer.watch_calls()
    killer.armed = True
    SCENARIOS[scenario][0](world, rollbacks)
    killer.armed = False


def recover(folder: Path, number: int | None = None) -> None:
    """What the next SPM does; with a number it is killed, too."""
    killer = Killer(number or 0)
    world = open_world(folder, killer.step if number is not None else ignore_step)
    rollbacks = RollbacksOnDisk(folder / "rollbacks")
    killer.armed = True
    for entry in reversed(rollbacks.entries):
        world.repository.recovery.recover(entry.module, entry.object, entry.function, entry.params)
    killer.armed = False
    rollbacks.acknowledge()


def look(folder: Path, scenario: str, over: bool) -> None:
    SCENARIOS[scenario][1](open_world(folder), over)


def check_recovered(folder: Path, scenario: str) -> None:
    """Nothing half made is left: the image is on one domain, whole, or (before a copy ended) on its own."""
    _, check, image_id, target_id = SCENARIOS[scenario]
    world = open_world(folder)
    check(world, False)
    here, there = see(world, DOMAIN, image_id), see(world, target_id, image_id)
    assert bool(here) is not bool(there), (here, there)
    for name, domain_id in (("server_1", DOMAIN), ("other", OTHER), ("backup", BACKUP)):
        images = folder / name / domain_id / "images"
        for image in images.iterdir():
            names = {path.name for path in image.iterdir()}
            volumes = {name for name in names if "." not in name}
            assert volumes and names == volumes | {f"{name}.meta" for name in volumes}, (name, image, names)


def kill_everywhere(folder: Path, scenario: str, hook: str, stride: int) -> int:
    killed, origin = 0, folder / "origin"
    origin.mkdir()
    run_child(lambda: prepare(origin))
    for number in range(0, 10_000, stride):
        place = folder / str(number)
        for name in ("server_1", "other", "backup"):
            shutil.copytree(origin / name, place / name)
        died = run_child(lambda place=place, number=number: work(place, scenario, hook, number))
        run_child(lambda place=place, died=died: look(place, scenario, not died))
        if not died:
            return killed
        run_child(lambda place=place, number=number: recover(place, number % 5))
        run_child(lambda place=place: recover(place))
        run_child(lambda place=place: check_recovered(place, scenario))
        killed += 1
        shutil.rmtree(place)
    raise AssertionError("it never ends")


if __name__ == "__main__":
    sys.stdout.write(f"{kill_everywhere(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))}\n")
