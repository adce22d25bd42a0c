"""Secrets: told to libvirt, changed, removed, and gone when the daemon is."""

import base64

import pytest

from tests.unit.virt.world import World, settle
from vdsm.api.errors import SecretBadRequest, SecretRegisterFailed, SecretUnregisterFailed
from vdsm.api.secrets import Secret
from vdsm.virt.ports import HypervisorDown, HypervisorRefused

FIRST, SECOND, THIRD = (f"{number}0000000-0000-4000-8000-00000000000a" for number in (1, 2, 3))


def make(uuid: str, usage: str = "ovirt/1", password: str = "c2VjcmV0", **values: str) -> Secret:
    return Secret(uuid=uuid, usage_type="ceph", usage_id=usage, password=password, **values)


async def test_secrets_come_change_and_go() -> None:
    world = World()
    async with world.ready() as service:
        await service.secrets.register([make(FIRST), make(SECOND, "mine", description="x & y")])
        assert world.hypervisor.secrets == {FIRST: ("ovirt/1", b"secret"), SECOND: ("mine", b"secret")}
        other = base64.b64encode(b"\0\xff").decode()
        await service.secrets.register([make(FIRST, password=other)])
        assert world.hypervisor.secrets[FIRST] == ("ovirt/1", b"\0\xff")
        await service.secrets.register([make(FIRST, "ovirt/2")])
        assert world.hypervisor.secrets[FIRST] == ("ovirt/2", b"secret")
        await service.secrets.register([make(THIRD, "ovirt/3")], clear=True)
        assert set(world.hypervisor.secrets) == {SECOND, THIRD}, "what others use stays"
        await service.secrets.unregister([SECOND, FIRST])
        assert set(world.hypervisor.secrets) == {THIRD}


@pytest.mark.parametrize(
    "bad",
    [
        make(FIRST, password="no base64!"),
        make(FIRST, usage=""),
        make(FIRST, usage="\0"),
        make(FIRST, usage="x" * 70_000),
        make(FIRST, description="\x1b"),
    ],
)
async def test_a_bad_request_changes_nothing(bad: Secret) -> None:
    world = World()
    async with world.ready() as service:
        with pytest.raises(SecretBadRequest):
            await service.secrets.register([make(SECOND), bad], clear=True)
        assert world.hypervisor.secrets == {}
        with pytest.raises(SecretBadRequest):
            await service.secrets.register([make(SECOND)] * 1001)


async def test_failures_do_not_tell_the_secret() -> None:
    world = World()
    async with world.ready() as service:
        await settle()
        world.hypervisor.fail_next("set_secret", HypervisorRefused("no"))
        with pytest.raises(SecretRegisterFailed) as caught:
            await service.secrets.register([make(FIRST)])
        assert caught.value.__cause__ is None and "secret" not in repr(caught.value.data())
        world.hypervisor.fail_next("remove_secret", HypervisorRefused("no"))
        with pytest.raises(SecretUnregisterFailed):
            await service.secrets.unregister([FIRST])
        world.hypervisor.go_down()
        with pytest.raises(HypervisorDown):
            await service.secrets.register([make(FIRST)])
        await service.secrets.clear()


async def test_those_of_an_earlier_daemon_are_forgotten_first() -> None:
    world = World()
    left = {FIRST: ("ovirt/1", b"a"), SECOND: ("others", b"b")}
    world.hypervisor.secrets = dict(left)
    async with world.ready() as service:
        await service.secrets.register([make(THIRD, "ovirt/3")])
        await settle()
        assert set(world.hypervisor.secrets) == {SECOND, THIRD}
        await service.secrets.clear()
        assert set(world.hypervisor.secrets) == {SECOND}
    world.hypervisor.secrets = dict(left)
    async with world.ready():
        await settle()
        assert set(world.hypervisor.secrets) == {SECOND}, "also when nobody asks for anything"
