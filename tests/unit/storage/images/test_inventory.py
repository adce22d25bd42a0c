"""Looking at domains: dumps with damaged records, files of ISO domains, which domain has an image."""

import os
from pathlib import Path

import pytest

from tests.unit.storage.pools.test_members import add_member
from tests.unit.storage.pools.test_pool import add_domain
from vdsm.storage.errors import ImagesNotSupportedError, InvalidParameterException, StoragePoolUnknown
from vdsm.storage.errors_pools import GetFileStatsError
from vdsm.storage.health.monitor import Health
from vdsm.storage.images.inventory import FileStats
from vdsm.storage.model import ISO_IMAGE, DomainClass, VolumeSize, VolumeStatus
from vdsm.storage.services.pools import format_pool
from vdsm.testing.qemuimg import FakeQemuImg
from vdsm.testing.storage import NoOwner, World, make_id, make_world_on_disk


def test_a_dump_tells_of_every_volume_once(spm: World) -> None:
    template = spm.create_base(description="é")
    user = spm.create_layer(template, make_id())
    broken = spm.create_base()
    images = spm.memory.servers[spm.server][spm.domain_id].images
    images[broken.image_id][broken.volume_id] = b"IMAGE=../../etc\nEOF\n"
    spm.memory.servers[spm.server][spm.domain_id].data[user.image_id].discard(user.volume_id)
    del spm.memory.files[spm.repository.domains.get_backend(spm.domain_id).data.get_path(user.image_id, user.volume_id)]
    dump = spm.repository.inventory.dump(spm.domain_id)
    assert dump.domain.domain_id == spm.domain_id
    assert set(dump.volumes) == {template.volume_id, user.volume_id, broken.volume_id}
    whole, lost, damaged = (dump.volumes[one.volume_id] for one in (template, user, broken))
    assert (whole.image_id, whole.status) == (template.image_id, VolumeStatus.OK)
    assert whole.metadata is not None and whole.metadata.description == "é"
    assert (lost.image_id, lost.status, lost.size) == (user.image_id, VolumeStatus.INVALID, VolumeSize(0, 0))
    assert (damaged.image_id, damaged.status, damaged.metadata) == (broken.image_id, VolumeStatus.INVALID, None)


def test_which_domain_has_an_image(spm: World) -> None:
    made = spm.create_base()
    add_member(spm)
    find = spm.repository.inventory.find_image
    assert find(spm.pool_id, made.image_id) == [spm.domain_id]
    assert find(spm.pool_id, make_id()) == []
    with pytest.raises(InvalidParameterException):
        find(spm.pool_id, "../x")
    with pytest.raises(StoragePoolUnknown):
        find(make_id(), made.image_id)


@pytest.fixture
def iso(tmp_path: Path) -> World:
    world = make_world_on_disk(tmp_path, FakeQemuImg({}), NoOwner())
    world.create_domain(domain_class=DomainClass.ISO)
    root = Path(world.server, world.domain_id, "images", ISO_IMAGE)
    (root / "old" / "er").mkdir(parents=True)
    for name in ("a.iso", "B.ISO", "old/er/c.iso", "d.vfd"):
        (root / name).write_bytes(b"x" * len(name))
    (root / "link.iso").symlink_to("/etc/passwd")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.iso")
    (Path(os.fsencode(root).decode()) / os.fsdecode(b"\xff.iso")).write_bytes(b"")
    return world


@pytest.mark.parametrize(
    ("pattern", "case_sensitive", "names"),
    [
        ("*", False, {"a.iso", "B.ISO", "old/er/c.iso", "d.vfd"}),
        ("*.iso", False, {"a.iso", "B.ISO", "old/er/c.iso"}),
        ("*.iso", True, {"a.iso", "old/er/c.iso"}),
        ("[ab].*", False, {"a.iso", "B.ISO"}),
        ("[z-a]", False, set()),
        ("../*", False, set()),
        ("", False, set()),
        ("*a" * 100, False, set()),
    ],
)
def test_files_of_an_iso_domain(iso: World, pattern: str, case_sensitive: bool, names: set[str]) -> None:
    found = iso.repository.inventory.list_files(iso.domain_id, pattern, case_sensitive=case_sensitive)
    assert set(found) == names
    for name, file in found.items():
        assert isinstance(file, FileStats) and (file.size_bytes, file.status) == (len(name), 0)


def test_files_that_qemu_may_not_read(tmp_path: Path) -> None:
    owner = NoOwner()
    world = make_world_on_disk(tmp_path, FakeQemuImg({}), owner)
    world.create_domain(domain_class=DomainClass.ISO)
    root = Path(world.server, world.domain_id, "images", ISO_IMAGE)
    (root / "a.iso").touch()
    owner.refusal = "no"
    assert world.repository.inventory.list_files(world.domain_id, "*", case_sensitive=True)["a.iso"].status == 469
    root.joinpath("a.iso").unlink()
    root.rmdir()
    with pytest.raises(GetFileStatsError):
        world.repository.inventory.list_files(world.domain_id, "*", case_sensitive=True)


def test_only_iso_domains_have_files(world: World) -> None:
    world.create_domain()
    with pytest.raises(GetFileStatsError):
        world.repository.inventory.list_files(world.domain_id, "*", case_sensitive=True)
    with pytest.raises(InvalidParameterException):
        world.repository.inventory.list_files(world.domain_id, "x" * 256, case_sensitive=True)


def test_a_pool_tells_where_its_iso_files_are(spm: World) -> None:
    iso_id = add_domain(spm, "/iso", domain_class=DomainClass.ISO)
    spm.repository.members.attach(spm.pool_id, iso_id)
    assert format_pool(spm.repository.pools.get_info(spm.pool_id)).info.iso_prefix == ""
    spm.repository.members.activate(spm.pool_id, iso_id)
    told = format_pool(spm.repository.pools.get_info(spm.pool_id))
    expected = str(spm.memory.folder / iso_id / "images" / ISO_IMAGE)
    assert told.info.iso_prefix == told.domains[iso_id].iso_prefix == expected
    assert told.domains[spm.domain_id].iso_prefix == ""
    health = Health(0.0, look=spm.repository.domains.look(iso_id))
    known = spm.repository.pools.get_info(spm.pool_id, {iso_id: health})
    assert str(known.domains[iso_id].iso_folder) == expected


def test_iso_domains_have_no_images(iso: World) -> None:
    with pytest.raises(ImagesNotSupportedError):
        iso.repository.images.list_volumes(iso.domain_id, make_id())
    assert iso.repository.inventory.dump(iso.domain_id).volumes == {}
