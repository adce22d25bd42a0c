"""Locks inside this process, always taken in one order (facts: storage §1.10); between hosts: the backends'."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from msgspec import Struct

from vdsm.storage.errors import ResourceTimeout

STORAGE = "00_storage"
PREFERRED_S = 2.0
"""So long a writer that waits holds up readers that come later; who reads for hours would hold up others with it."""


class Waits(Struct, frozen=True):
    """How calls wait for a lock: so long, and hearing +1 when a wait begins, which may refuse it, and -1 at its end."""

    timeout_s: float
    hear: Callable[[int], None]


PATIENT = Waits(math.inf, lambda _: None)
WAITS: ContextVar[Waits] = ContextVar("waits", default=PATIENT)
"""Of what is called in this context."""


class Resource(Struct, frozen=True, order=True):
    """A name in a namespace; names sort in the order in which they are locked."""

    namespace: str
    name: str
    shared: bool = False


def pool(pool_id: str, *, shared: bool = False) -> Resource:
    """A pool's map and role."""
    return Resource(STORAGE, pool_id, shared)


def writing(pool_id: str, *, shared: bool = False) -> Resource:
    """What the SPM alone does on a pool's domains, besides others who do so; held alone, its role changes."""
    return Resource(STORAGE, f"spm_{pool_id}", shared)


def connection() -> Resource:
    """Which pool this host is connected to."""
    return Resource(STORAGE, "connection")


def place(remote_path: str) -> Resource:
    """Where a domain is being made: whoever begins there removes what an earlier try left."""
    return Resource(STORAGE, f"place {remote_path}")


def domain(domain_id: str, *, shared: bool = False) -> Resource:
    """A domain's metadata; shared, the domain as a whole stays while images on it change."""
    return Resource(STORAGE, domain_id, shared)


def definitions(domain_id: str) -> Resource:
    """The definitions of VMs that a domain keeps."""
    return Resource(STORAGE, f"vms_{domain_id}")


def image(domain_id: str, image_id: str, *, shared: bool = False) -> Resource:
    """An image with all its volumes."""
    return Resource(f"01_img_{domain_id}", image_id, shared)


def new_image(domain_id: str, image_id: str) -> Resource:
    """An image that is to be made in several steps; taken before, and apart from, what each step takes."""
    return Resource(f"00_new_{domain_id}", image_id)


def external_leases(domain_id: str) -> Resource:
    """The index of a domain's external leases, and the leases behind it."""
    return Resource(f"05_external_lease_{domain_id}", "")


def nbd_server(server_id: str) -> Resource:
    """An NBD server of this host."""
    return Resource("07_nbd", server_id)


def run_link(domain_id: str, image_id: str) -> Resource:
    """The link by which this host uses an image."""
    return Resource(f"06_link_{domain_id}", image_id)


class Locks:
    """Readers and writers by resource. A thread takes all that it needs in one call: no two wait for each other.

    A writer that waits goes before readers that come later, for a while.
    """

    def __init__(self, timeout_s: float = 120.0) -> None:
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        # The number of readers, -1 for a writer.
        self._holders: dict[tuple[str, str], int] = {}
        self._wanted: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def hold(self, *resources: Resource) -> Iterator[None]:
        """Hold them all for the block. A resource named twice is held exclusively. Raises ResourceTimeout (851)."""
        taken: list[Resource] = []
        try:
            for resource in _sort(resources):
                self._take(resource)
                taken.append(resource)
            yield
        finally:
            for resource in reversed(taken):
                self._release(resource)

    def _take(self, resource: Resource) -> None:
        key, waits = (resource.namespace, resource.name), WAITS.get()
        with self._changed:
            if not self._is_free(key, resource.shared):
                waits.hear(1)
                try:
                    self._wait(key, resource.shared, min(self._timeout_s, waits.timeout_s))
                finally:
                    waits.hear(-1)
            self._holders[key] = self._holders.get(key, 0) + 1 if resource.shared else -1

    def _wait(self, key: tuple[str, str], shared: bool, timeout_s: float) -> None:
        is_free = partial(self._is_free, key, shared)
        self._wanted[key] += not shared
        try:
            has_come = self._changed.wait_for(is_free, min(PREFERRED_S, timeout_s))
        finally:
            self._wanted[key] -= not shared
            self._wanted += Counter()  # forget what nobody wants
            self._changed.notify_all()
        if not has_come and not self._changed.wait_for(is_free, timeout_s - PREFERRED_S):
            raise ResourceTimeout(".".join(key))

    def _is_free(self, key: tuple[str, str], shared: bool) -> bool:
        holders = self._holders.get(key, 0)
        return holders >= 0 and not self._wanted[key] if shared else holders == 0

    def _release(self, resource: Resource) -> None:
        key = (resource.namespace, resource.name)
        with self._changed:
            left = self._holders[key] - 1 if resource.shared else 0
            if left:
                self._holders[key] = left
            else:
                del self._holders[key]
            self._changed.notify_all()


def _sort(resources: tuple[Resource, ...]) -> list[Resource]:
    merged: dict[tuple[str, str], bool] = {}
    for resource in resources:
        key = (resource.namespace, resource.name)
        merged[key] = merged.get(key, True) and resource.shared
    return [Resource(namespace, name, merged[namespace, name]) for namespace, name in sorted(merged)]
