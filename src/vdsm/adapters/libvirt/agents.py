"""The part of the port `virt.ports.Hypervisor` that asks the inside of domains: questions, shutdown, reboot."""

import json
from collections.abc import Callable

import libvirt
import libvirt_qemu

from vdsm.adapters.libvirt.calls import Calls
from vdsm.adapters.libvirt.connection import get_message
from vdsm.virt.ports import AGENT_REFUSED, HypervisorRefused, ShutdownMode

ANSWER_S = 1
"""libvirt waits for an answer so long, and as long for the agent's attention before."""
QUESTION_S = 20.0
"""More than libvirt needs, unless somebody else asks that agent."""
FAREWELL_S = 75.0
"""libvirt waits a minute for a guest that said that it would shut down."""
_REFUSAL = "unable to execute QEMU agent command"
"""How libvirt begins to tell what an agent refused; older ones give that no number of its own."""
_SHUTDOWN_AGENT, _REBOOT_AGENT = libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT
_SHUTDOWN_ACPI, _REBOOT_ACPI = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN


class AgentCalls:
    """What `LibvirtHypervisor` does with the inside of VMs."""

    _calls: Calls

    async def ask_agent(self, vm_id: str, command: str) -> str:
        calls = self._calls
        return await calls.on_agent(vm_id, command, lambda domain: _ask(domain, command), calls.questions, QUESTION_S)

    async def shutdown(self, vm_id: str, mode: ShutdownMode) -> None:
        if mode is ShutdownMode.ACPI:
            await self._calls.on_vm(vm_id, "shutdown", lambda domain: domain.shutdownFlags(_SHUTDOWN_ACPI))
            return
        await self._say_farewell(vm_id, "shutdown by agent", lambda domain: domain.shutdownFlags(_SHUTDOWN_AGENT))

    async def reboot(self, vm_id: str, mode: ShutdownMode) -> None:
        if mode is ShutdownMode.ACPI:
            await self._calls.on_vm(vm_id, "reboot", lambda domain: domain.reboot(_REBOOT_ACPI))
            return
        await self._say_farewell(vm_id, "reboot by agent", lambda domain: domain.reboot(_REBOOT_AGENT))

    async def _say_farewell(self, vm_id: str, what: str, say: Callable[[libvirt.virDomain], object]) -> None:
        """An agent that is silent is found out first, by a question that does not take a minute."""
        await self.ask_agent(vm_id, "guest-ping")
        await self._calls.on_agent(vm_id, what, say, self._calls.farewells, FAREWELL_S)


def _ask(domain: libvirt.virDomain, command: str) -> str:
    try:
        return libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": command}), ANSWER_S, 0)
    except UnicodeDecodeError as error:
        raise HypervisorRefused(f"the answer to {command} is no text: {error.reason}") from None
    except libvirt.libvirtError as error:
        if _REFUSAL not in get_message(error):
            raise
        raise HypervisorRefused(get_message(error), AGENT_REFUSED) from error
