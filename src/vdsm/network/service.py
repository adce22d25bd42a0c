"""Answers what the host's networks are; changing them comes later."""

from vdsm.api.host_types import NetworkCapabilities, NetworkStatistics
from vdsm.core.clock import Clock
from vdsm.network.capabilities import find_interface, make_capabilities, make_statistics
from vdsm.network.model import Visibility
from vdsm.network.ports import Kernel, Records


class NetworkService:
    """Reads the kernel's devices at every question. Every call raises KernelSilent when the kernel does not answer."""

    def __init__(self, kernel: Kernel, records: Records, clock: Clock, visibility: Visibility | None = None) -> None:
        self._kernel = kernel
        self._records = records
        self._clock = clock
        self._visibility = visibility or Visibility()

    async def get_capabilities(self) -> NetworkCapabilities:
        """The devices that are shown, and the networks that a manager has set up."""
        records = await self._records.list_networks()
        state = await self._kernel.read_state()
        return make_capabilities(state, self._visibility, records)

    async def get_statistics(self) -> NetworkStatistics:
        """The counters of every device of the namespace, loopback and taps included."""
        return make_statistics(await self._kernel.read_state(), time_s=self._clock.time())

    async def find_interface(self, address: str) -> str:
        """The device that owns an address; empty for none."""
        return find_interface(await self._kernel.read_state(), address)
