"""Storage operations in processes that are killed, and what is found afterwards: run by `test_storage_killed`.

`storage_killed.py FOLDER every SCENARIO HOOK STRIDE [again]` kills at each named step (HOOK `steps`) or at each system
call that the interpreter reports (`calls`), one after another, in a world of its own; with `again` the recovery is
killed, too. `storage_killed.py FOLDER random COUNT SEED` kills at that many random instants of one long loop.
Prints how many were killed. With STORAGE=shared in the environment, storage is one that hosts share.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.adapters.run import run
from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage import durable
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.images.volume_metadata import parse_volume_metadata
from vdsm.storage.model import Allocation, Legality, VolumeFormat, VolumeRequest, VolumeRole
from vdsm.storage.ports import Lease, Lockspace, Rollback, Steps
from vdsm.storage.rollbacks import SENTINEL
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.mounts import FakeGluster, MountsInMemory
from vdsm.testing.storage import FixedClock, World, ignore_step, make_id, make_shared_world, make_world_on_disk

WATCHED = ("open", "os.")
IS_SHARED = os.environ.get("STORAGE") == "shared"  # else a folder of this host
DOMAIN, POOL = make_id(), make_id()
BASE_IMAGE, BASE, TOP_IMAGE, TOP_BASE, TOP = (make_id() for _ in range(5))
NEW_IMAGE, NEW = make_id(), make_id()


class RollbacksOnDisk:
    """What tasks do, in one file: each entry is durable before the step that it covers."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.entries = [Rollback(*fields[:4], tuple(fields[4])) for fields in self._load()]

    def push(self, name: str, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        self.entries.append(Rollback(name, module, object, function, params))
        self._save()

    def replace_down_to_sentinel(self, *entries: Rollback) -> None:
        while self.entries and self.entries.pop().name != SENTINEL:
            pass
        self.entries.extend(entries)
        self._save()

    def acknowledge(self) -> None:
        self.entries = []
        self._save()

    def _load(self) -> list[list[str]]:
        return json.loads(self.file.read_bytes()) if self.file.exists() else []

    def _save(self) -> None:
        rows = [[one.name, one.module, one.object, one.function, list(one.params)] for one in self.entries]
        data = json.dumps(rows).encode()
        durable.write_file(self.file, self.file.with_suffix(".new"), data, 0o644, owner=lambda _: None)


Operation = Callable[[World, RollbacksOnDisk], None]


def create(
    format: VolumeFormat, allocation: Allocation, image: str, parent: tuple[str, str] | None = None
) -> Operation:
    """An operation that makes the volume NEW."""

    def act(world: World, rollbacks: RollbacksOnDisk) -> None:
        parents = {} if parent is None else {"parent_image_id": parent[0], "parent_id": parent[1]}
        world.create(world.request(image, NEW, format=format, allocation=allocation, **parents), rollbacks)

    return act


def delete(image: str, *volumes: str) -> Operation:
    def act(world: World, rollbacks: RollbacksOnDisk) -> None:
        world.repository.volumes.delete(POOL, DOMAIN, image, volumes, rollbacks=rollbacks)

    return act


def remove_image(image: str) -> Operation:
    def act(world: World, _: RollbacksOnDisk) -> None:
        removals = world.repository.whole_images
        removals.finish(POOL, DOMAIN, image, removals.set_aside(POOL, DOMAIN, image))

    return act


COW, RAW, SPARSE, FULL = VolumeFormat.COW, VolumeFormat.RAW, Allocation.SPARSE, Allocation.PREALLOCATED
SCENARIOS: dict[str, tuple[Operation, set[str], set[str]]] = {
    # name: what is done, the volumes that it makes, and those that it removes
    "create-base": (create(COW, SPARSE, NEW_IMAGE), {NEW}, set()),
    "create-raw": (create(RAW, FULL, NEW_IMAGE), {NEW}, set()),
    "create-layer": (create(COW, SPARSE, TOP_IMAGE, (TOP_IMAGE, TOP)), {NEW}, set()),
    "create-on-template": (create(COW, SPARSE, NEW_IMAGE, (BASE_IMAGE, BASE)), {NEW}, set()),
    "delete-leaf": (delete(TOP_IMAGE, TOP), set(), {TOP}),
    "delete-image": (delete(BASE_IMAGE, BASE), set(), {BASE}),
    "delete-chain": (delete(TOP_IMAGE, TOP, TOP_BASE), set(), {TOP, TOP_BASE}),
    "remove-image": (remove_image(TOP_IMAGE), set(), {TOP, TOP_BASE}),
}
OLD = {BASE, TOP_BASE, TOP}


class TrustingLeases(LeasesInMemory):
    """Leases that an earlier process made are taken to be there: their files are what is looked at here."""

    def join(self, lockspace: Lockspace, host_id: int, *, wait: bool = True) -> None:
        self.write_lockspace(lockspace)
        super().join(lockspace, host_id, wait=wait)

    def acquire(self, lease: Lease, *, with_value: bool = False) -> None:
        self.write_lease(lease)
        super().acquire(lease, with_value=with_value)


def make_world(folder: Path, steps: Steps = ignore_step) -> World:
    world = make_shared(folder, steps) if IS_SHARED else make_world_on_disk(folder, QemuImgCommand(), OwnOwner(), steps)
    world.domain_id, world.pool_id = DOMAIN, POOL
    return world


def make_shared(folder: Path, steps: Steps) -> World:
    server = folder / "server_1"
    server.mkdir(exist_ok=True)
    for left in (folder / "rhev/data-center/mnt").glob("*"):
        left.unlink()  # a link that stood for a mount in a process that is gone
    mounts, leases = MountsInMemory({"server:/1": server}), TrustingLeases(writes_files=True)
    outside = Outside(mounts, leases, FakeGluster(), FixedClock(), sys.exit)
    return make_shared_world(folder, QemuImgCommand(), outside, OwnOwner(), steps)


def prepare(folder: Path) -> None:
    """Two images: a base alone, and a base with a layer."""
    world = make_world(folder).start_spm()
    world.create(world.request(BASE_IMAGE, BASE))
    world.create(world.request(TOP_IMAGE, TOP_BASE, format=RAW))
    world.create(world.request(TOP_IMAGE, TOP, parent_id=TOP_BASE))


class Killer:
    """Kills this process at the Nth moment that it is told of."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.armed = False

    def step(self, _: object = None) -> None:
        if self.armed:
            self.left -= 1
            if self.left < 0:
                self.armed = False
                os.kill(os.getpid(), signal.SIGKILL)

    def watch_calls(self) -> None:
        sys.addaudithook(lambda event, _: self.step() if event.startswith(WATCHED) else None)


def run_child(work: Callable[[], None]) -> bool:
    """Fork and work; tells whether the child was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the child failed with {status}"
    return status != 0


def act(folder: Path, operation: Operation, hook: str, number: int) -> None:
    killer = Killer(number)
    world = make_world(folder, killer.step if hook == "steps" else ignore_step)
    world.resume()
    rollbacks = RollbacksOnDisk(folder / "rollbacks")
    if hook == "calls":
        killer.watch_calls()
    killer.armed = True
    operation(world, rollbacks)
    killer.armed = False
    rollbacks.acknowledge()
    (folder / "acknowledged").touch()


def recover(folder: Path, number: int | None = None) -> None:
    """What the next daemon does; with a number it is killed, too."""
    killer = Killer(number or 0)
    world = make_world(folder, killer.step if number is not None else ignore_step)
    killer.armed = True
    world.resume()
    rollbacks = RollbacksOnDisk(folder / "rollbacks")
    for entry in reversed(rollbacks.entries):
        world.repository.recovery.recover(entry.module, entry.object, entry.function, entry.params)
    rollbacks.acknowledge()


def check_listed(world: World) -> None:
    """Every legal volume that is listed is whole, also before anything was recovered."""
    domain = world.repository.domains.get(DOMAIN)
    for image in world.repository.domains.list_images(DOMAIN):
        for volume in world.repository.images.list_volumes(DOMAIN, image):
            record = world.repository.volumes.get_metadata(DOMAIN, image, volume)
            if record.legality is Legality.LEGAL:
                check_data(domain.backend.data.get_path(image, volume), record.format, record.capacity_bytes)


def check_data(path: Path, format: VolumeFormat, capacity_bytes: int) -> None:
    assert QemuImgCommand().get_virtual_size(path, format.qemu) == capacity_bytes, path
    if format is VolumeFormat.COW:
        run(["qemu-img", "check", "-q", "-f", "qcow2", path], timeout_s=60)


def check_tidy(folder: Path) -> set[str]:
    """Nothing half made is left anywhere; returns the volumes that are there."""
    root = folder / "server_1" / DOMAIN
    own = ["ids", "inbox", "leases", "metadata", "outbox", *(["xleases"] if IS_SHARED else [])]
    assert sorted(path.name for path in (root / "dom_md").iterdir()) == own
    volumes = set()
    for image in (root / "images").iterdir():
        names = {path.name for path in image.iterdir()}
        records = {
            name: parse_volume_metadata((image / f"{name}.meta").read_bytes()) for name in names if "." not in name
        }
        suffixes = ("", ".meta", ".lease") if IS_SHARED else ("", ".meta")
        assert names == {f"{name}{suffix}" for name in records for suffix in suffixes}, names
        assert {path.stat().st_size for path in image.glob("*.lease")} <= {1 << 20}
        assert any(record.image_id == image.name for record in records.values()), image
        for name, record in records.items():
            assert record.legality is Legality.LEGAL
            has_children = any(other.parent_id == name for other in records.values())
            if record.role is not VolumeRole.SHARED:
                assert record.role is (VolumeRole.INTERNAL if has_children else VolumeRole.LEAF), name
            assert not record.has_parent or record.parent_id in records
        volumes |= set(records)
    return volumes


def kill_everywhere(folder: Path, scenario: str, hook: str, stride: int, again: bool) -> int:
    operation, made, removed = SCENARIOS[scenario]
    killed = 0
    for number in range(0, 10_000, stride):
        place = folder / str(number)
        place.mkdir()
        run_child(lambda place=place: prepare(place))
        died = run_child(lambda place=place, number=number: act(place, operation, hook, number))
        check_listed(connect(place))
        for second in range(100 if again and died else 0):
            if not run_child(lambda place=place, second=second: recover(place, second)):
                break
        run_child(lambda place=place: recover(place))
        found, expected = check_tidy(place), OLD | made if made else OLD - removed
        check_listed(connect(place))
        acknowledged = (place / "acknowledged").exists()
        assert acknowledged is not died
        if acknowledged:
            assert found == expected
            return killed
        intermediate = [OLD - {volume} for volume in removed if scenario != "remove-image"]
        assert found in (OLD, OLD - removed, *intermediate), f"{scenario} killed at {number}: {found}"
        killed += 1
        shutil.rmtree(place)
    raise AssertionError("it never ends")


def connect(folder: Path) -> World:
    world = make_world(folder)
    world.repository.servers.connect(world.type, world.server)
    return world


def loop(folder: Path, out: int, seed: int) -> None:
    """Create and delete until killed; tells of each volume that it is being changed (?), is there (+), is gone (-)."""
    world, rng = make_world(folder), random.Random(seed)
    world.resume()
    rollbacks = RollbacksOnDisk(folder / "rollbacks")
    chains = find_chains(world)
    while True:
        is_full = sum(map(len, chains)) > 20
        chain = rng.choice(chains) if chains and (is_full or rng.random() < 0.6) else []
        if chain and (is_full or rng.random() < 0.5):
            gone = chain[-1]
            os.write(out, f"?{gone.volume_id}\n".encode())
            world.repository.volumes.delete(POOL, DOMAIN, gone.image_id, [gone.volume_id], rollbacks=rollbacks)
            rollbacks.acknowledge()
            os.write(out, f"-{gone.volume_id}\n".encode())
            chain.pop()
        else:
            parent_id = chain[-1].volume_id if chain else BLANK_UUID
            image_id = chain[-1].image_id if chain else make_random_id(rng)
            request = world.request(image_id, make_random_id(rng), parent_id=parent_id)
            os.write(out, f"?{request.volume_id}\n".encode())
            world.create(request, rollbacks)
            rollbacks.acknowledge()
            os.write(out, f"+{request.volume_id}\n".encode())
            chains += [] if chain else [chain]
            chain.append(request)
        chains = [one for one in chains if one]
        if rng.random() < 0.2:
            world.repository.spm.stop(POOL)
            world.repository.spm.start(POOL)


def find_chains(world: World) -> list[list[VolumeRequest]]:
    """The volumes of each image, base first."""
    images = world.repository.domains.get(DOMAIN).images
    chains = []
    for image_id in images.list_images():
        records = images.read_all(image_id)
        leaf = next(volume for volume, record in records.items() if record.role is not VolumeRole.INTERNAL)
        chains.append([world.request(image_id, volume) for volume, _ in reversed(images.get_chain(image_id, leaf))])
    return chains


def make_random_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128)))


