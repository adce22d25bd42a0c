"""Keeps a channel to the oVirt agent of every VM, and hears and tells it (facts §2.20); messages are read elsewhere.

A guest that babbles costs nothing but its own channel: what it says is read no faster than an honest agent speaks, then
qemu's socket is full and the guest waits.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping

from msgspec import Struct, field

from vdsm.core.children import wait_until
from vdsm.virt.guest.figures import apply
from vdsm.virt.guest.messages import BadMessage, Completion, Heartbeat, Lines, decode, encode
from vdsm.virt.guest.news import GuestNews
from vdsm.virt.lifecycle import Status
from vdsm.virt.ports import Channel, Channels
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

API_VERSION = 3
_SINCE: Mapping[str, int] = {"api-version": 1, "set-number-of-cpus": 1, "lifecycle-event": 3}
CONNECT_S = 30.0
RETRY_S, LONG_RETRY_S = 1.0, 60.0
REPLY_S = 10.0
"""So long a guest may take to be ready."""
FAILURES = 5
"""After so many in a row the pauses between tries are long."""
UNITS_PER_S, MOST_UNITS = 100.0, 400.0
BYTES_PER_UNIT = 4096
"""What a guest may say: a message is a unit, and so are 4 KiB; an honest agent needs less than ten in a second."""


class Allowance(Struct):
    """How much a guest may say before it has to wait."""

    left: float = MOST_UNITS
    at_s: float = 0.0

    def take(self, units: float, now_s: float) -> float:
        """Take so much; how many seconds to wait before more is taken."""
        self.left = min(MOST_UNITS, self.left + (now_s - self.at_s) * UNITS_PER_S) - units
        self.at_s = now_s
        return max(0.0, -self.left / UNITS_PER_S)


class _Link(Struct, eq=False):
    """One VM's channel, for as long as the VM lives."""

    vm: Vm
    channel: Channel | None = None
    announced: int = 0
    """The API version that the agent was told."""
    allowance: Allowance = field(default_factory=Allowance)
    has_complained: bool = False


class AgentChannels:
    """The oVirt agents of all VMs."""

    def __init__(self, shared: Shared, channels: Channels, news: GuestNews) -> None:
        self._shared = shared
        self._channels = channels
        self._news = news
        self._links: dict[str, _Link] = {}
        self._replies: dict[tuple[str, str], asyncio.Event] = {}
        """Who waits for which agent's word that it is ready."""
        self._numbers = itertools.count(1)

    async def look(self) -> None:
        """Open a channel to every VM that has one and is new here."""
        for vm in self._shared.vms.values():
            known = self._links.get(vm.vm_id)
            if vm.is_alive and vm.view is not None and vm.view.agent_socket and (known is None or known.vm is not vm):
                link = self._links[vm.vm_id] = _Link(vm)
                self._shared.children.spawn(self._keep(link), f"keep the agent's channel of VM {vm.vm_id}")

    def say(self, vm: Vm, name: str, arguments: Mapping[str, object] | None = None) -> bool:
        """Send the agent a message that its API version has; whether somebody speaks there, and it was sent."""
        link = self._links.get(vm.vm_id)
        if link is None or link.vm is not vm or link.channel is None or _SINCE.get(name, 0) > vm.agent_version:
            return False
        return link.channel.send(encode(name, arguments or {})) and vm.state.is_responsive(
            self._shared.clock.monotonic()
        )

    async def announce(self, vm: Vm, event: str) -> None:
        """Tell the agent what is about to befall its VM; returns when it is ready for that, or took too long."""
        key, ready = (vm.vm_id, str(next(self._numbers))), asyncio.Event()
        self._replies[key] = ready
        try:
            if self.say(vm, "lifecycle-event", {"type": event, "reply_id": key[1]}):
                await wait_until(ready, REPLY_S, self._shared.clock)
        finally:
            del self._replies[key]

    async def greet(self, vm: Vm, event: str) -> None:
        """Tell the agent what befell its VM as soon as its channel is there, within reason."""
        deadline_s = self._shared.clock.monotonic() + CONNECT_S
        while vm.is_alive and self._shared.clock.monotonic() < deadline_s:
            link = self._links.get(vm.vm_id)
            if link is not None and link.vm is vm and link.channel is not None:
                self.say(vm, "lifecycle-event", {"type": event})
                return
            await self._shared.clock.sleep(RETRY_S)

    async def _keep(self, link: _Link) -> None:
        vm, failures = link.vm, 0
        while vm.is_alive:
            failures = 0 if await self._connect(link) else failures + 1
            pause_s = LONG_RETRY_S if failures > FAILURES else RETRY_S
            await wait_until(vm.stopped, pause_s, self._shared.clock)
        if self._links.get(vm.vm_id) is link:
            del self._links[vm.vm_id]

    async def _connect(self, link: _Link) -> bool:
        """Talk until the other side hangs up; whether anybody was there."""
        path = "" if link.vm.view is None else link.vm.view.agent_socket
        try:
            async with asyncio.timeout(CONNECT_S):
                link.channel = await self._channels.connect(path)
        except (OSError, TimeoutError) as error:
            log.debug("VM %s: no way to its agent: %s", link.vm.vm_id, error)
            return False
        try:
            link.announced = 0
            link.channel.send(encode("refresh", {"apiVersion": API_VERSION}))
            await self._listen(link, link.channel)
        except OSError as error:
            log.debug("VM %s: its agent's channel broke: %s", link.vm.vm_id, error)
        finally:
            link.channel.close()
            link.channel = None
        return True

    async def _listen(self, link: _Link, channel: Channel) -> None:
        clock, lines = self._shared.clock, Lines()
        while data := await channel.read():
            await clock.sleep(link.allowance.take(len(data) / BYTES_PER_UNIT, clock.monotonic()))
            for line in lines.feed(data):
                if not link.vm.is_alive:
                    return
                self._hear(link, line)
                await clock.sleep(link.allowance.take(1, clock.monotonic()))

    def _hear(self, link: _Link, line: bytes) -> None:
        vm, now_s = link.vm, self._shared.clock.monotonic()
        try:
            message = decode(line)
        except BadMessage as error:
            if not link.has_complained:
                link.has_complained = True
                log.warning("VM %s: its agent says what nobody understands, and may go on so: %s", vm.vm_id, error)
            return
        vm.guest = apply(vm.guest, message, self._shared.clock.time())
        vm.state = vm.state.heard(now_s, Status.UP if isinstance(message, Heartbeat) else None)
        if isinstance(message, Heartbeat):
            self._agree(link, message)
        elif isinstance(message, Completion) and (ready := self._replies.get((vm.vm_id, str(message.reply_id)))):
            ready.set()
        self._news.look_at(vm)

    def _agree(self, link: _Link, message: Heartbeat) -> None:
        """Settle on the highest API version that both know, and say so when it is news to the agent."""
        theirs = message.version if isinstance(message.version, float) else 0.0
        version = link.vm.agent_version = int(max(0, min(theirs, API_VERSION)))
        if version not in (0, link.announced) and link.channel is not None:
            link.channel.send(encode("api-version", {"apiVersion": version}))
        link.announced = version
