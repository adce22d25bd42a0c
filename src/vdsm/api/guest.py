"""The surface of what is inside a virtual machine: what its agents tell, and what they can be asked to do."""

from typing import Annotated, Protocol

from msgspec import UNSET, Struct

from vdsm.api.declare import Text, group, ovirt, verb, xmlrpc
from vdsm.core.context import Right
from vdsm.core.ids import VmId


class GuestTimezone(Struct, frozen=True, kw_only=True):
    """The guest's time zone as its agent tells."""

    offset_min: Annotated[int, ovirt("offset")]
    zone: str


class GuestOs(Struct, frozen=True, kw_only=True):
    """The guest's operating system as its agent tells; `kernel` is empty for Windows."""

    codename: str = ""
    arch: str = ""
    version: str = ""
    type: str = ""
    distribution: str = ""
    kernel: str = ""


class GuestDisk(Struct, frozen=True, kw_only=True):
    """A disk's name inside the guest."""

    name: str


class GuestInterface(Struct, frozen=True, kw_only=True):
    """A network interface inside the guest, with its addresses."""

    name: str
    hardware_address: Annotated[str, ovirt("hw")] = ""
    ipv4: Annotated[list[str], ovirt("inet")] = []
    ipv6: Annotated[list[str], ovirt("inet6")] = []


class GuestMount(Struct, frozen=True, kw_only=True):
    """A file system that is mounted inside the guest."""

    path: str
    total_bytes: Annotated[int, ovirt("total", as_=str)]
    used_bytes: Annotated[int, ovirt("used", as_=str)]
    type: Annotated[str, ovirt("fs")] = ""


class GuestContainer(Struct, frozen=True, kw_only=True):
    """A container that the guest runs."""

    id: str = ""
    names: list[str] = []
    image: str = ""
    status: str = ""
    command: str = ""


class GuestPciDevice(Struct, frozen=True, kw_only=True):
    """A PCI device as the guest's drivers see it."""

    device_id: int
    vendor_id: int
    driver_name: str
    driver_version: Text = UNSET
    driver_date: Text = UNSET


class Screenshot(Struct, frozen=True, kw_only=True):
    """What a VM's first display shows; `data` is the picture in base64."""

    data: str
    encoding: str
    mime_type: str


_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]
_SHOWS = ("no-such-vm", "vm-is-not-running", "hypervisor-down", "hypervisor-timeout", "hypervisor-refused")
_FAILS = ("no-such-vm", "vm-is-down", "agent-not-responding")


@group("guest", "/vms")
class GuestApi(Protocol):
    """What the oVirt agent inside a VM can be asked to do. It is told even when it seems not to listen."""

    @verb("VM.screenshot", "GET /{vm_id}/screenshot", needs=Right.OPERATE, fails=_SHOWS)
    async def take_screenshot(self, vm_id: _Vm) -> Screenshot:
        """A picture of what the VM shows now, as PNG or PPM."""

    @verb("VM.desktopLock", "POST /{vm_id}/desktop/lock", fails=_FAILS)
    @xmlrpc("desktopLock", "vm_id")
    async def lock(self, vm_id: _Vm) -> None:
        """Lock the screen."""

    @verb("VM.desktopLogin", "POST /{vm_id}/desktop/login", fails=_FAILS)
    @xmlrpc("desktopLogin", "vm_id domain username password")
    async def log_in(
        self,
        vm_id: _Vm,
        domain: Annotated[str, ovirt("domain"), "the user's domain; empty for none"],
        username: Annotated[str, ovirt("username"), "the user's name"],
        password: Annotated[str, ovirt("password"), "the user's password"],
    ) -> None:
        """Log a user in on the screen."""

    @verb("VM.desktopLogoff", "POST /{vm_id}/desktop/logoff", fails=_FAILS)
    @xmlrpc("desktopLogoff", "vm_id force")
    async def log_off(
        self, vm_id: _Vm, force: Annotated[bool, ovirt("force"), "accepted, agents do not distinguish it"]
    ) -> None:
        """Log the user off."""

    @verb("VM.desktopSendHcCommand", "POST /{vm_id}/desktop/command", fails=_FAILS)
    @xmlrpc("sendHcCmdToDesktop", "vm_id message")
    async def send_command(
        self, vm_id: _Vm, message: Annotated[str, ovirt("message"), "the message's name; it goes without arguments"]
    ) -> None:
        """Send the agent a message of the caller's own."""
