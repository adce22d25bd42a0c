"""Domains looked at without a daemon: sound ones, each kind of damage, what is mended and by whom, and hostile ones."""

import contextlib
import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.core.paths import Paths
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.errors import (
    AcquireLockFailure,
    InvalidParameterException,
    StorageDomainDoesNotExist,
    UnsupportedOperation,
    VolumeDoesNotExist,
)
from vdsm.storage.examination.places import Examination, writing
from vdsm.storage.examination.reports import describe_volume, list_chains, list_findings, list_leases
from vdsm.storage.images.volume_metadata import format_volume_metadata
from vdsm.storage.layout import Layout
from vdsm.storage.metadata import format_domain_metadata
from vdsm.storage.model import DomainType, Legality, VolumeFormat, VolumeRequest, VolumeRole
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.mounts import FakeGluster, MountsInMemory
from vdsm.testing.storage import FixedClock, World, make_id, make_shared_world, make_world_on_disk

MIB = 1 << 20


@dataclass
class Place:
    """A domain with a template, an image on it with a snapshot, and a raw image; its SPM is gone."""

    world: World
    leases: LeasesInMemory
    root: Path

    def __post_init__(self) -> None:
        self.world.start_spm()
        self.template = self.world.create_base()
        self.layer = self.world.create_layer(self.template, make_id())
        self.top = self.world.create_layer(self.layer)
        self.raw = self.world.create_base(format=VolumeFormat.RAW)
        self.path = self.world.repository.domains.get_path(self.world.domain_id)
        if self.is_shared:
            self.world.repository.external_leases.create(self.world.domain_id, LEASE)

    @property
    def is_shared(self) -> bool:
        return self.world.type is DomainType.NFS

    @property
    def examination(self) -> Examination:
        return Examination(Layout(Paths(self.root)), self.leases, QemuImgCommand(), FixedClock(), lambda _: OwnOwner())

    def stop(self) -> None:
        self.world.repository.spm.stop(self.world.pool_id)

    def find(self) -> list[tuple[str, str, str]]:
        """Kind, place and text of all that is wrong; the place without `images/` and the image."""
        found = self.examination.find_all(str(self.path))
        return [(one.kind, one.place, one.text) for one in found]

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.find()]

    def repair(self, step: Callable[[str], None] = lambda _: None) -> list[str]:
        """Kinds of what was mended; failures are raised."""
        examination = self.examination
        domain = examination.open(self.world.domain_id)
        with writing(domain, 1):
            outcomes = examination.repair(domain, step)
        for _, error in outcomes:
            if error is not None:
                raise error
        return [one.kind for one, _ in outcomes]

    def get(self, volume: VolumeRequest, suffix: str = "") -> Path:
        return self.path / "images" / volume.image_id / f"{volume.volume_id}{suffix}"

    def write(self, volume: VolumeRequest, **changes: object) -> None:
        record = replace(self.world.get_record(volume), **changes)  # type: ignore[arg-type]
        self.get(volume, ".meta").write_bytes(format_volume_metadata(record, 5))

    def photograph(self) -> dict[str, tuple[object, ...]]:
        """All that a write would change."""
        photo: dict[str, tuple[object, ...]] = {}
        for path in [self.path, *self.path.rglob("*")]:
            status = path.lstat()
            data = path.read_bytes()[:65536] if path.is_file() and status.st_size < 1 << 30 else b""
            photo[str(path)] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, data)
        return photo


LEASE = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


def make_place(folder: Path, kind: str) -> Place:
    leases = LeasesInMemory(writes_files=True)
    if kind == "local":
        return Place(make_world_on_disk(folder, QemuImgCommand(), OwnOwner()), leases, folder)
    (folder / "disk").mkdir()
    outside = Outside(MountsInMemory({"server:/1": folder / "disk"}), leases, FakeGluster(), FixedClock(), print)
    return Place(make_shared_world(folder, QemuImgCommand(), outside, OwnOwner()), leases, folder)


