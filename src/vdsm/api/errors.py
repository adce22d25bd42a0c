"""Failures of hosts, VMs and the call itself (facts: rpc §10); storage and tasks declare their own families."""

from vdsm.core.errors import NodeError


class NoSuchVm(NodeError):
    """No VM of that id is known to this daemon."""

    code, number, http, text = "no-such-vm", 1, 404, "Virtual machine does not exist: {{'vmId': '{vm_id}'}}"
    vm_id: str


class VmExists(NodeError):
    """A VM of that id is already here."""

    code, number, http, text = "vm-exists", 4, 409, "Virtual machine already exists: {{'vmId': '{vm_id}'}}"
    vm_id: str


class VmIsDown(NodeError):
    """The VM is down; only its exit information and `destroy` are left."""

    code, number, http, text = "vm-is-down", 1, 409, "Virtual machine is down: {{'vmId': '{vm_id}'}}"
    vm_id: str


class CreateFailed(NodeError):
    """The VM cannot be created as described."""

    code, number, http, text = "create-failed", 9, 400, "Error creating the requested VM: {reason}"
    reason: str


class UnsupportedVmType(NodeError):
    """Only `kvm` is a known kind of VM."""

    code, number, http, text = "unsupported-vm-type", 5, 400, "Unsupported VM type: {vm_type}"
    vm_type: str


class MissingParameter(NodeError):
    """A mandatory key is missing or empty."""

    code, number, http, text = "missing-parameter", 11, 400, "Missing required parameter: {name}"
    name: str


class WrongState(NodeError):
    """The request does not fit what the VM is doing now."""

    code, number, http, retry, text = "wrong-state", 16, 409, True, "{request} is not possible while the VM is {status}"
    request: str
    status: str


class TicketFailed(NodeError):
    """The display's password could not be set."""

    code, number, http, text = "ticket-failed", 18, 409, "Failed to set the display ticket: {reason}"
    reason: str


class DestroyFailed(NodeError):
    """The VM could not be ended; its qemu may be stuck in the kernel."""

    code, number, http, retry, text = "destroy-failed", 42, 500, True, "Failed to destroy VM {vm_id}: {reason}"
    vm_id: str
    reason: str


class ResetFailed(NodeError):
    """The VM could not be reset."""

    code, number, http, retry, text = "reset-failed", 90, 500, True, "Failed to reset VM {vm_id}: {reason}"
    vm_id: str
    reason: str


class VmRequestFailed(NodeError):
    """The hypervisor refused a request on a VM."""

    code, number, http, text = "vm-request-failed", 100, 409, "General Exception: ({reason!r},)"
    reason: str


class HardwareInfoFailed(NodeError):
    """The machine's identity could not be read."""

    code, number, http, text = "hardware-info-failed", 57, 500, "Failed to read hardware information: {reason}"
    reason: str
