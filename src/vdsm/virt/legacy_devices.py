"""The devices of the dictionary form (facts §2.2), old and new style, as specifications."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import UNSET, UnsetType, structs

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import DeviceAddress, DeviceParameters, DeviceSpec, VmParameters
from vdsm.virt.domain import AGENT_CHANNEL, QEMU_AGENT_CHANNEL
from vdsm.virt.hostedits import MAXIMUM_DEVICES
from vdsm.virt.legacy_disks import DiskPlanner, plan_disk, plan_old_disks
from vdsm.virt.spec import (
    Address,
    Channel,
    Console,
    Controller,
    Disk,
    Graphics,
    Interface,
    Rng,
    Video,
    Watchdog,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What this host adds where a caller is silent; `console_folder` holds the sockets of consoles that ask for one."""

    display_address: str = "127.0.0.1"
    drive_cache: str = "none"
    console_folder: str = "/var/run/ovirt-vmconsole-console"


@dataclass(slots=True)
class Devices:
    """The devices found so far."""

    vm_id: str
    parameters: VmParameters
    defaults: Defaults
    planner: DiskPlanner
    disks: list[Disk] = field(default_factory=list)
    interfaces: list[Interface] = field(default_factory=list)
    graphics: list[Graphics] = field(default_factory=list)
    videos: list[Video] = field(default_factory=list)
    sounds: list[str] = field(default_factory=list)
    controllers: list[Controller] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    console: Console | None = None
    rng: Rng | None = None
    balloon: str | None = None
    watchdog: Watchdog | None = None
    smartcard: str | None = None
    usb_redirections: int = 0


def plan_devices(vm_id: str, machine: str, parameters: VmParameters, defaults: Defaults) -> Devices:
    """All devices of the VM: those of `devices`, those of the older keys, and those that every VM has.

    Raises CreateFailed for a device that cannot be made.
    """
    planner = DiskPlanner(defaults.drive_cache, "sata" if "q35" in machine else "ide")
    found = Devices(vm_id, parameters, defaults, planner)
    listed = _given(parameters.devices, [])
    _check_count(parameters)
    planner.reserve(listed)
    for device in listed:
        kind = _KINDS.get(device.type)
        if kind is None:
            raise CreateFailed(f"devices of type {device.type!r} cannot be made from this form; use the xml form")
        kind(found, device)
    _check_limits(listed, found)
    found.disks.extend(plan_old_disks(planner, parameters, is_old_style=parameters.devices is UNSET))
    _add_old_interfaces(found)
    _add_old_display(found)
    if parameters.sound_device is not UNSET and parameters.sound_device:
        found.sounds.append(parameters.sound_device)
    _add_always(found)
    return found


def _check_count(parameters: VmParameters) -> None:
    """Before anything is planned: planning many thousands would hold up the loop."""
    lists = (parameters.mac_addresses, parameters.bridges)
    cards = sum(text.count(",") for text in lists if isinstance(text, str))
    if cards + len(_given(parameters.devices, [])) + len(_given(parameters.drives, [])) > MAXIMUM_DEVICES:
        raise CreateFailed(f"more than {MAXIMUM_DEVICES} devices")


def plan_address(address: DeviceAddress | UnsetType) -> Address | None:
    """The address that the caller wants, if any."""
    if address is UNSET or address.type is UNSET:
        return None
    parts = {name: value for name, value in structs.asdict(address).items() if value is not UNSET and name != "type"}
    return Address(type=address.type, parts=parts)


def _given(value: T | UnsetType, default: T) -> T:
    return default if value is UNSET else value


def _parameters(device: DeviceSpec) -> DeviceParameters:
    return _given(device.parameters, DeviceParameters())


def _disk(found: Devices, device: DeviceSpec) -> None:
    found.disks.append(plan_disk(found.planner, device, plan_address(device.address)))


def _interface(found: Devices, device: DeviceSpec) -> None:
    if _given(device.device, "bridge") != "bridge":
        raise CreateFailed(f"network cards of kind {device.device!r} cannot be made from this form; use the xml form")
    found.interfaces.append(
        Interface(
            mac_address=_given(device.mac_address, "") or None,
            model=_nic_model(_given(device.nic_model, "")),
            bridge=_given(device.network, ""),
            link_up=_given(device.link_active, True),
            boot_order=_given(device.boot_order, None),
            address=plan_address(device.address),
            alias=_given(device.alias, None),
        )
    )


def _graphics(found: Devices, device: DeviceSpec) -> None:
    kind = _given(device.device, "")
    if kind not in ("spice", "vnc"):
        raise CreateFailed(f"unknown graphics type {kind!r}")
    if any(display.type == kind for display in found.graphics):
        raise CreateFailed(f"only one {kind} display is possible")
    found.graphics.append(_display(found, kind, _parameters(device)))


def _display(found: Devices, kind: str, wishes: DeviceParameters) -> Graphics:
    """Wishes of the device come first, then those of the older keys, then this host's."""
    old = found.parameters
    channels = _given(wishes.spice_secure_channels, _given(old.spice_secure_channels, ""))
    address = _given(wishes.display_address, _given(old.display_address, ""))
    return Graphics(
        type=kind,
        address="0.0.0.0" if address == "0" else address or found.defaults.display_address,
        keyboard_map=_given(wishes.keyboard_map, _given(old.keyboard_layout, "")) or None,
        secure_channels=tuple(name.strip().removeprefix("s") for name in channels.split(",") if name.strip()),
        copy_paste=_given(wishes.copy_paste, _given(old.copy_paste, True)),
        file_transfer=_given(wishes.file_transfer, _given(old.file_transfer, True)),
    )


