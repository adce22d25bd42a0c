"""The part of the port `virt.ports.Hypervisor` that asks the inside of domains: questions, shutdown, reboot."""

import json

import libvirt
import libvirt_qemu

from vdsm.adapters.libvirt.calls import Calls
from vdsm.adapters.libvirt.connection import get_message
from vdsm.virt.ports import AGENT_REFUSED, HypervisorRefused, ShutdownMode

ANSWER_S = 1
"""libvirt waits so long for an answer; for the attention of an agent that was silent before, it waits five."""
QUESTION_S = 20.0
"""More than libvirt needs, unless somebody else asks that agent."""
FREEZE_S = 60.0
"""A guest has much to write through, perhaps."""
_REFUSAL = "unable to execute QEMU agent command"
"""How libvirt begins to tell what an agent refused; older ones give that no number of its own."""
_SHUTDOWN_ACPI, _REBOOT_ACPI = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN


class AgentCalls:
    """What `LibvirtHypervisor` does with the inside of VMs."""

    _calls: Calls

    async def ask_agent(self, vm_id: str, command: str) -> str:
        return await self._calls.on_agent(vm_id, command, lambda domain: _ask(domain, command), QUESTION_S)

    async def freeze_filesystems(self, vm_id: str) -> None:
        await self._calls.on_agent(vm_id, "freeze", lambda domain: domain.fsFreeze(), FREEZE_S)

    async def thaw_filesystems(self, vm_id: str) -> None:
        await self._calls.on_agent(vm_id, "thaw", lambda domain: domain.fsThaw(), FREEZE_S)

    async def shutdown(self, vm_id: str, mode: ShutdownMode) -> None:
        if mode is ShutdownMode.AGENT:
            await self._end(vm_id, "powerdown")
        else:
            await self._calls.on_vm(vm_id, "shutdown", lambda domain: domain.shutdownFlags(_SHUTDOWN_ACPI))

    async def reboot(self, vm_id: str, mode: ShutdownMode) -> None:
        if mode is ShutdownMode.AGENT:
            await self._end(vm_id, "reboot")
        else:
            await self._calls.on_vm(vm_id, "reboot", lambda domain: domain.reboot(_REBOOT_ACPI))

    async def _end(self, vm_id: str, mode: str) -> None:
        """An agent that obeys says nothing, so it is found out before whether it listens. libvirt's own call would keep
        a thread for the minute that a guest may take."""
        await self.ask_agent(vm_id, "guest-ping")
        try:
            await self._calls.on_agent(
                vm_id, "guest-shutdown", lambda domain: _ask(domain, "guest-shutdown", mode=mode), QUESTION_S
            )
        except HypervisorRefused as error:
            if error.kind != libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
                raise


def _ask(domain: libvirt.virDomain, command: str, **arguments: str) -> str:
    words = json.dumps({"execute": command, "arguments": arguments})
    try:
        return libvirt_qemu.qemuAgentCommand(domain, words, ANSWER_S, 0)
    except UnicodeDecodeError as error:
        raise HypervisorRefused(f"the answer to {command} is no text: {error.reason}") from None
    except libvirt.libvirtError as error:
        if _REFUSAL not in get_message(error):
            raise
        raise HypervisorRefused(get_message(error), AGENT_REFUSED) from error
