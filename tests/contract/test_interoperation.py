"""What another implementation checks on a local domain that we made and changed (facts: storage §18.1, §18.2)."""

import hashlib
import mmap
import os
from pathlib import Path

import pytest

from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.errors import NodeError
from vdsm.storage.model import DomainStatus
from vdsm.testing.storage import World, make_world_on_disk

NAME = "größer als 日本"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world_on_disk(tmp_path, QemuImgCommand(), OwnOwner())
    world.create_domain()
    world.repository.domains.update(world.domain_id, {"DESCRIPTION": NAME})
    return world


def get_metadata(world: World) -> Path:
    return Path(world.server) / world.domain_id / "dom_md/metadata"


def seal(lines: list[bytes]) -> bytes:
    """A checksum computed as the facts tell, by this test alone."""
    text = b"".join(sorted(lines)).decode("utf-8").encode("ascii", "xmlcharrefreplace")
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def test_the_text_of_metadata(world: World) -> None:
    data = get_metadata(world).read_bytes()
    assert data.endswith(b"\n") and b"\r" not in data and not data.startswith(b"\xef\xbb\xbf")
    *lines, last = data[:-1].split(b"\n")
    assert last == b"_SHA_CKSUM=" + seal(lines)
    keys = [line.partition(b"=")[0] for line in lines]
    assert keys == sorted(keys)
    assert f"DESCRIPTION={NAME}".encode() in lines and b"POOL_UUID=" in lines
    assert {b"BLOCK_SIZE", b"ALIGNMENT"} <= set(keys) and not {b"LOGBLKSIZE", b"PHYBLKSIZE"} & set(keys)


def test_the_pool_of_an_attached_domain_and_a_key_that_we_do_not_know(world: World) -> None:
    file, repository = get_metadata(world), world.repository
    *lines, _ = file.read_bytes()[:-1].split(b"\n")
    lines = sorted([*lines, b"COLOUR=blue"])
    file.write_bytes(b"\n".join([*lines, b"_SHA_CKSUM=" + seal(lines)]) + b"\n")
    repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    kept = file.read_bytes().splitlines()
    assert b"COLOUR=blue" in kept and f"POOL_UUID={world.pool_id}".encode() in kept
    before = file.read_bytes()
    repository.pools.connect(world.pool_id, 1, world.domain_id, 1, {world.domain_id: DomainStatus.ACTIVE})
    assert file.read_bytes() == before


def test_one_changed_character(world: World) -> None:
    file = get_metadata(world)
    file.write_bytes(file.read_bytes().replace(b"ROLE=", b"ROLF="))
    with pytest.raises(NodeError) as refused:
        world.repository.domains.get(world.domain_id)
    assert refused.value.number == 752


def test_the_files_of_a_local_domain(world: World) -> None:
    world.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    volume = world.resume().create_base()
    names = [path.name for path in Path(world.server).rglob("*")]
    assert names.count("dom_md") == 1 and "xleases" not in names
    assert sorted(os.listdir(world.get_path(volume).parent)) == [volume.volume_id, f"{volume.volume_id}.meta"]
    record = world.get_path(volume).with_name(f"{volume.volume_id}.meta").read_bytes()
    assert len(record) <= 512 and record.endswith(b"EOF\n")
    descriptor = os.open(get_metadata(world), os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as page:
        assert os.readv(descriptor, [page]) == len(get_metadata(world).read_bytes())
    os.close(descriptor)
    world.repository.spm.stop(world.pool_id)
