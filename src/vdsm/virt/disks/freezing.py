"""Has agents freeze the file systems of their guests, and thaw them (facts §2.14, §2.18).

That a guest is frozen for something of ours stands in its VM's metadata until its agent was told to thaw it: where a
daemon ends before that, the next one does it. An agent that is silent holds up nobody; it is asked until it answers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from vdsm.api import errors
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt.lifecycle import Request
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.power import check_possible
from vdsm.virt.shared import Shared, attempt
from vdsm.virt.vm import Vm

FROZEN = "frozen"
"""In the metadata while the guest is frozen for a snapshot or a backup that begins."""
# libvirt's error numbers: no support, unsupported argument (no channel), silent agent, unsupported, out of step.
_AGENT_ABSENT, _AGENT_LACKS = (74, 86, 97), (3, 84)


async def freeze(shared: Shared, vm: Vm) -> None:
    """Raises AgentNotResponding (19), UnsupportedByAgent (75), FreezeFailed (76)."""
    with _asking_agent(shared, vm, errors.FreezeFailed):
        await _freeze(shared, vm)


async def thaw(shared: Shared, vm: Vm) -> None:
    """Raises AgentNotResponding (19), UnsupportedByAgent (75), ThawFailed (77)."""
    with _asking_agent(shared, vm, errors.ThawFailed):
        await shared.hypervisor.thaw_filesystems(vm.vm_id)


@asynccontextmanager
async def frozen(shared: Shared, vm: Vm) -> AsyncIterator[NodeError | None]:
    """With the guest's file systems frozen, or why they are not: most guests have no agent, and get by."""
    await shared.record(vm, **{FROZEN: True})
    tried = asyncio.Event()
    try:
        yield await attempt(vm, "its guest could not be frozen", _freeze(shared, vm), logging.INFO)
    except asyncio.CancelledError:
        tried.set()  # The daemon ends, and waits for nobody.
        raise
    finally:
        begin_thaw(shared, vm, tried)
        await tried.wait()


def begin_thaw(shared: Shared, vm: Vm, tried: asyncio.Event) -> None:
    """Let the guest write again, in the background: one that is not frozen does not mind."""
    vm.thawing = shared.children.spawn(_thaw(shared, vm, tried), f"thaw the guest of VM {vm.vm_id}")


async def _freeze(shared: Shared, vm: Vm) -> None:
    if vm.thawing is not None:
        vm.thawing.cancel()  # It would undo this.
    await shared.hypervisor.freeze_filesystems(vm.vm_id)


async def _thaw(shared: Shared, vm: Vm, tried: asyncio.Event) -> None:
    ask, what = shared.hypervisor.thaw_filesystems, "its guest could not be thawed"
    try:
        while (failure := await attempt(vm, what, ask(vm.vm_id), logging.INFO)) and failure.retry and vm.is_alive:
            tried.set()
            await wait_until(vm.stopped, shared.settings.retry_s, shared.clock)
        await shared.save(vm, **{FROZEN: None})
    finally:
        tried.set()


@contextmanager
def _asking_agent(shared: Shared, vm: Vm, failure: type[errors.FreezeFailed | errors.ThawFailed]) -> Iterator[None]:
    check_possible(shared, vm, Request.AGENT)
    try:
        yield
    except HypervisorTimeout as error:
        raise failure(vm.vm_id, str(error)) from error
    except HypervisorRefused as error:
        if error.kind in _AGENT_ABSENT:
            raise errors.AgentNotResponding(vm.vm_id) from error
        if error.kind in _AGENT_LACKS:
            raise errors.UnsupportedByAgent(vm.vm_id, error.reason) from error
        raise failure(vm.vm_id, error.reason) from error
