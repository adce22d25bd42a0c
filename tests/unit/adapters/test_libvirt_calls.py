"""Which calls on a VM go beside which others."""

import asyncio
import threading
from collections.abc import AsyncIterator

import libvirt
import pytest

from tests.unit.adapters.libvirt_doubles import Connection, Connections
from vdsm.adapters.libvirt.agents import AgentCalls
from vdsm.adapters.libvirt.calls import Calls, CallSettings
from vdsm.adapters.libvirt.connection import Link
from vdsm.adapters.libvirt.pool import Pool

VM_ID, OTHER_ID = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "ab")


class Silent(Connection):
    """A domain, too: whatever takes long ends when it is told."""

    over = threading.Event()

    def lookupByUUIDString(self, vm_id: str) -> "Silent":
        return self

    def fsFreeze(self) -> int:
        self.over.wait(30)
        return 1

    fsThaw = fsFreeze


class Host(AgentCalls):
    """With room for one question and one transfer."""

    def __init__(self) -> None:
        self.link = Link()
        self.link.set_up()
        self.pool = Pool(Connections(Silent).open, self.link)
        self.calls = self._calls = Calls(
            self.pool, self.link, CallSettings(questions_limit=1, transfers_limit=1, vm_command_timeout_s=5)
        )


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    made = Host()
    Silent.over.clear()
    yield made
    Silent.over.set()
    await made.pool.close()


async def test_a_silent_agent_holds_up_no_other_call_on_its_vm(host: Host) -> None:
    freezing = asyncio.create_task(host.freeze_filesystems(VM_ID))
    thawing = asyncio.create_task(host.thaw_filesystems(VM_ID))
    await asyncio.sleep(0)
    assert await host.calls.on_vm(VM_ID, "look", lambda _: 7) == 7
    assert not freezing.done() and not thawing.done()
    Silent.over.set()
    await asyncio.gather(freezing, thawing)


async def test_a_question_and_a_transfer_take_no_place_from_each_other(host: Host) -> None:
    def wait(domain: libvirt.virDomain) -> int:
        return domain.fsFreeze()

    moving = asyncio.create_task(host.calls.transfer(OTHER_ID, "migration", wait))
    await asyncio.sleep(0)
    assert await host.calls.on_agent(VM_ID, "guest-ping", lambda _: 7, 5) == 7
    second = asyncio.create_task(host.calls.transfer(VM_ID, "migration", lambda _: None))
    assert await host.calls.on_vm(VM_ID, "look", lambda _: 7) == 7
    assert not moving.done() and not second.done()
    Silent.over.set()
    await asyncio.gather(moving, second)
