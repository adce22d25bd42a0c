"""Calls and their rules: one at a time for a VM, deadlines, destroy always; what they do is left to `hypervisor`."""

import contextlib
from collections.abc import Callable
from typing import Self, TypeVar

import libvirt
from msgspec import Struct

from vdsm.adapters.libvirt.connection import Link, translate
from vdsm.adapters.libvirt.lanes import Hold, Lanes, Turnstile
from vdsm.adapters.libvirt.pool import CallExpired, Pool
from vdsm.core.ids import is_uuid
from vdsm.virt.ports import MOST_MOVES, HypervisorDown, HypervisorTimeout, NoSuchDomain

T = TypeVar("T")

_LONGEST_TRANSFER_S = 7 * 86400.0


class CallSettings(Struct, frozen=True):
    """Deadlines. `vm_command_timeout_s` is the setting `vars.vm_command_timeout` (rpc facts §7.4)."""

    vm_command_timeout_s: float = 60.0
    slow_timeout_s: float = 600.0  # a start may allocate hundreds of GiB, a definition make libvirt probe its qemus
    starts_limit: int = 4
    definitions_limit: int = 2
    questions_limit: int = 4  # to agents inside VMs, of which any may be silent
    transfers_limit: int = MOST_MOVES
    destroy_patience_s: float = 1.0  # how long destroy waits for a call in flight before it goes beside it


class Calls:
    """The doors to libvirt for everything but samples and events."""

    def __init__(self, pool: Pool, link: Link, settings: CallSettings) -> None:
        self._pool = pool
        self._link = link
        self._settings = settings
        self._lanes = Lanes()
        self._destroy_lanes = Lanes()
        self._agent_lanes = Lanes()
        self._questions = Turnstile(settings.questions_limit)
        self._transfer_lanes = Lanes()
        self._transfers = Turnstile(settings.transfers_limit)
        self.starts = Turnstile(settings.starts_limit)
        self.definitions = Turnstile(settings.definitions_limit)

    async def on_host(self, what: str, function: Callable[[libvirt.virConnect], T]) -> T:
        """A call on no VM in particular. When it gives no answer in time, libvirtd is stuck: HypervisorDown."""
        timeout_s = self._settings.vm_command_timeout_s
        try:
            return await self._pool.call(
                function, what=what, translate=lambda error: translate(error, "", what, timeout_s), timeout_s=timeout_s
            )
        except CallExpired:
            raise HypervisorDown(f"{what} did not answer within {timeout_s} s") from None

    async def on_vm(
        self, vm_id: str, what: str, function: Callable[[libvirt.virDomain], T], turnstile: Turnstile | None = None
    ) -> T:
        """A call on a VM that exists, after those asked for earlier."""
        return await self.for_vm(
            vm_id, what, lambda connection: function(connection.lookupByUUIDString(vm_id)), turnstile
        )

    async def for_vm(
        self, vm_id: str, what: str, function: Callable[[libvirt.virConnect], T], turnstile: Turnstile | None = None
    ) -> T:
        """A call that takes the VM's lane, for a VM that may not exist yet.

        One that passes a turnstile may take minutes, and only a few of its kind run at once.
        """
        timeout_s = self._settings.vm_command_timeout_s if turnstile is None else self._settings.slow_timeout_s
        self._check(vm_id)
        with _Holds(vm_id) as holds:
            await self._lanes.enter(vm_id, what, timeout_s)
            holds.add(self._lanes)
            if turnstile is not None:
                await turnstile.enter(vm_id, what, timeout_s)
                holds.add(turnstile)
        return await self._make(what, function, timeout_s, holds)

    async def on_agent(self, vm_id: str, what: str, function: Callable[[libvirt.virDomain], T], timeout_s: float) -> T:
        """A call on the agent inside a VM: libvirt makes it beside calls on the VM, after others on that agent."""
        return await self._beside(vm_id, what, function, self._agent_lanes, self._questions, timeout_s)

    async def transfer(self, vm_id: str, what: str, function: Callable[[libvirt.virDomain], T]) -> T:
        """A call that lasts as long as all memory of the VM takes, beside its other calls; a few at once."""
        return await self._beside(vm_id, what, function, self._transfer_lanes, self._transfers, _LONGEST_TRANSFER_S)

    async def _beside(
        self,
        vm_id: str,
        what: str,
        function: Callable[[libvirt.virDomain], T],
        lanes: Lanes,
        turnstile: Turnstile,
        timeout_s: float,
    ) -> T:
        self._check(vm_id)
        with _Holds(vm_id) as holds:
            await lanes.enter(vm_id, what, timeout_s)
            holds.add(lanes)
            await turnstile.enter(vm_id, what, timeout_s)
            holds.add(turnstile)
        return await self._make(
            what, lambda connection: function(connection.lookupByUUIDString(vm_id)), timeout_s, holds
        )

    async def destroy(self, vm_id: str, function: Callable[[libvirt.virDomain], T]) -> T:
        """The call that reaches a VM whose other call is stuck; one at a time, beyond the pool's limits."""
        what, timeout_s = "destroy", self._settings.vm_command_timeout_s
        self._check(vm_id)
        with _Holds(vm_id) as holds:
            await self._destroy_lanes.enter(vm_id, what, timeout_s)
            holds.add(self._destroy_lanes)
            with contextlib.suppress(HypervisorTimeout):
                await self._lanes.enter(vm_id, what, self._settings.destroy_patience_s, first=True)
                holds.add(self._lanes)
        return await self._make(
            what, lambda connection: function(connection.lookupByUUIDString(vm_id)), timeout_s, holds, extra=1
        )

    def _check(self, vm_id: str) -> None:
        self._link.check()
        if not is_uuid(vm_id):
            raise NoSuchDomain(vm_id)

    async def _make(
        self, what: str, function: Callable[[libvirt.virConnect], T], timeout_s: float, holds: "_Holds", extra: int = 0
    ) -> T:
        vm_id = holds.vm_id
        try:
            return await self._pool.call(
                function,
                what=f"{what} of VM {vm_id}",
                translate=lambda error: translate(error, vm_id, what, timeout_s),
                timeout_s=timeout_s,
                extra=extra,
                on_return=holds.leave,
                on_write_off=lambda: holds.mark_stuck(what, timeout_s),
            )
        except CallExpired:
            raise HypervisorTimeout(vm_id, what, timeout_s) from None


class _Holds:
    """What a call on a VM has taken: given back when taking the rest fails in its block, or else when it returns."""

    def __init__(self, vm_id: str) -> None:
        self.vm_id = vm_id
        self._taken: list[Hold] = []
        self.add = self._taken.append

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.leave()

    def leave(self) -> None:
        for hold in self._taken:
            hold.leave(self.vm_id)

    def mark_stuck(self, what: str, timeout_s: float) -> None:
        for hold in self._taken:
            hold.mark_stuck(self.vm_id, what, timeout_s)