@pytest.fixture(params=["local", "shared"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return make_place(tmp_path, request.param)


@pytest.fixture
def shared(tmp_path: Path) -> Place:
    return make_place(tmp_path, "shared")


def test_a_sound_domain_is_sound_and_nothing_is_written(place: Place) -> None:
    before = place.photograph()
    assert place.find() == []
    examination = place.examination
    survey = examination.survey(examination.open(f"{place.world.pool_id}/{place.world.domain_id}"))
    rows = {row["volume_id"]: row for row in list_chains(survey) if row["image_id"] == place.top.image_id}
    assert list(rows) == [place.template.volume_id, place.layer.volume_id, place.top.volume_id]
    assert [row["role"] for row in rows.values()] == ["SHARED", "INTERNAL", "LEAF"]
    assert json.loads(json.dumps(list(rows.values())))[2]["parent_id"] == place.layer.volume_id
    info = describe_volume(survey, place.top.volume_id)
    assert (info["file_format"], info["file_backing_file"], info["capacity_bytes"]) == (
        "qcow2",
        place.layer.volume_id,
        MIB,
    )
    assert describe_volume(survey, place.template.volume_id)["links"] == 2
    with pytest.raises(VolumeDoesNotExist):
        describe_volume(survey, make_id())
    assert place.photograph() == before


def test_leases_are_told_as_they_are_on_storage(shared: Place) -> None:
    examination = shared.examination
    rows = list_leases(examination.survey(examination.open(str(shared.path))))
    names = {(row["file"], row["name"]) for row in rows}
    volumes = {
        (f"{one.volume_id}.lease", one.volume_id) for one in (shared.template, shared.layer, shared.top, shared.raw)
    }
    assert names == volumes | {("leases", "SDM"), ("xleases", LEASE)}
    assert {row["lockspace"] for row in rows} == {shared.world.domain_id}
    make_pipe(shared)  # what cannot be read hides nothing else
    assert len(list_leases(examination.survey(examination.open(str(shared.path))))) == len(rows)


def test_data_whose_record_is_lost_is_among_the_chains(place: Place) -> None:
    place.get(place.raw, ".meta").write_bytes(b"nonsense")
    survey = place.examination.survey(place.examination.open(str(place.path)))
    [row] = [row for row in list_chains(survey) if row["image_id"] == place.raw.image_id]
    assert (row["volume_id"], row["role"], row["size_bytes"]) == (place.raw.volume_id, None, MIB)
    assert int(row["faults"] or 0) >= 2


def damage_parent(place: Place) -> None:
    for suffix in ("", ".meta", ".lease"):
        place.get(place.layer, suffix).unlink(missing_ok=True)


def damage_ring(place: Place) -> None:
    place.write(place.layer, parent_id=place.top.volume_id)


def point_elsewhere(place: Place) -> None:
    header = bytearray(place.get(place.top).read_bytes())
    offset, length = struct.unpack_from(">QI", header, 8)
    header[offset : offset + length] = b"/etc/passwd".ljust(length, b"\0")
    place.get(place.top).write_bytes(header)


def make_link(place: Place) -> None:
    place.get(place.raw).unlink()
    place.get(place.raw).symlink_to("/etc/passwd")


def make_pipe(place: Place) -> None:
    place.get(place.top, ".meta").unlink()
    os.mkfifo(place.get(place.top, ".meta"))


DAMAGES: dict[str, tuple[Callable[[Place], object], set[str]]] = {
    "a parent is gone": (damage_parent, {"chain"}),
    "a ring": (damage_ring, {"chain", "data"}),
    "a header that leads elsewhere": (point_elsewhere, {"data"}),
    "a link as data": (make_link, {"layout"}),
    "a pipe as record": (make_pipe, {"layout", "role"}),
    "a lost record": (lambda place: place.get(place.raw, ".meta").unlink(), {"orphan", "image"}),
    "lost data": (lambda place: place.get(place.raw).unlink(), {"record"}),
    "a record of garbage": (lambda place: place.get(place.raw, ".meta").write_bytes(b"\xff=\0"), {"record", "image"}),
    "an endless record": (lambda place: os.truncate(place.get(place.raw, ".meta"), 1 << 40), {"record"}),
    "an endless qcow2": (lambda place: os.truncate(place.get(place.top), 1 << 42), set()),
    "a qcow2 of nothing": (lambda place: os.truncate(place.get(place.top), 0), {"data"}),
    "another domain's record": (lambda place: place.write(place.raw, domain_id=make_id()), {"record"}),
    "another image's record": (lambda place: place.write(place.raw, image_id=make_id()), {"record", "image"}),
    "raw data too short": (lambda place: os.truncate(place.get(place.raw), 4096), {"capacity"}),
    "illegal": (lambda place: place.write(place.top, legality=Legality.ILLEGAL), {"illegal"}),
    "a second leaf": (lambda place: place.write(place.top, parent_id=BLANK_UUID), {"chain", "data", "role"}),
    "raw with a parent": (lambda place: place.write(place.raw, parent_id=make_id()), {"chain"}),
    "a stray file": (lambda place: place.get(place.raw, ".orig").touch(), {"stray"}),
    "a stray folder": (lambda place: (place.path / "images/\x1b[2J").mkdir(), {"stray"}),
    "an image that is a link": (lambda place: (place.path / f"images/{make_id()}").symlink_to("/etc"), {"stray"}),
    "no mailbox": (lambda place: (place.path / "dom_md/inbox").unlink(), {"layout"}),
    "metadata that is a folder": (lambda place: swap_metadata(place), {"domain", "layout"}),
    "metadata whose seal is broken": (lambda place: edit_metadata(place, b"CLASS=Data", b"CLASS=Iso!"), {"domain"}),
    "no dom_md": (lambda place: (place.path / "dom_md").rename(place.path / "gone"), {"domain"}),
    "images that lead elsewhere": (lambda place: lead_images_elsewhere(place), {"domain"}),
}


def swap_metadata(place: Place) -> None:
    (place.path / "dom_md/metadata").unlink()
    (place.path / "dom_md/metadata").mkdir()


def edit_metadata(place: Place, old: bytes, new: bytes) -> None:
    path = place.path / "dom_md/metadata"
    path.write_bytes(path.read_bytes().replace(old, new))


def lead_images_elsewhere(place: Place) -> None:
    (place.path / "images").rename(place.root / "images")
    (place.path / "images").symlink_to(place.root / "images")


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named_and_left_alone(place: Place, name: str) -> None:
    damage, kinds = DAMAGES[name]
    damage(place)
    before = place.photograph()
    found = place.find()
    assert kinds <= {kind for kind, _, _ in found}, found
    assert not {"role"} & {one.kind for one in place.examination.find_all(str(place.path)) if one.mend}
    assert place.photograph() == before
    if not kinds:
        assert found == []
    assert len(list_findings(place.examination.find_all(str(place.path)))) == len(found)


# Mending.


def spoil(place: Place) -> set[str]:
    """Everything that is safe to mend."""
    (place.path / "dom_md/metadata.new").write_bytes(b"half")
    (place.path / f"images/_remove_me_{make_id()}/left").mkdir(parents=True)
    place.get(place.raw, f".{make_id()}.meta.new").touch()
    place.write(place.top, role=VolumeRole.INTERNAL)
    place.write(place.raw, capacity_bytes=4096)
    if place.is_shared:
        place.get(place.top, ".lease").unlink()
        os.truncate(place.get(place.raw, ".lease"), 0)
    return {"leftover", "role", "capacity", *(["lease"] if place.is_shared else [])}


def test_what_is_safe_is_mended_once(place: Place) -> None:
    kinds = spoil(place)
    assert set(place.kinds()) == kinds
    place.stop()
    assert set(place.repair()) == kinds
    assert place.find() == []
    assert place.repair() == []
    assert place.world.get_record(place.raw).capacity_bytes == MIB
    place.world.repository.spm.start(place.world.pool_id)
    with place.world.repository.domains.get(place.world.domain_id).backend.volumes.hold_lease(
        place.top.image_id, place.top.volume_id
    ):
        pass


def test_who_is_killed_while_mending_leaves_the_rest_to_the_next(place: Place) -> None:
    spoil(place)
    place.stop()

    class Killed(BaseException):
        pass

    for last in range(20):
        left = [last]

        def step(_: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        try:
            place.repair(step)
        except Killed:
            assert place.find()  # named as before, or fewer of them
        else:
            break
    assert last >= 2
    assert place.find() == []


def test_nothing_is_mended_while_another_writes(place: Place) -> None:
    spoil(place)
    before = place.photograph()
    if place.is_shared:
        place.leases = LeasesInMemory(place.leases.judge, writes_files=True)  # another host; the first is SPM
        domain = place.examination.open(place.world.domain_id)
        with pytest.raises(AcquireLockFailure), writing(domain, 2):
            pass
    else:
        with pytest.raises(AcquireLockFailure), writing(place.examination.open(place.world.domain_id), 1):
            pass
    assert place.photograph() == before


def test_a_volume_that_a_job_holds_is_not_mended(shared: Place) -> None:
    shared.stop()
    shared.write(shared.raw, capacity_bytes=4096)
    volumes = shared.world.repository.domains.get_backend(shared.world.domain_id).volumes
    other = LeasesInMemory(shared.leases.judge, writes_files=True)
    with volumes.hold_lease(shared.raw.image_id, shared.raw.volume_id):
        shared.leases = other
        examination = shared.examination
        domain = examination.open(shared.world.domain_id)
        with writing(domain, 2):
            [(finding, error)] = examination.repair(domain)
    assert isinstance(error, AcquireLockFailure)
    rows = list_findings([finding], [(finding, error)])
    assert [row["outcome"] for row in rows] == [str(error)]
    assert shared.world.get_record(shared.raw).capacity_bytes == 4096


def test_a_regular_domain_is_written_by_who_has_its_pools_master(shared: Place) -> None:
    domain = shared.examination.open(shared.world.domain_id)
    regular = replace(domain, metadata=domain.metadata.replace({"ROLE": "Regular"}))
    foreign = replace(domain, metadata=domain.metadata.replace({"POOL_UUID": make_id()}))
    for master in (None, regular, foreign):
        with pytest.raises(InvalidParameterException), writing(regular, 1, master):
            pass
    with pytest.raises(AcquireLockFailure), writing(regular, 1, domain):  # the SPM runs
        pass


def test_a_master_that_is_followed_is_not_believed(shared: Place) -> None:
    """Its own role is not changed before the new master has it, and its lease is free by then."""
    shared.stop()
    shared.world.repository.domains.update(shared.world.domain_id, {"NEXT_MASTER": make_id()})
    former = shared.examination.open(shared.world.domain_id)
    regular = replace(former, metadata=former.metadata.replace({"ROLE": "Regular"}))
    with pytest.raises(InvalidParameterException, match="follows it"), writing(regular, 1, former):
        pass
    with pytest.raises(InvalidParameterException, match="needed: the master"), writing(former, 1):
        pass


def test_a_domain_that_changed_while_its_lock_was_waited_for_is_not_written(shared: Place) -> None:
    shared.stop()
    domain = shared.examination.open(shared.world.domain_id)
    shared.world.repository.domains.update(shared.world.domain_id, {"ROLE": "Regular"})
    with pytest.raises(InvalidParameterException, match="changed meanwhile"), writing(domain, 1):
        pass
    with (
        pytest.raises(InvalidParameterException, match="needed: the master"),
        writing(shared.examination.open(shared.world.domain_id), 1),
    ):
        pass


def test_external_leases_are_checked_and_rebuilt(shared: Place) -> None:
    shared.stop()
    path = shared.path / "dom_md/xleases"
    data = path.read_bytes()
    for offset, new in (
        (MIB, b"none"),
        (MIB + 70, b"u"),
        (MIB + 512, b"\xff"),
        (MIB + 512 + 61, b"u"),
        (3 * MIB, b"none"),
    ):
        path.write_bytes(data[:offset] + new + data[offset + len(new) :])
        before = shared.photograph()
        assert set(shared.kinds()) == {"xlease"}, offset
        assert shared.photograph() == before
        examination = shared.examination
        domain = examination.open(shared.world.domain_id)
        with writing(domain, 1):
            examination.rebuild_leases(domain)
        if offset < 3 * MIB:
            assert shared.find() == [], offset


def test_fuzzed_domains_have_findings_and_no_tracebacks(shared: Place, rounds: Callable[[int, int], int]) -> None:
    paths = [shared.path / "dom_md" / name for name in ("metadata", "xleases", "ids", "leases")]
    paths += [shared.get(shared.top), shared.get(shared.top, ".meta"), shared.get(shared.top, ".lease")]
    whole = {path: path.read_bytes() for path in paths}
    for seed in range(rounds(40, 2000)):
        chance = random.Random(seed)
        path = chance.choice(paths)
        data = bytearray(whole[path][: 4 * MIB])
        begin = MIB if path.name in ("xleases", "leases") else 0
        for _ in range(chance.randint(1, 40)):
            data[begin + chance.randrange(min(len(data) - begin, chance.choice((16, 512, 8192))))] = chance.randrange(
                256
            )
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(len(data) + 1)))])
        examination = shared.examination
        for finding in examination.find_all(str(shared.path)):
            assert finding.kind and finding.place
        with contextlib.suppress(NodeError):
            survey = examination.survey(examination.open(str(shared.path)))
            json.dumps([*list_chains(survey), *list_leases(survey), describe_volume(survey, shared.raw.volume_id)])
        path.write_bytes(whole[path])
    assert shared.find() == []


