"""This host's ids in its domains' lockspaces, taken and given up beside the loop; when is left to the monitors."""

import asyncio
import logging

from vdsm.core.errors import NodeError
from vdsm.storage.domain import Domains
from vdsm.storage.lanes import Lanes

log = logging.getLogger(__name__)


class LaneHostIds:
    """`ports.HostIds` through the leases. A domain does one thing at a time, until all is as it was wanted last."""

    def __init__(self, domains: Domains, lanes: Lanes) -> None:
        self._domains = domains
        self._lanes = lanes
        self._wanted: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def is_held(self, domain_id: str) -> bool:
        if domain_id in self._wanted:
            self._begin(domain_id)  # sanlock may have dropped it; joining again costs nothing where it has not
        return self._wanted.get(domain_id) == self._held.get(domain_id) is not None

    def acquire(self, domain_id: str, host_id: int) -> None:
        self._wanted[domain_id] = host_id
        self._begin(domain_id)

    def release(self, domain_id: str) -> None:
        if self._wanted.pop(domain_id, None) is not None:
            self._begin(domain_id)

    def _begin(self, domain_id: str) -> None:
        if domain_id not in self._tasks:
            task = asyncio.create_task(self._work(domain_id), name=f"host id {domain_id}")
            self._tasks[domain_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(domain_id, None))

    async def _work(self, domain_id: str) -> None:
        while True:
            wanted = self._wanted.get(domain_id)
            try:
                await self._change(domain_id, wanted)
            except NodeError as error:
                self._held.pop(domain_id, None)
                log.warning("Host id %s on domain %s: %s", wanted, domain_id, error)
            if wanted == self._wanted.get(domain_id):
                return

    async def _change(self, domain_id: str, wanted: int | None) -> None:
        lane, held = self._lanes.get(domain_id), self._held.get(domain_id)
        store = (await lane.run(self._domains.get_backend, domain_id)).domain
        if held is not None and held != wanted:
            await lane.run(store.leave_hosts, held)
            del self._held[domain_id]
        if wanted is not None:
            await lane.run(store.join_hosts, wanted)
            self._held[domain_id] = wanted
