"""Tickets: the one-time password of a display (facts §2.10); it is handed to libvirt and kept nowhere."""

from datetime import UTC, datetime

from vdsm.api.errors import TicketFailed, VmRequestFailed
from vdsm.core.errors import InvalidArgument
from vdsm.virt.elements import check_text, format_xml, parse_xml
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import LOCK_SCREEN
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.power import check_possible
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

_VNC_PASSWORD_BYTES = 8
_LONGEST_TTL_S = 2**31 - 1
"""68 years; much more is beyond what a date can tell."""


async def set_ticket(
    shared: Shared,
    vm: Vm,
    password: str,
    ttl_s: int,
    existing_connection: str,
    kind: str | None = None,
    parting: tuple[str, int] = (LOCK_SCREEN, 0),
) -> None:
    """Set the password of the VM's first display (of that kind), for so many seconds (0: for good).

    Raises TicketFailed (18) without a display or when its monitor does not answer, VmRequestFailed (100) when libvirt
    refuses.
    """
    check_possible(shared, vm, Request.TICKET)
    if not 0 <= ttl_s <= _LONGEST_TTL_S:
        raise InvalidArgument("ttl", f"must be between 0 and {_LONGEST_TTL_S}")
    expires_s = shared.clock.time() + ttl_s if ttl_s else None
    try:
        record = await shared.hypervisor.get_domain(vm.vm_id)
        device = build_ticket(record.xml, password, expires_s, existing_connection, kind)
        await shared.hypervisor.update_device(vm.vm_id, device)
    except HypervisorTimeout as error:
        vm.monitor_failed = True
        raise TicketFailed("the VM's monitor does not answer") from error
    except HypervisorRefused as error:
        # Without its cause, which may repeat the device and so the password.
        raise VmRequestFailed(error.reason.replace(password, "*****") if password else error.reason) from None
    if parting != vm.metadata.parting:
        vm.metadata = vm.metadata.changed(disconnectAction=parting[0], disconnectDelay=parting[1])
        await shared.save(vm)


def build_ticket(
    domain_xml: str, password: str, expires_s: float | None, existing_connection: str, kind: str | None = None
) -> str:
    """The first display's element with the password in it; raises TicketFailed when there is no display."""
    displays = parse_xml(domain_xml).iterfind("devices/graphics")
    display = next((display for display in displays if kind in (None, display.get("type"))), None)
    if display is None:
        raise TicketFailed("the VM has no display")
    try:
        check_text("password", password)
    except InvalidArgument as error:
        raise TicketFailed("control characters are not allowed in a password") from error
    # VNC itself uses the first eight bytes only, and libvirt refuses more.
    is_vnc = display.get("type") == "vnc"
    short = password.encode()[:_VNC_PASSWORD_BYTES].decode(errors="ignore")
    display.set("passwd", short if is_vnc else password)
    display.attrib.pop("passwdValidTo", None)
    if expires_s is not None:
        display.set("passwdValidTo", datetime.fromtimestamp(expires_s, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    if display.get("type") == "spice":
        display.set("connected", existing_connection)
    return format_xml(display)