def _video(found: Devices, device: DeviceSpec) -> None:
    wishes = _parameters(device)
    model = _given(device.device, "vga")
    found.videos.append(
        Video(
            model={"std": "vga", "vmware": "vmvga"}.get(model, model),
            vram_kib=_given(wishes.video_ram_kib, 32768),
            ram_kib=_given(wishes.ram_kib, None),
            vga_memory_kib=_given(wishes.vga_memory_kib, None),
            heads=_given(wishes.heads, 1),
        )
    )


def _sound(found: Devices, device: DeviceSpec) -> None:
    found.sounds.append(_given(device.device, "ich6"))


def _controller(found: Devices, device: DeviceSpec) -> None:
    kind = _given(device.device, "")
    found.controllers.append(
        Controller(
            type=kind,
            index=_given(device.index, None),
            model=_given(device.model, None),
            ports=16 if kind == "virtio-serial" else None,
            address=plan_address(device.address),
        )
    )


def _balloon(found: Devices, device: DeviceSpec) -> None:
    found.balloon = _given(_parameters(device).model, "virtio")


def _watchdog(found: Devices, device: DeviceSpec) -> None:
    wishes = _parameters(device)
    found.watchdog = Watchdog(model=_given(wishes.model, "i6300esb"), action=_given(wishes.action, "none"))


def _console(found: Devices, device: DeviceSpec) -> None:
    wishes = _parameters(device)
    wants_socket = str(_given(wishes.enable_socket, "false")).lower() == "true"
    socket = f"{found.defaults.console_folder}/{found.vm_id}.sock" if wants_socket else None
    kind = _given(wishes.console_type, "serial" if wishes.console_type is UNSET else "virtio")
    if kind not in ("serial", "virtio"):
        raise CreateFailed(f"unknown console type {kind!r}")
    found.console = Console(type=kind, socket=socket)


def _smartcard(found: Devices, device: DeviceSpec) -> None:
    found.smartcard = _given(_parameters(device).mode, "passthrough")


def _redirection(found: Devices, device: DeviceSpec) -> None:
    found.usb_redirections += 1


def _rng(found: Devices, device: DeviceSpec) -> None:
    wishes = _parameters(device)
    sources = {"random": "/dev/urandom", "urandom": "/dev/urandom", "hwrng": "/dev/hwrng"}
    source = _given(wishes.source, "random")
    if source not in sources:
        raise CreateFailed(f"unknown source of randomness {source!r}")
    found.rng = Rng(
        source=sources[source], rate_bytes=_given(wishes.bytes, None), period_ms=_given(wishes.period_ms, None)
    )


def _channel(found: Devices, device: DeviceSpec) -> None:
    """The channels of the agents and of SPICE are always there; others are not known to this form."""


_KINDS: Mapping[str, Callable[[Devices, DeviceSpec], None]] = {
    "disk": _disk,
    "interface": _interface,
    "graphics": _graphics,
    "video": _video,
    "sound": _sound,
    "controller": _controller,
    "balloon": _balloon,
    "watchdog": _watchdog,
    "console": _console,
    "smartcard": _smartcard,
    "redir": _redirection,
    "rng": _rng,
    "channel": _channel,
}


def _check_limits(listed: list[DeviceSpec], found: Devices) -> None:
    for kind in ("watchdog", "console"):
        if sum(device.type == kind for device in listed) > 1:
            raise CreateFailed(f"only one {kind} is possible")


def _add_old_interfaces(found: Devices) -> None:
    """Comma lists of addresses, models and bridges; the shorter ones repeat their last value."""
    old = found.parameters
    lists = [_split(old.mac_addresses), _split(old.nic_models), _split(old.bridges)]
    count = max(len(lists[0]), len(lists[2]))
    for index in range(count):
        mac, model, bridge = (values[min(index, len(values) - 1)] if values else "" for values in lists)
        if index >= len(lists[0]):
            mac = ""  # An address given twice would be two cards with one address; libvirt makes one up instead.
        found.interfaces.append(Interface(mac_address=mac or None, model=_nic_model(model), bridge=bridge))


def _split(text: str | UnsetType) -> list[str]:
    return [part.strip() for part in text.split(",")] if text is not UNSET and text else []


def _nic_model(model: str) -> str:
    return {"": "virtio", "pv": "virtio"}.get(model, model)


def _add_old_display(found: Devices) -> None:
    display = _given(found.parameters.display, "")
    if display and display not in ("vnc", "qxl", "qxlnc"):
        raise CreateFailed(f"unknown display type {display!r}")
    if display and not found.graphics:
        kind = "vnc" if display == "vnc" else "spice"
        found.graphics.append(_display(found, kind, DeviceParameters()))
    if found.graphics and not found.videos:
        is_spice = any(screen.type == "spice" for screen in found.graphics)
        heads = _given(found.parameters.spice_monitors, 1) if is_spice else 1
        found.videos.append(
            Video(model="qxl" if is_spice else "cirrus", vram_kib=32768 if is_spice else 16384, heads=heads)
        )


def _add_always(found: Devices) -> None:
    if not any(bus.type == "virtio-serial" for bus in found.controllers):
        found.controllers.append(Controller(type="virtio-serial", index=0, ports=16))
    agent = _given(found.parameters.agent_channel_name, "") or AGENT_CHANNEL
    found.channels += [Channel(name=agent), Channel(name=QEMU_AGENT_CHANNEL)]
    if any(display.type == "spice" for display in found.graphics):
        found.channels.append(Channel(name="com.redhat.spice.0", type="spicevmc"))
    if _given(found.parameters.smartcard, False) and found.smartcard is None:
        found.smartcard = "passthrough"
