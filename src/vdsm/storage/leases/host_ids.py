"""This host's ids in its domains' lockspaces, taken and given up beside the loop; when is left to the monitors."""

import asyncio
import logging

from vdsm.core.errors import NodeError
from vdsm.storage.domain import Domains
from vdsm.storage.lanes import Lanes
from vdsm.storage.ports import DomainStore

log = logging.getLogger(__name__)


class LaneHostIds:
    """`ports.HostIds` through the leases. A domain does one thing at a time, until all is as it was wanted last.

    Joining may take minutes, so it has lanes of its own: a domain's work goes on beside it.
    """

    def __init__(self, domains: Domains, lanes: Lanes) -> None:
        self._domains = domains
        self._lanes = lanes
        self._wanted: dict[str, int] = {}
        self._held: dict[str, int] = {}
        # What sanlock may have joined: it is left by the way on which it was joined, wherever the domain is by then.
        self._tried: dict[str, tuple[int, DomainStore]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def is_held(self, domain_id: str) -> bool:
        return self._wanted.get(domain_id) == self._held.get(domain_id) is not None

    def acquire(self, domain_id: str, host_id: int) -> None:
        self._wanted[domain_id] = host_id
        self._begin(domain_id)

    def check(self, domain_id: str) -> None:
        if domain_id in self._held:
            self._begin(domain_id, self._held[domain_id])

    def release(self, domain_id: str) -> None:
        if self._wanted.pop(domain_id, None) is not None:
            self._begin(domain_id)

    def _begin(self, domain_id: str, checked: int | None = None) -> None:
        if domain_id not in self._tasks:
            work = self._work(domain_id, checked)
            self._tasks[domain_id] = asyncio.create_task(work, name=f"host id {domain_id}")

    async def _work(self, domain_id: str, checked: int | None) -> None:
        try:
            while True:
                wanted = checked or self._wanted.get(domain_id)
                try:
                    await (self._check(domain_id, checked) if checked else self._change(domain_id, wanted))
                except NodeError as error:
                    self._held.pop(domain_id, None)
                    log.warning("Host id %s on domain %s: %s", wanted, domain_id, error)
                if wanted == self._wanted.get(domain_id):
                    return
                checked = None
        finally:
            del self._tasks[domain_id]  # at once: who wants something else from now on begins anew

    async def _check(self, domain_id: str, host_id: int) -> None:
        _, store = self._tried[domain_id]
        if not await self._lanes.run(f"host id {domain_id}", store.is_joined, host_id):
            del self._held[domain_id]
            log.warning("Host id %s on domain %s is not held any more", host_id, domain_id)

    async def _change(self, domain_id: str, wanted: int | None) -> None:
        lane, tried = self._lanes.get(f"host id {domain_id}"), self._tried.get(domain_id)
        if wanted is None:
            if tried is not None:
                await self._leave(domain_id, *tried)
            return
        store = (await lane.run(self._domains.get_backend, domain_id)).domain
        if tried is not None and tried != (wanted, store):
            await self._leave(domain_id, *tried)
        self._tried[domain_id] = wanted, store
        await lane.run(store.join_hosts, wanted)
        self._held[domain_id] = wanted

    async def _leave(self, domain_id: str, host_id: int, store: DomainStore) -> None:
        self._held.pop(domain_id, None)
        await self._lanes.get(f"host id {domain_id}").run(store.leave_hosts, host_id)
        del self._tried[domain_id]
