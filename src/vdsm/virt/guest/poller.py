"""Asks the qemu guest agents of all VMs for what they know (facts §2.20); what they answer is read by `qemu_agent`.

A VM's agent is asked one thing at a time. Agents that answered last are asked beside those of whom nobody knows, so
that a hundred silent ones, each costing seconds, do not hold up the others.
"""

import asyncio
import logging

from msgspec import Struct, field

from vdsm.core.errors import NodeError
from vdsm.virt.guest import qemu_agent
from vdsm.virt.guest.news import GuestNews
from vdsm.virt.guest.qemu_agent import BadAnswer
from vdsm.virt.ports import AGENT_REFUSED, HypervisorRefused, HypervisorTimeout
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

POLL_EVERY_S = 5.0
SKIP_S = 60.0
EAGER_S = 120.0
"""So long after a VM's start what it can and where it is are asked at every turn, until that is known."""
DISKS_LATER_S = 10.0
LONGEST_POLL_S = 30.0
PLACES = 2
"""For agents that answered last; as many for the others."""


class _Agent(Struct, eq=False):
    """One VM's agent since the guest opened the channel."""

    vm: Vm
    epoch: int
    since_s: float
    commands: frozenset[str] = frozenset((qemu_agent.INFO,))
    due_s: dict[str, float] = field(default_factory=dict)
    """When to ask next; at once where nothing is said."""
    skip_until_s: float = float("-inf")
    disks: frozenset[str] = frozenset()
    has_complained: bool = False
    task: asyncio.Task[None] | None = None


class AgentPoller:
    """The qemu agents of all VMs."""

    def __init__(self, shared: Shared, news: GuestNews) -> None:
        self._shared = shared
        self._news = news
        self._agents: dict[str, _Agent] = {}
        self._proven, self._unproven = asyncio.Semaphore(PLACES), asyncio.Semaphore(PLACES)

    async def look(self) -> None:
        """Begin to ask every VM whose agent may have news; those that are still being asked are left alone."""
        now_s = self._shared.clock.monotonic()
        alive = {vm.vm_id: vm for vm in self._shared.vms.values() if _can_answer(vm)}
        self._agents = {vm_id: agent for vm_id, agent in self._agents.items() if alive.get(vm_id) is agent.vm}
        for vm in alive.values():
            agent = self._agents.get(vm.vm_id)
            if agent is None or agent.epoch != vm.agent_epoch:
                agent = self._agents[vm.vm_id] = _Agent(vm, vm.agent_epoch, vm.started_s or now_s)
            is_asked = agent.task is not None and not agent.task.done()
            if not is_asked and now_s >= agent.skip_until_s and self._list_due(agent, now_s):
                agent.task = self._shared.children.spawn(self._poll(agent), f"ask the agent of VM {vm.vm_id}")

    def _list_due(self, agent: _Agent, now_s: float) -> list[str]:
        disks = frozenset(() if agent.vm.view is None else (disk.target for disk in agent.vm.view.disks))
        if disks != agent.disks:
            later_s = now_s + DISKS_LATER_S if agent.disks else now_s
            agent.disks = disks
            for command in qemu_agent.DISKS:
                agent.due_s[command] = min(later_s, agent.due_s.get(command, later_s))
        return [name for name in qemu_agent.PERIODS if name in agent.commands and agent.due_s.get(name, 0) <= now_s]

    async def _poll(self, agent: _Agent) -> None:
        clock = self._shared.clock
        deadline_s = clock.monotonic() + LONGEST_POLL_S
        asked: set[str] = set()
        # What it can is asked first, and then there is more to ask.
        while due := [name for name in self._list_due(agent, clock.monotonic()) if name not in asked]:
            if not self._is_wanted(agent) or clock.monotonic() > deadline_s or not await self._ask(agent, due[0]):
                break
            asked.add(due[0])
        self._news.look_at(agent.vm)

    def _is_wanted(self, agent: _Agent) -> bool:
        return _can_answer(agent.vm) and agent.vm.agent_epoch == agent.epoch

    async def _ask(self, agent: _Agent, command: str) -> bool:
        """Ask one thing; whether to go on."""
        vm, clock = agent.vm, self._shared.clock
        places = self._proven if vm.state.qemu_agent_answers else self._unproven
        try:
            async with places:
                answer = await self._shared.hypervisor.ask_agent(vm.vm_id, command)
            if not self._is_wanted(agent):
                return False
            vm.qemu_guest = qemu_agent.read(vm.qemu_guest, command, answer)
            if command == qemu_agent.INFO:
                agent.commands = qemu_agent.read_commands(answer) | {qemu_agent.INFO}
        except (HypervisorRefused, HypervisorTimeout, BadAnswer) as error:
            if isinstance(error, HypervisorRefused) and error.kind == AGENT_REFUSED and command != qemu_agent.INFO:
                log.debug("VM %s: its agent cannot tell %s: %s", vm.vm_id, command, error)
            else:
                if self._is_wanted(agent):  # a guest that was paused amid the question is not to blame
                    self._give_up(agent, command, error)
                return False
        except NodeError as error:
            log.debug("VM %s: its agent cannot be asked now: %s", vm.vm_id, error)
            return False
        now_s = clock.monotonic()
        is_eager = now_s - agent.since_s < EAGER_S and command == qemu_agent.NETWORK
        is_unsettled = is_eager and not qemu_agent.has_address(vm.qemu_guest)
        period_s = POLL_EVERY_S if is_unsettled else qemu_agent.PERIODS[command]
        # While its file systems are frozen an agent can nearly nothing, and says so.
        is_bare = command == qemu_agent.INFO and agent.commands == {qemu_agent.INFO}
        agent.due_s[command] = now_s + (SKIP_S if is_bare else period_s)
        vm.state = vm.state.asked(True)
        return True

    def _give_up(self, agent: _Agent, command: str, error: Exception) -> None:
        vm, now_s = agent.vm, self._shared.clock.monotonic()
        is_early = now_s - agent.since_s < EAGER_S and len(agent.commands) == 1
        agent.skip_until_s = now_s + (POLL_EVERY_S if is_early else SKIP_S)
        level = logging.DEBUG if agent.has_complained else logging.INFO
        agent.has_complained = True
        log.log(level, "VM %s: its agent does not answer %s as it should: %s", vm.vm_id, command, error)
        vm.state = vm.state.asked(False)


def _can_answer(vm: Vm) -> bool:
    """Whether a guest runs that has opened its agent's channel."""
    return vm.is_alive and vm.agent_connected and not vm.state.cpus_stopped
