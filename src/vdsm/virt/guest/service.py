"""Listens to the insides of VMs, and tells their agents what callers want (`api.guest.GuestApi`)."""

import asyncio
import base64
from collections.abc import Mapping

from vdsm.api.errors import AgentNotResponding, VmIsDown, VmIsNotRunning
from vdsm.api.guest import Screenshot
from vdsm.core.errors import InvalidArgument
from vdsm.core.periodic import repeat
from vdsm.virt.guest.channels import AgentChannels
from vdsm.virt.guest.news import GuestNews
from vdsm.virt.guest.poller import POLL_EVERY_S, AgentPoller
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
        self._poller = AgentPoller(shared, self._news)

    async def run(self) -> None:
        """Listen until cancelled."""

        async def look() -> None:
            await self.channels.look()
            await self._news.look()

        clock = self._shared.clock
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat(look, every_s=LOOK_EVERY_S, clock=clock, name="look at guests"))
            group.create_task(repeat(self._poller.look, every_s=POLL_EVERY_S, clock=clock, name="ask agents"))

    async def take_screenshot(self, vm_id: str) -> Screenshot:
        """A picture of what the VM shows."""
        vm = self._shared.get(vm_id)
        if not vm.is_alive:
            raise VmIsNotRunning(vm_id)
        picture = await self._shared.hypervisor.take_screenshot(vm_id)
        text = base64.b64encode(picture.data).decode()
        return Screenshot(data=text, encoding="base64", mime_type=picture.mime_type)

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
