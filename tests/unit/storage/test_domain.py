"""Domains: finding, making, refusing."""

from pathlib import Path

import pytest

from vdsm.storage import checks
from vdsm.storage.errors import (
    InvalidParameterException,
    StorageDomainAlreadyExists,
    StorageDomainBlockSizeMismatch,
    StorageDomainClassError,
    StorageDomainCreationError,
    StorageDomainDoesNotExist,
    StorageDomainFsNotMounted,
    StorageDomainNotEmpty,
    StorageDomainTypeError,
    UnsupportedDomainVersion,
)
from vdsm.storage.metadata import format_domain_metadata
from vdsm.storage.model import ISO_IMAGE, DomainClass, DomainRole, DomainType
from vdsm.testing.storage import World, make_id, make_world_in_memory


def test_a_new_domain_is_found_with_what_it_was_made_with(world: World) -> None:
    world.create_domain()
    metadata = world.repository.domains.get(world.domain_id).metadata
    assert (metadata.name, metadata.remote_path, metadata.version) == ("first", world.server, 5)
    assert (metadata.role, metadata.pool_ids) == (DomainRole.REGULAR, ())
    assert world.repository.domains.list_domains() == [world.domain_id]
    assert world.repository.domains.list_images(world.domain_id) == []


def test_filters(world: World) -> None:
    world.create_domain()
    domains = world.repository.domains
    assert domains.list_domains(type=DomainType.LOCALFS, remote_path=world.server) == [world.domain_id]
    assert domains.list_domains(domain_class=DomainClass.ISO) == []
    assert domains.list_domains(pool_id=make_id()) == []


def test_a_sick_domain_is_listed_but_fits_no_filter(world: World) -> None:
    world.create_domain()
    world.memory.servers[world.server][world.domain_id].metadata = b"VERSION=5\n_SHA_CKSUM=0\n"
    assert world.repository.domains.list_domains() == [world.domain_id]
    assert world.repository.domains.list_domains(type=DomainType.LOCALFS) == []


def test_disconnecting_hides_domains(world: World) -> None:
    world.create_domain()
    world.repository.servers.disconnect(DomainType.LOCALFS, world.server)
    with pytest.raises(StorageDomainDoesNotExist):
        world.repository.domains.get(world.domain_id)


def test_another_domains_metadata_under_this_name_is_not_this_domain(world: World) -> None:
    world.create_domain()
    domain = world.repository.domains.get(world.domain_id)
    changed = domain.metadata.replace({"SDUUID": make_id()})
    domain.backend.domain.write_metadata(format_domain_metadata(changed))
    with pytest.raises(StorageDomainDoesNotExist):
        world.repository.domains.get(world.domain_id)


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"type": DomainType.CIFS}, StorageDomainTypeError),
        ({"domain_id": "X"}, InvalidParameterException),
        ({"domain_id": "../../../../../../etc"}, InvalidParameterException),
        ({"domain_class": "data"}, StorageDomainClassError),
        ({"version": 2}, UnsupportedDomainVersion),
        ({"version": 6}, UnsupportedDomainVersion),
        ({"version": 4, "block_size_bytes": 4096}, InvalidParameterException),
        ({"version": 4, "block_size_bytes": 0}, InvalidParameterException),
        ({"block_size_bytes": 1024}, InvalidParameterException),
        ({"block_size_bytes": 4096}, StorageDomainBlockSizeMismatch),
        ({"maximum_hosts": 0}, InvalidParameterException),
        ({"maximum_hosts": 2001}, InvalidParameterException),
        ({"name": "a\nROLE=Master"}, InvalidParameterException),
        ({"remote_path": "/elsewhere"}, StorageDomainFsNotMounted),
    ],
)
def test_refusals_make_nothing(world: World, changes: dict[str, object], failure: type[Exception]) -> None:
    world.repository.servers.connect(DomainType.LOCALFS, world.server)
    arguments: dict[str, object] = {
        "type": DomainType.LOCALFS,
        "domain_id": make_id(),
        "name": "n",
        "remote_path": world.server,
    }
    with pytest.raises(failure):
        world.repository.domains.create(**(arguments | changes))  # type: ignore[arg-type]
    assert world.memory.servers == {world.server: {}}


def test_one_domain_for_each_server_and_one_server_for_each_id(world: World) -> None:
    world.create_domain()
    create = world.repository.domains.create
    with pytest.raises(StorageDomainNotEmpty):
        create(DomainType.LOCALFS, make_id(), "second", world.server)
    world.repository.servers.connect(DomainType.LOCALFS, "/other")
    with pytest.raises(StorageDomainAlreadyExists):
        create(DomainType.LOCALFS, world.domain_id, "second", "/other")


def test_storage_that_fails_leaves_no_domain(world: World) -> None:
    world.memory.fail_next("create_domain", StorageDomainCreationError(world.domain_id, "I/O"))
    with pytest.raises(StorageDomainCreationError):
        world.create_domain()
    assert world.repository.domains.list_domains() == []
    world.create_domain()


def test_an_iso_domain_has_its_one_image(world: World) -> None:
    world.create_domain(domain_class=DomainClass.ISO)
    assert world.repository.domains.list_images(world.domain_id) == [ISO_IMAGE]


@pytest.mark.parametrize(
    ("block_size", "hosts", "mib"),
    [(512, 1, 1), (512, 2000, 1), (4096, 250, 1), (4096, 251, 2), (4096, 501, 4), (4096, 1001, 8), (4096, 2000, 8)],
)
def test_alignment_by_hosts(block_size: int, hosts: int, mib: int) -> None:
    assert checks.get_alignment_bytes(block_size, hosts) == mib << 20


def test_a_block_size_of_zero_is_the_storages(tmp_path: Path) -> None:
    world = make_world_in_memory(tmp_path)
    world.memory._block_size_bytes = 4096
    world.repository.servers.connect(DomainType.LOCALFS, world.server)
    world.repository.domains.create(
        DomainType.LOCALFS, world.domain_id, "n", world.server, block_size_bytes=0, maximum_hosts=250
    )
    metadata = world.repository.domains.validate(world.domain_id).metadata
    assert (metadata.block_size_bytes, metadata.alignment_bytes) == (4096, 1 << 20)
