"""What follows once a domain became valid: its link is there, and it is not marked as a second master."""

import pytest

from tests.unit.storage.pools.test_pool import add_member, read
from vdsm.storage.errors import MetaDataSealIsBroken
from vdsm.storage.model import DomainRole
from vdsm.testing.storage import World, make_id


def test_a_domain_that_became_valid_has_its_link_again(spm: World) -> None:
    other = add_member(spm)
    link = spm.repository.layout.get_pool(spm.pool_id) / other
    target = link.readlink()
    link.unlink()
    for domain_id in (make_id(), other):
        spm.repository.settling.settle(domain_id)
    assert link.readlink() == target
    assert not any(path.name not in ("mastersd", other, spm.domain_id) for path in link.parent.iterdir())


def test_only_the_spm_takes_the_mark_of_a_master_from_another_domain(spm: World) -> None:
    other = add_member(spm)
    spm.repository.domains.update(other, {"ROLE": "Master", "MASTER_VERSION": "1"})
    spm.repository.spm.stop(spm.pool_id)
    spm.repository.settling.settle(other)
    assert read(spm, other)["ROLE"] == DomainRole.MASTER
    spm.repository.spm.start(spm.pool_id)
    for domain_id in (other, spm.domain_id):
        spm.repository.settling.settle(domain_id)
    assert (read(spm, other)["ROLE"], read(spm, other)["MASTER_VERSION"]) == (DomainRole.REGULAR, "0")
    assert read(spm, spm.domain_id)["ROLE"] == DomainRole.MASTER


def test_a_domain_that_cannot_be_read_says_so(spm: World) -> None:
    other = add_member(spm)
    spm.memory.fail_next("read_metadata", MetaDataSealIsBroken("a", "b"))
    with pytest.raises(MetaDataSealIsBroken):
        spm.repository.settling.settle(other)


def test_settling_without_a_pool_is_nothing(world: World) -> None:
    world.create_pool()
    world.repository.settling.settle(world.domain_id)
