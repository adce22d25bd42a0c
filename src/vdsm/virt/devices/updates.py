"""Answers the verbs that change devices where they are: discs, network cards, displays (facts §2.10 to §2.12)."""

from copy import deepcopy
from xml.etree.ElementTree import Element

from msgspec import UNSET
from msgspec.structs import replace

from vdsm.api import errors
from vdsm.api.updates import DeviceUpdate, DiscChange
from vdsm.api.vm import Bandwidth
from vdsm.core.errors import InvalidArgument
from vdsm.core.undo import AsyncUndo
from vdsm.virt.devices.media import Media, settle_changes
from vdsm.virt.devices.plug import Plug, find_device, get_alias, parse_plug
from vdsm.virt.domain import get_attribute
from vdsm.virt.elements import check_text, element, format_xml, parse_xml, set_child
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import CHANGE, LOCK_SCREEN, DeviceMetadata
from vdsm.virt.power import check_possible, failing_as
from vdsm.virt.shared import Shared
from vdsm.virt.ticket import set_ticket
from vdsm.virt.vm import Vm

DUMMY_BRIDGE = ";vdsmdummy;"
"""Where cards of no network are plugged in (facts network §9.2)."""
_LARGEST_MTU = 65535
_LONGEST_DELAY_MIN = 7 * 24 * 60


