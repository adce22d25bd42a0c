"""Failures of hosts, VMs and the call itself (facts: rpc §10); storage and tasks declare their own families."""

from vdsm.core.errors import NodeError


class NoSuchVm(NodeError, number=1, http=404, text="Virtual machine does not exist: {{'vmId': '{vm_id}'}}"):
    """No VM of that id is known to this daemon."""

    vm_id: str


class VmExists(NodeError, number=4, http=409, text="Virtual machine already exists: {{'vmId': '{vm_id}'}}"):
    """A VM of that id is already here."""

    vm_id: str


class VmIsDown(NodeError, number=1, http=409, text="Virtual machine is down: {{'vmId': '{vm_id}'}}"):
    """The VM is down; only its exit information and `destroy` are left."""

    vm_id: str


class CreateFailed(NodeError, number=9, http=400, text="Error creating the requested VM: {reason}"):
    """The VM cannot be created as described."""

    reason: str


class UnsupportedVmType(NodeError, number=5, http=400, text="Unsupported VM type: {vm_type}"):
    """Only `kvm` is a known kind of VM."""

    vm_type: str


class MissingParameter(NodeError, number=11, http=400, text="Missing required parameter: {name}"):
    """A mandatory key is missing or empty."""

    name: str


class WrongState(NodeError, number=16, http=409, retry=True, text="{request} is not possible while the VM is {status}"):
    """The request does not fit what the VM is doing now."""

    request: str
    status: str


class TicketFailed(NodeError, number=18, http=409, text="Failed to set the display ticket: {reason}"):
    """The display's password could not be set."""

    reason: str


class DestroyFailed(NodeError, number=42, retry=True, text="Failed to destroy VM {vm_id}: {reason}"):
    """The VM could not be ended; its qemu may be stuck in the kernel."""

    vm_id: str
    reason: str


class ResetFailed(NodeError, number=90, retry=True, text="Failed to reset VM {vm_id}: {reason}"):
    """The VM could not be reset."""

    vm_id: str
    reason: str


class VmRequestFailed(NodeError, number=100, http=409, text="General Exception:"):
    """The hypervisor refused a request on a VM."""

    reason: str


class HardwareInfoFailed(NodeError, number=57, text="Failed to read hardware information: {reason}"):
    """The machine's identity could not be read."""

    reason: str