def kill_at_random(folder: Path, count: int, seed: int) -> int:
    rng = random.Random(seed)
    run_child(lambda: prepare(folder))
    there = set(OLD)
    for _ in range(count):
        there = check_killed(folder, there, read_killed(folder, rng))
    return count


def read_killed(folder: Path, rng: random.Random) -> list[str]:
    """Let the loop run for a random while, kill it, and return what it told."""
    readable, writable = os.pipe()
    seed, moment_s = rng.getrandbits(32), rng.random() * 0.15
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            loop(folder, writable, seed)
        except NodeError as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    os.close(writable)
    select.select([readable], [], [], 60)
    time.sleep(moment_s)  # the instant is what is random here; nothing is waited for
    os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == -signal.SIGKILL, f"the child failed with {status}"
    with os.fdopen(readable) as told:
        return told.read().splitlines()


def check_killed(folder: Path, there: set[str], told: list[str]) -> set[str]:
    """Recover, and compare with what was acknowledged; returns the volumes that are there now."""
    last = {line[1:]: line[0] for line in told}
    wanted = there - set(last) | {volume for volume, sign in last.items() if sign == "+"}
    uncertain = {volume for volume, sign in last.items() if sign == "?"}
    check_listed(connect(folder))
    run_child(lambda: recover(folder))
    found = check_tidy(folder)
    check_listed(connect(folder))
    assert wanted <= found, f"lost: {wanted - found}"
    assert found <= wanted | uncertain, f"not removed: {found - wanted - uncertain}"
    assert len(uncertain) <= 1
    return found


if __name__ == "__main__":
    where, mode = Path(sys.argv[1]), sys.argv[2]
    if mode == "every":
        killed = kill_everywhere(where, sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6:] == ["again"])
    else:
        killed = kill_at_random(where, int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(f"{killed}\n")