def test_what_is_not_there_or_has_no_such_leases(place: Place) -> None:
    examination = place.examination
    with pytest.raises(StorageDomainDoesNotExist):
        examination.open(make_id())
    assert [one.kind for one in examination.find_all(str(place.root))] == ["domain"]
    assert [one.kind for one in examination.find_all(str(place.path.with_name(make_id())))] == ["domain"]
    if not place.is_shared:
        with pytest.raises(UnsupportedOperation):
            examination.rebuild_leases(examination.open(place.world.domain_id))
    domain = examination.open(place.world.domain_id)
    copied = place.path.with_name(make_id())
    place.path.rename(copied)
    assert any("SDUUID" in one.text for one in examination.find_all(str(copied)))
    (copied / "dom_md/metadata").write_bytes(
        format_domain_metadata(domain.metadata.replace({"ALIGNMENT": "-1", "SDUUID": copied.name}))
    )
    assert any("alignment" in one.text for one in examination.find_all(str(copied)))
    (copied / "dom_md/metadata").write_bytes(
        format_domain_metadata(domain.metadata.replace({"TYPE": "ISCSI", "SDUUID": copied.name}))
    )
    assert any("ISCSI" in one.text for one in examination.find_all(str(copied)))


def test_a_domain_is_found_by_its_path_from_here_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.path.parent.parent)
    for word in (str(place.path), f"{place.path.parent.name}/{place.path.name}", place.path.name):
        assert place.examination.open(word).domain_id == place.world.domain_id
