"""The surface of devices that change while a VM runs: discs, network cards, displays (facts §2.10 to §2.12)."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Flag, Number, Text, group, ovirt, verb, xmlrpc
from vdsm.api.vm import DeviceParameters, FilterParameter
from vdsm.core.ids import VmId


class Disc(Struct, frozen=True, kw_only=True):
    """A volume by its four ids, or the path of a file; nothing of both is no disc."""

    device: Text = UNSET
    disk_type: Annotated[Text, ovirt("diskType")] = UNSET
    pool_id: Annotated[Text, ovirt("poolID")] = UNSET
    domain_id: Annotated[Text, ovirt("domainID")] = UNSET
    image_id: Annotated[Text, ovirt("imageID")] = UNSET
    volume_id: Annotated[Text, ovirt("volumeID")] = UNSET
    path: Text = UNSET


class DiscChange(Disc, frozen=True, kw_only=True):
    """A drive, by bus and place on it (without them the VM's first one), and what is to be in it: `disc`, or a path."""

    interface: Annotated[Text, ovirt("iface")] = UNSET
    index: Number = UNSET
    disc: Annotated[Disc | UnsetType, ovirt("drive_spec", short="path")] = UNSET


class DeviceUpdate(Struct, frozen=True, kw_only=True):
    """A network card (`interface`) or a display (`graphics`), and what changes of it; what is not named stays."""

    type: Annotated[Text, ovirt("deviceType")] = UNSET
    xml: Text = UNSET
    # network cards
    alias: Text = UNSET
    link_active: Annotated[Flag, ovirt("linkActive")] = UNSET
    network: Text = UNSET
    mirrored: Annotated[list[str] | UnsetType, ovirt("portMirroring")] = UNSET
    custom: dict[str, str] | UnsetType = UNSET
    parameters: Annotated[DeviceParameters | UnsetType, ovirt("specParams")] = UNSET
    mtu: Number = UNSET
    isolated: Annotated[Flag, ovirt("port_isolated")] = UNSET
    filter: Text = UNSET
    filter_parameters: Annotated[list[FilterParameter] | UnsetType, ovirt("filterParameters")] = UNSET
    # displays
    graphics_type: Annotated[Literal["spice", "vnc"] | UnsetType, ovirt("graphicsType")] = UNSET
    password: Text = UNSET
    ttl_s: Annotated[Number, ovirt("ttl")] = UNSET
    existing_connection: Annotated[Literal["disconnect", "fail", "keep"] | UnsetType, ovirt("existingConnAction")] = (
        UNSET
    )
    disconnect_action: Annotated[
        Literal["LOCK_SCREEN", "LOGOUT", "NONE", "REBOOT", "SHUTDOWN"] | UnsetType, ovirt("disconnectAction")
    ] = UNSET
    disconnect_delay_min: Annotated[Number, ovirt("consoleDisconnectActionDelay")] = UNSET
    ticket_parameters: Annotated[dict[str, str] | UnsetType, ovirt("params")] = UNSET


_FAILS = ("no-such-vm", "vm-is-down", "wrong-state", "migration-in-progress", "missing-parameter", "vm-request-failed")
_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]
_Change = Annotated[DiscChange, ovirt("driveSpec", short="path"), "the drive and its disc, or a path for the first one"]


@group("update", "/vms")
class UpdateApi(Protocol):
    """Devices of a VM that runs, changed where they are."""

    @verb("VM.changeCD", "PUT /{vm_id}/cd", fails=(*_FAILS, "image-is-empty", "change-disk-failed", "cd-image-failed"))
    @xmlrpc("changeCD", "vm_id change", member="vmList")
    async def change_cd(self, vm_id: _Vm, change: _Change) -> None:
        """Put a disc into a drive in place of what is there, or take it out."""

    @verb("VM.changeFloppy", "PUT /{vm_id}/floppy", fails=(*_FAILS, "image-is-empty", "change-disk-failed"))
    @xmlrpc("changeFloppy", "vm_id change", member="vmList")
    async def change_floppy(self, vm_id: _Vm, change: _Change) -> None:
        """Put a floppy disk into the drive in place of what is there, or take it out."""

    @verb(
        "VM.updateDevice",
        "PATCH /{vm_id}/device",
        fails=(*_FAILS, "update-device-failed", "device-not-updatable", "ticket-failed"),
    )
    @xmlrpc("vmUpdateDevice", "vm_id change", member="vmList")
    async def update_device(
        self, vm_id: _Vm, change: Annotated[DeviceUpdate, ovirt("params"), "the device and what changes of it"]
    ) -> None:
        """Change a network card, or the password of a display; when that fails, it is as before."""