class UpdateService:
    """Fits `api.updates.UpdateApi`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._media = Media(shared)

    async def change_cd(self, vm_id: str, change: DiscChange) -> None:
        """Put a disc into a drive in place of what is there, or take it out."""
        await self._media.change(self._shared.get(vm_id), "cdrom", change)

    async def change_floppy(self, vm_id: str, change: DiscChange) -> None:
        """Put a floppy disk into the drive, or take it out."""
        await self._media.change(self._shared.get(vm_id), "floppy", replace(change, interface="fdc", index=0))

    async def update_device(self, vm_id: str, change: DeviceUpdate) -> None:
        """Change a network card, or the password of a display."""
        vm = self._shared.get(vm_id)
        if change.type is UNSET:
            raise errors.MissingParameter("deviceType")
        if change.type == "graphics":
            await self._update_display(vm, change)
        elif change.type == "interface":
            await self._update_card(vm, change)
        else:
            raise errors.DeviceNotUpdatable(change.type)

    async def _update_display(self, vm: Vm, change: DeviceUpdate) -> None:
        kind, password, ttl_s = change.graphics_type, change.password, change.ttl_s
        if kind is UNSET or password is UNSET or ttl_s is UNSET or change.ticket_parameters is UNSET:
            given = {"graphicsType": kind, "password": password, "ttl": ttl_s, "params": change.ticket_parameters}
            raise errors.MissingParameter(next(name for name, value in given.items() if value is UNSET))
        if vm.view is not None and all(display.type != kind for display in vm.view.graphics):
            raise errors.UpdateDeviceFailed(f"the VM has no display of type {kind}")
        connection = "disconnect" if change.existing_connection is UNSET else change.existing_connection
        delay_min = 0 if change.disconnect_delay_min is UNSET else change.disconnect_delay_min
        if not 0 <= delay_min <= _LONGEST_DELAY_MIN:
            raise InvalidArgument("consoleDisconnectActionDelay", f"must be between 0 and {_LONGEST_DELAY_MIN} minutes")
        action = LOCK_SCREEN if change.disconnect_action is UNSET else change.disconnect_action
        await set_ticket(self._shared, vm, password, ttl_s, connection, kind, (action, delay_min))

    async def _update_card(self, vm: Vm, change: DeviceUpdate) -> None:
        wanted = parse_plug(change.xml, "interface") if change.xml else None
        if wanted is None and not change.alias:
            raise errors.MissingParameter("alias")
        check_card(change)
        shared, update = self._shared, self._shared.hypervisor.update_device
        async with vm.changing:
            check_possible(shared, vm, Request.PLUG)
            try:
                with failing_as(vm, errors.UpdateDeviceFailed):
                    domain = parse_xml((await shared.hypervisor.get_domain(vm.vm_id)).xml)
                    card = find_card(domain, change, wanted)
                    before, after = format_xml(card), format_xml(wanted.device if wanted else change_card(card, change))
                    mac_address = get_attribute(card, "mac", "address")
                    known = vm.metadata.device(mac_address=mac_address) or DeviceMetadata({"mac_address": mac_address})
                    told = tell(known, change, wanted)
                    vm.is_stale = True
                    await shared.store(vm, vm.metadata.with_device(announce(known, told, after)))
                    async with AsyncUndo() as undo:
                        # Some of it may be done when libvirt refuses the rest.
                        undo.push(update, vm.vm_id, before)
                        await update(vm.vm_id, after)
                        await shared.store(vm, vm.metadata.with_device(told))
                        undo.forget()
            finally:
                if await shared.refresh(vm) is not None:
                    await settle_changes(shared, vm)


def find_card(domain: Element, change: DeviceUpdate, wanted: Plug | None) -> Element:
    """The card that is meant; raises UpdateDeviceFailed (56)."""
    if wanted is not None:
        found = find_device(domain, None, wanted)
    else:
        cards = domain.findall("devices/interface")
        found = next((card for card in cards if get_alias(card) == change.alias), None)
    if found is None:
        raise errors.UpdateDeviceFailed("the VM has no such network card")
    return found


def check_card(change: DeviceUpdate) -> None:
    """Raise for what cannot be, before anything is changed."""
    if change.mtu is not UNSET and not 0 < change.mtu <= _LARGEST_MTU:
        raise InvalidArgument("mtu", f"must be between 1 and {_LARGEST_MTU}")
    if change.mirrored is not UNSET and change.mirrored:
        raise errors.UpdateDeviceFailed("mirroring of ports is not supported")
    for way in (
        (UNSET, UNSET) if change.parameters is UNSET else (change.parameters.inbound, change.parameters.outbound)
    ):
        if way is not UNSET and any(value is not UNSET and value < 0 for value in (way.average, way.peak, way.burst)):
            raise InvalidArgument("specParams", "a rate is negative")


def change_card(card: Element, change: DeviceUpdate) -> Element:
    """The card after the change; a card of no network is on a bridge that leads nowhere, its link down."""
    new = deepcopy(card)
    if change.network is not UNSET:
        _set_network(new, change.network)
    if change.link_active is not UNSET and change.network != "":
        set_child(new, "link").set("state", "up" if change.link_active else "down")
    if change.parameters is not UNSET:
        _set_bandwidth(new, "inbound", change.parameters.inbound)
        _set_bandwidth(new, "outbound", change.parameters.outbound)
    if change.mtu is not UNSET:
        set_child(new, "mtu").set("size", str(change.mtu))
    if change.isolated is not UNSET:
        set_child(new, "port").set("isolated", "yes" if change.isolated else "no")
    if change.filter is not UNSET:
        _replace(new, "filterref", _build_filter(change) if change.filter else None)
    return new


def announce(known: DeviceMetadata, told: DeviceMetadata, card: str) -> DeviceMetadata:
    """What the metadata tells while the change is made, for who finds it half done."""
    bridge = get_attribute(parse_xml(card), "source", "bridge")
    return known.with_part(CHANGE, {"network": str(told.values.get("network", "")), "bridge": bridge})


def tell(known: DeviceMetadata, change: DeviceUpdate, wanted: Plug | None) -> DeviceMetadata:
    """What the metadata tells of the card after the change."""
    made = (None if wanted is None else wanted.find_metadata()) or known
    if change.network is not UNSET:
        made = replace(made, values={**made.values, "network": change.network})
    if change.custom is not UNSET:
        made = made.with_part("custom", change.custom or None)
    return made


def _set_network(card: Element, network: str) -> None:
    if card.get("type") == "ethernet":
        if network:
            reason = "a card that was made without a network cannot be given one while the VM runs"
            raise errors.UpdateDeviceFailed(reason)
    else:
        source = set_child(card, "source")
        for attribute in ("network", "portid", "portgroup"):
            source.attrib.pop(attribute, None)
        source.set("bridge", check_text("network", network) or DUMMY_BRIDGE)
        card.set("type", "bridge")
    if not network:
        set_child(card, "link").set("state", "down")


def _set_bandwidth(card: Element, way: str, wanted: object) -> None:
    if not isinstance(wanted, Bandwidth):
        return
    figures = {name: value for name in ("average", "peak", "burst") if (value := getattr(wanted, name)) is not UNSET}
    limits = {name: value for name, value in figures.items() if value}
    _replace(set_child(card, "bandwidth"), way, element(way, **limits) if limits.get("average") else None)


def _build_filter(change: DeviceUpdate) -> Element:
    given = [] if change.filter_parameters is UNSET else change.filter_parameters
    parameters = [element("parameter", name=one.name, value=one.value) for one in given]
    return element("filterref", *parameters, filter=None if change.filter is UNSET else change.filter)


def _replace(parent: Element, tag: str, new: Element | None) -> None:
    for old in parent.findall(tag):
        parent.remove(old)
    if new is not None:
        parent.append(new)
