"""Statistics of all VMs in one call, and who did not answer it; what the figures mean is left to virt."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import libvirt
from msgspec import Struct

from vdsm.adapters.libvirt.connection import translate
from vdsm.adapters.libvirt.pool import CallExpired, Pool, nothing
from vdsm.core.clock import Clock
from vdsm.core.errors import ResourceExhausted
from vdsm.virt.ports import BulkSample, HypervisorTimeout

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
_HEADROOM = 4.0  # a host whose samples honestly take long gets so many times the last good one
_LATE_HEADROOM, _LATEST_S = 2.0, 30.0  # likewise, of one that came after its time; what takes longer was stuck
_ROUNDS = 4  # after the first: all again, then halves of what is silent, quarters, eighths
_GROUPS_AT_ONCE = 4
_STATISTICS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
_NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_ACTIVE = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE

T = TypeVar("T")
_Stats = Mapping[str, int | str | bool]
_Rows = list[tuple[libvirt.virDomain, dict[str, int | str | bool]]]


class _Answer(Struct, frozen=True):
    stats: dict[str, _Stats]
    silent: set[str]


class Sampler:
    """Takes one sample at a time.

    With NOWAIT libvirt passes over a VM whose monitor is in use and gives only what it knows by itself. Yet the first
    call that meets a stuck qemu hangs in its monitor. Once it is written off the monitor is in use, so the next call
    passes over that VM; with several stuck VMs each hanging call finds one, which is why silent groups are asked again
    in halves.
    """

    def __init__(self, pool: Pool, clock: Clock, *, timeout_s: float = TIMEOUT_S) -> None:
        self._pool = pool
        self._clock = clock
        self._least_timeout_s = timeout_s
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._silent: frozenset[str] = frozenset()

    async def sample(self) -> BulkSample:
        """Statistics of all active VMs. Raises HypervisorDown; ResourceExhausted: too many calls never came back."""
        async with self._lock:  # two at once would take each other for a busy monitor
            try:
                answer = await self._ask(None)
            except CallExpired:
                answer = await self._ask_again()
            self._silent = frozenset(answer.silent)
            return BulkSample(self._clock.monotonic(), answer.stats, self._silent)

    async def _ask(self, group: list[str] | None) -> _Answer:
        """One call for these VMs (None: all). Raises CallExpired."""
        started_s = self._clock.monotonic()
        known = self._silent

        def learn() -> None:
            took_s = self._clock.monotonic() - started_s
            if group is None and self._timeout_s < took_s < _LATEST_S:
                self._timeout_s = _LATE_HEADROOM * took_s

        answer = await self._call("statistics", lambda connection: _collect(connection, group, known), learn)
        if group is None:
            self._timeout_s = max(self._least_timeout_s, _HEADROOM * (self._clock.monotonic() - started_s))
        return answer

    async def _ask_again(self) -> _Answer:
        try:
            everybody = await self._call("list of VMs", _list_active)
        except CallExpired:
            raise HypervisorTimeout("", "list of VMs", self._timeout_s) from None
        answered: dict[str, _Stats] = {}
        silent: set[str] = set()
        groups: list[list[str]] = [everybody]
        for _ in range(_ROUNDS):
            groups = await self._ask_groups(groups, answered, silent)
            if not groups:
                break
        silent.update(*groups)
        log.warning("VMs without statistics: %s", ", ".join(sorted(silent)) or "none")
        return _Answer(answered, silent)

    async def _ask_groups(
        self, groups: list[list[str]], answered: dict[str, _Stats], silent: set[str]
    ) -> list[list[str]]:
        """Ask each group; the halves of those that stay silent are returned."""
        places = asyncio.Semaphore(_GROUPS_AT_ONCE)

        async def ask(group: list[str]) -> list[list[str]]:
            async with places:
                try:
                    answer = await self._ask(group)
                except (CallExpired, ResourceExhausted):
                    half = (len(group) + 1) // 2
                    return [part for part in (group[:half], group[half:]) if part]
            answered.update(answer.stats)
            silent.update(answer.silent)
            return []

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(group)) for group in groups]
        return [part for task in asked for part in task.result()]

    async def _call(
        self, what: str, function: Callable[[libvirt.virConnect], T], on_return: Callable[[], None] = nothing
    ) -> T:
        return await self._pool.call(
            function,
            on_return=on_return,
            what=what,
            translate=lambda error: translate(error, "", what, self._timeout_s),
            timeout_s=self._timeout_s,
            extra=1,
        )


def _list_active(connection: libvirt.virConnect) -> list[str]:
    return [domain.UUIDString() for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)]


def _collect(connection: libvirt.virConnect, group: list[str] | None, known_silent: frozenset[str]) -> _Answer:
    """In a thread of the pool: libvirt's own dictionaries, not copied."""
    if group is None:
        rows = connection.getAllDomainStats(_STATISTICS, _ACTIVE | _NOWAIT)
    else:
        rows = _ask_for(connection, _look_up(connection, group))
    stats: dict[str, _Stats] = {}
    silent = _sort_out(rows, stats)
    # A VM whose monitor was in use for another short call is asked once more.
    busy = [domain for vm_id, domain in silent.items() if vm_id not in known_silent]
    if busy:
        still_silent = _sort_out(_ask_for(connection, busy), stats)
        silent = {vm_id: domain for vm_id, domain in silent.items() if vm_id in still_silent or vm_id in known_silent}
    return _Answer(stats, set(silent))


def _look_up(connection: libvirt.virConnect, group: list[str]) -> list[libvirt.virDomain]:
    found = []
    for vm_id in group:
        try:
            found.append(connection.lookupByUUIDString(vm_id))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return found


def _ask_for(connection: libvirt.virConnect, domains: list[libvirt.virDomain]) -> _Rows:
    return connection.domainListGetStats(domains, _STATISTICS, _ACTIVE | _NOWAIT) if domains else []


def _sort_out(rows: _Rows, stats: dict[str, _Stats]) -> dict[str, libvirt.virDomain]:
    """Put the statistics of VMs that answered into stats, and return the others."""
    silent = {}
    for domain, row in rows:
        # Without the monitor libvirt leaves out most keys; these two come for every VM, and for every VM with a disk.
        if "balloon.rss" in row or "block.0.rd.reqs" in row:
            stats[domain.UUIDString()] = row
        else:
            silent[domain.UUIDString()] = domain
    return silent
