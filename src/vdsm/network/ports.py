"""What networks need from outside: one look at the kernel, and the record of what a manager has set up."""

from collections.abc import Sequence
from typing import Protocol

from vdsm.core.errors import Failure
from vdsm.network.model import NetworkRecord, NetworkState


class KernelSilent(Failure, number=100, http=504, retry=True, text="network devices cannot be read: {reason}"):
    """The kernel did not answer a question about its network devices in time, or refused it."""


class Kernel(Protocol):
    """The kernel's network devices."""

    async def read_state(self) -> NetworkState:
        """Everything at once. Raises KernelSilent."""


class Records(Protocol):
    """The running configuration of networks."""

    async def list_networks(self) -> Sequence[NetworkRecord]: ...
