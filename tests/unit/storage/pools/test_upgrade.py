"""Upgrades of domains: from every version to every newer one, killed at every step, with records that are damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.storage.pools.test_members import Killed, Killer, add_member, restart
from tests.unit.storage.pools.test_pool import add_domain, read
from vdsm.storage.errors import (
    CurrentVersionTooAdvancedError,
    SpmStatusError,
    StorageDomainAccessError,
    UnsupportedDomainVersion,
    VolumeMetadataWriteError,
)
from vdsm.storage.images.volume_metadata import format_volume_metadata, parse_volume_metadata
from vdsm.storage.model import DomainStatus, VolumeRequest
from vdsm.testing.storage import World, make_id, make_world_in_memory

UPGRADES = [(3, 4), (3, 5), (4, 5), (5, 5)]


def fill(world: World) -> list[VolumeRequest]:
    """A chain, and a template with a user in another image."""
    base = world.create_base(description="é" * 100)
    template = world.create_base()
    return [base, world.create_layer(base), template, world.create_layer(template, make_id())]


def get_records(world: World, domain_id: str | None = None) -> dict[tuple[str, str], bytes]:
    domain_id = domain_id or world.domain_id
    volumes = world.repository.domains.get_backend(domain_id).volumes
    return {
        (image, volume): volumes.read_record(image, volume)
        for image in volumes.list_images()
        for volume in volumes.list_records(image)
    }


def check_upgraded(world: World, version: int, before: dict[tuple[str, str], bytes]) -> None:
    """Version and records are those of a domain that was made so, with what they told before."""
    keys = read(world, world.domain_id)
    assert keys["VERSION"] == str(version)
    assert {"UPGRADING", "LOGBLKSIZE", "PHYBLKSIZE"}.isdisjoint(keys)
    geometry = (keys.get("BLOCK_SIZE"), keys.get("ALIGNMENT"))
    assert geometry == (("512", "1048576") if version == 5 else (None, None))
    expected = {place: format_volume_metadata(parse_volume_metadata(data), version) for place, data in before.items()}
    assert get_records(world) == expected


@pytest.mark.parametrize(("old", "new"), UPGRADES)
def test_every_upgrade(world: World, old: int, new: int) -> None:
    world.start_spm(old)
    fill(world)
    before = get_records(world)
    world.repository.spm.stop(world.pool_id)
    world.repository.domains.update(world.domain_id, {"LOGBLKSIZE": "512"} if old < 5 else {})
    world.repository.spm.start(world.pool_id, new)
    if new == 4:
        world.repository.domains.update(world.domain_id, {"LOGBLKSIZE": None})
    check_upgraded(world, new, before)
    world.create_base()


@pytest.mark.parametrize(("old", "new"), UPGRADES)
def test_killed_at_any_step(tmp_path: Path, old: int, new: int) -> None:
    number, died = 0, True
    while died:
        killer = Killer()
        world = make_world_in_memory(tmp_path / str(number), killer).start_spm(old)
        volumes = fill(world)
        before = get_records(world)
        killer.left = number
        try:
            world.repository.spm.upgrade(world.pool_id, new)
            died = False
        except Killed:
            pass
        again = restart(world)
        again.resume()  # asked for no version: as it was, or as it is going to be
        version = int(read(again, again.domain_id)["VERSION"])
        assert version in range(old, new + 1)
        for volume in volumes:
            images = again.repository.domains.get_with_images(again.domain_id).images
            chain = images.get_chain(volume.image_id, volume.volume_id)
            assert chain[0][1].capacity_bytes == volume.capacity_bytes
        again.repository.spm.upgrade(again.pool_id, new)
        check_upgraded(again, new, before)
        number += 1
    assert number > (5 if new == 5 and old < 5 else new - old)


@pytest.mark.parametrize(
    ("damage", "is_readable"),
    [
        (lambda record: b"NONE=" + b"#" * 500, False),
        (lambda record: b"\xff\xfe", False),
        (lambda record: record.replace(b"DESCRIPTION=", b"DESCRIPTION=x\ry"), True),
        (lambda record: record.replace(b"DESCRIPTION=", b"DESCRIPTION=" + "😀".encode() * 54), True),
    ],
)
def test_damaged_records_stay_as_they_are(world: World, damage: Callable[[bytes], bytes], is_readable: bool) -> None:
    world.start_spm(4)
    one, other = world.create_base(), world.create_base()
    records = world.memory.servers[world.server][world.domain_id].images[one.image_id]
    damaged = records[one.volume_id] = damage(records[one.volume_id])
    world.repository.spm.upgrade(world.pool_id, 5)
    if is_readable:
        assert world.repository.volumes.get_metadata(world.domain_id, one.image_id, one.volume_id) == (
            parse_volume_metadata(damaged)
        )
    else:
        assert records[one.volume_id] == damaged
    assert b"CAP=" in get_records(world)[other.image_id, other.volume_id]
    assert read(world, world.domain_id)["VERSION"] == "5"


def test_storage_that_fails_keeps_the_old_version(world: World) -> None:
    world.start_spm(4)
    world.create_base()
    world.memory.fail_next("write_record", VolumeMetadataWriteError("x", "no"))
    with pytest.raises(VolumeMetadataWriteError):
        world.repository.spm.upgrade(world.pool_id, 5)
    assert read(world, world.domain_id)["VERSION"] == "4"
    world.repository.spm.upgrade(world.pool_id, 5)
    assert read(world, world.domain_id)["VERSION"] == "5"


def test_refusals(world: World) -> None:
    world.start_spm(4)
    upgrade = world.repository.spm.upgrade
    for wanted, error in ((3, CurrentVersionTooAdvancedError), (-1, CurrentVersionTooAdvancedError)):
        with pytest.raises(error):
            upgrade(world.pool_id, wanted)
    for unknown in (6, 1 << 70):
        with pytest.raises(UnsupportedDomainVersion):
            upgrade(world.pool_id, unknown)
    world.repository.spm.stop(world.pool_id)
    with pytest.raises(SpmStatusError):
        upgrade(world.pool_id, 5)
    assert read(world, world.domain_id)["VERSION"] == "4"


def test_the_others_follow_the_master(world: World) -> None:
    world.start_spm(3)
    active, resting, sick = (add_member(world, f"/{name}", version=3) for name in ("active", "resting", "sick"))
    world.repository.members.deactivate(world.pool_id, resting)
    upgrades = world.repository.upgrades
    assert upgrades.list_members(world.pool_id) == [active, sick]
    world.repository.spm.upgrade(world.pool_id, 5)
    world.repository.domains.get_backend(sick).domain.acquire_lock(9)
    upgrades.convert_member(world.pool_id, active)
    upgrades.convert_member(world.pool_id, resting)
    with pytest.raises(Exception, match="held by host 9"):
        upgrades.convert_member(world.pool_id, sick)
    assert [read(world, one)["VERSION"] for one in (active, resting, sick)] == ["5", "3", "3"]
    world.repository.members.activate(world.pool_id, resting)
    assert read(world, resting)["VERSION"] == "5"
    world.repository.domains.get_backend(active).domain.acquire_lock(1)  # it was given back


def test_a_domain_that_cannot_be_upgraded_is_not_activated(world: World) -> None:
    world.start_spm(5)
    domain_id = add_domain(world, "/older", 4)
    world.repository.members.attach(world.pool_id, domain_id)
    world.memory.fail_next("write_metadata", StorageDomainAccessError(domain_id))
    with pytest.raises(StorageDomainAccessError):
        world.repository.members.activate(world.pool_id, domain_id)
    assert world.repository.pools.get_connected(world.pool_id).domains[domain_id] is DomainStatus.ATTACHED
    world.repository.members.activate(world.pool_id, domain_id)
    assert read(world, domain_id)["VERSION"] == "5"
