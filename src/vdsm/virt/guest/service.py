"""Listens to the insides of VMs, and tells their agents what callers want (`api.guest.GuestApi`)."""

from collections.abc import Mapping

from vdsm.api.errors import AgentNotResponding, VmIsDown
from vdsm.core.errors import InvalidArgument
from vdsm.core.periodic import repeat
from vdsm.virt.guest.channels import AgentChannels
from vdsm.virt.guest.news import GuestNews
from vdsm.virt.ports import Channels
from vdsm.virt.shared import Shared

LOOK_EVERY_S = 1.0
LONGEST_COMMAND = 1024


class GuestService:
    """The agents of all VMs."""

    def __init__(self, shared: Shared, channels: Channels) -> None:
        self._shared = shared
        self._news = GuestNews(shared)
        self.channels = AgentChannels(shared, channels, self._news)

    async def run(self) -> None:
        """Listen until cancelled."""

        async def look() -> None:
            await self.channels.look()
            await self._news.look()

        await repeat(look, every_s=LOOK_EVERY_S, clock=self._shared.clock, name="look at guests")

    async def lock(self, vm_id: str) -> None:
        """Lock the screen."""
        self._say(vm_id, "lock-screen")

    async def log_in(self, vm_id: str, domain: str, username: str, password: str) -> None:
        """Log a user in on the screen."""
        user = f"{username}@{domain}" if domain else username
        self._say(vm_id, "login", {"username": user, "password": password})

    async def log_off(self, vm_id: str, force: bool) -> None:
        """Log the user off."""
        self._say(vm_id, "log-off")

    async def send_command(self, vm_id: str, message: str) -> None:
        """Send a message of the caller's own."""
        if not 0 < len(message) <= LONGEST_COMMAND:
            raise InvalidArgument("message", f"must have 1 to {LONGEST_COMMAND} characters")
        self._say(vm_id, message)

    def _say(self, vm_id: str, name: str, arguments: Mapping[str, object] | None = None) -> None:
        vm = self._shared.get(vm_id)
        if not vm.is_alive:
            raise VmIsDown(vm_id)
        if not self.channels.say(vm, name, arguments):
            raise AgentNotResponding(vm_id)
