"""The devices of the dictionary form (facts §2.2), old and new style, as elements; but drives: see `legacy_disks`."""

from collections.abc import Callable, Mapping
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct, UnsetType, field

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import DeviceParameters, DeviceSpec, VmParameters
from vdsm.virt.domain import AGENT_CHANNEL, QEMU_AGENT_CHANNEL
from vdsm.virt.elements import element
from vdsm.virt.hostedits import LOCKED_PASSWORD, MAXIMUM_DEVICES
from vdsm.virt.legacy_disks import Drive, DrivePlanner, list_addresses, list_places
from vdsm.virt.legacy_values import given
from vdsm.virt.metadata import DeviceMetadata

LOCKED_SINCE = "1970-01-01T00:00:01"
BALLOON_PERIOD_S = 5


class Defaults(Struct, frozen=True):
    """What this host adds where a caller is silent; `console_folder` holds the sockets of consoles that ask for one."""

    display_address: str = "127.0.0.1"
    drive_cache: str = "none"
    console_folder: str = "/var/run/ovirt-vmconsole-console"


class Devices(Struct):
    """The devices made so far, and what the VM's metadata keeps of them."""

    vm_id: str
    parameters: VmParameters
    defaults: Defaults
    drives: DrivePlanner
    elements: list[Element] = field(default_factory=list)
    metadata: list[DeviceMetadata] = field(default_factory=list)

    def find(self, tag: str) -> list[Element]:
        """Those of that kind, in the order in which they were made."""
        return [made for made in self.elements if made.tag == tag]

    def build(self) -> Element:
        """`<devices>`, by kinds."""
        return element("devices", *(made for tag in _ORDER for made in self.find(tag)))

    def add_drive(self, drive: Drive) -> None:
        self.elements.append(drive.element)
        self.metadata += [] if drive.metadata is None else [drive.metadata]


_ORDER = (
    *("controller", "disk", "interface", "channel", "serial", "console", "input", "graphics", "video", "sound", "rng"),
    *("memballoon", "watchdog", "smartcard", "redirdev"),
)


def plan_devices(vm_id: str, machine: str, parameters: VmParameters, defaults: Defaults) -> Devices:
    """All devices of the VM: those of `devices`, those of the older keys, and those that every VM has.

    Raises CreateFailed for a device that cannot be made.
    """
    drives = DrivePlanner(defaults.drive_cache, "sata" if "q35" in machine else "ide", given(parameters.custom, {}))
    found = Devices(vm_id, parameters, defaults, drives)
    listed = given(parameters.devices, [])
    _check_limits(parameters, listed)
    drives.reserve(listed)
    for device in listed:
        kind = _KINDS.get(device.type)
        if kind is None:
            raise CreateFailed(f"devices of type {device.type!r} cannot be made from this form; use the xml form")
        found.elements.extend(kind(found, device))
    for drive in drives.plan_old(parameters, is_old_style=parameters.devices is UNSET):
        found.add_drive(drive)
    found.elements += _old_interfaces(parameters)
    _add_old_display(found)
    if parameters.sound_device:
        found.elements.append(element("sound", model=parameters.sound_device))
    _add_always(found)
    return found


def _check_limits(parameters: VmParameters, listed: list[DeviceSpec]) -> None:
    """Before anything is planned: planning many thousands would hold up the loop."""
    lists = (parameters.mac_addresses, parameters.bridges)
    cards = sum(text.count(",") for text in lists if isinstance(text, str))
    if cards + len(listed) + len(given(parameters.drives, [])) > MAXIMUM_DEVICES:
        raise CreateFailed(f"more than {MAXIMUM_DEVICES} devices")
    for kind in ("watchdog", "console", "balloon"):
        if sum(device.type == kind for device in listed) > 1:
            raise CreateFailed(f"only one {kind} is possible")


def _parameters(device: DeviceSpec) -> DeviceParameters:
    return given(device.parameters, DeviceParameters())


def _disk(found: Devices, device: DeviceSpec) -> list[Element]:
    found.add_drive(found.drives.plan_device(device))
    return []


def _interface(found: Devices, device: DeviceSpec) -> list[Element]:
    if given(device.device, "bridge") != "bridge":
        raise CreateFailed(f"network cards of kind {device.device!r} cannot be made from this form; use the xml form")
    mac, model, bridge = (given(text, "") for text in (device.mac_address, device.nic_model, device.network))
    card = _card(mac, model, bridge, is_up=given(device.link_active, True))
    card.extend(list_places(device))
    return [card]


def _card(mac_address: str, model: str, bridge: str, *, is_up: bool = True) -> Element:
    """A network card; one without a bridge gets a tap that leads nowhere, with the link down."""
    return element(
        "interface",
        *([element("mac", address=mac_address)] if mac_address else []),
        *([element("source", bridge=bridge)] if bridge else []),
        element("model", type="virtio" if model in ("", "pv") else model),
        element("link", state="up" if bridge and is_up else "down"),
        type="bridge" if bridge else "ethernet",
    )


def _graphics(found: Devices, device: DeviceSpec) -> list[Element]:
    kind = given(device.device, "")
    if any(display.get("type") == kind for display in found.find("graphics")):
        raise CreateFailed(f"only one {kind} display is possible")
    return [_display(found, kind, _parameters(device))]


def _display(found: Devices, kind: str, wishes: DeviceParameters) -> Element:
    """A display, locked by a password that expired in 1970. Wishes of the device come before those of older keys."""
    old, is_spice = found.parameters, kind == "spice"
    address = given(wishes.display_address, given(old.display_address, "")) or found.defaults.display_address
    made = element(
        "graphics",
        element("listen", type="address", address="0.0.0.0" if address == "0" else address),
        type=kind,
        port=-1,
        autoport=True,
        keymap=given(wishes.keyboard_map, given(old.keyboard_layout, "")) or None,
        passwd=LOCKED_PASSWORD,
        passwdValidTo=LOCKED_SINCE,
        defaultMode="any" if is_spice else None,
    )
    if is_spice:
        channels = given(wishes.spice_secure_channels, given(old.spice_secure_channels, ""))
        names = [name.strip().removeprefix("s") for name in channels.split(",") if name.strip()]
        made.extend([element("channel", name=name, mode="secure") for name in names])
        if not given(wishes.copy_paste, given(old.copy_paste, True)):
            made.append(element("clipboard", copypaste=False))
        if not given(wishes.file_transfer, given(old.file_transfer, True)):
            made.append(element("filetransfer", enable=False))
    return made


def _video(found: Devices, device: DeviceSpec) -> list[Element]:
    wishes = _parameters(device)
    model = given(device.device, "vga")
    if model == "none":
        return [element("video", element("model", type="none"))]
    model = {"std": "vga", "vmware": "vmvga"}.get(model, model)
    is_qxl = model == "qxl"
    return [
        element(
            "video",
            element(
                "model",
                type=model,
                vram=given(wishes.video_ram_kib, 32768),
                ram=given(wishes.ram_kib, None) if is_qxl else None,
                vgamem=given(wishes.vga_memory_kib, None) if is_qxl else None,
                heads=given(wishes.heads, 1),
            ),
        )
    ]


def _sound(found: Devices, device: DeviceSpec) -> list[Element]:
    return [element("sound", model=given(device.device, "ich6"))]


def _controller(found: Devices, device: DeviceSpec) -> list[Element]:
    kind = given(device.device, "")
    return [
        element(
            "controller",
            *list_addresses(device.address),
            type=kind,
            index=given(device.index, None),
            model=given(device.model, None),
            ports=16 if kind == "virtio-serial" else None,
        )
    ]


def _balloon(found: Devices, device: DeviceSpec) -> list[Element]:
    """A balloon that reports the guest's memory every few seconds."""
    model = given(_parameters(device).model, "virtio")
    statistics = [] if model == "none" else [element("stats", period=BALLOON_PERIOD_S)]
    return [element("memballoon", *statistics, model=model)]


def _watchdog(found: Devices, device: DeviceSpec) -> list[Element]:
    wishes = _parameters(device)
    return [element("watchdog", model=given(wishes.model, "i6300esb"), action=given(wishes.action, "none"))]


def _console(found: Devices, device: DeviceSpec) -> list[Element]:
    """`<serial>` with its `<console>`, or a virtio `<console>` alone; on a socket, or else a pseudo terminal."""
    wishes = _parameters(device)
    kind = given(wishes.console_type, "serial")
    if kind not in ("serial", "virtio"):
        raise CreateFailed(f"unknown console type {kind!r}")
    wants_socket = given(wishes.enable_socket, "false").lower() == "true"
    path = f"{found.defaults.console_folder}/{found.vm_id}.sock"

    def make(tag: str, target: Element) -> Element:
        source = [element("source", mode="bind", path=path)] if wants_socket else []
        return element(tag, *source, target, type="unix" if wants_socket else "pty")

    console = make("console", element("target", type=kind, port=0))
    return [make("serial", element("target", port=0)), console] if kind == "serial" else [console]


def _smartcard(found: Devices, device: DeviceSpec) -> list[Element]:
    """The host's reader, or the viewer's over SPICE."""
    if given(_parameters(device).mode, "passthrough") == "host":
        return [element("smartcard", mode="host")]
    return [element("smartcard", mode="passthrough", type="spicevmc")]


def _redirection(found: Devices, device: DeviceSpec) -> list[Element]:
    return [element("redirdev", bus="usb", type="spicevmc")]


def _rng(found: Devices, device: DeviceSpec) -> list[Element]:
    wishes = _parameters(device)
    sources = {"random": "/dev/urandom", "urandom": "/dev/urandom", "hwrng": "/dev/hwrng"}
    source = given(wishes.source, "random")
    if source not in sources:
        raise CreateFailed(f"unknown source of randomness {source!r}")
    is_limited = wishes.bytes is not UNSET
    rate = [element("rate", bytes=wishes.bytes, period=given(wishes.period_ms, None))] if is_limited else []
    return [element("rng", *rate, element("backend", model="random", text=sources[source]), model="virtio")]


def _channel(found: Devices, device: DeviceSpec) -> list[Element]:
    """The channels of the agents and of SPICE are always there; others are not known to this form."""
    return []


_KINDS: Mapping[str, Callable[[Devices, DeviceSpec], list[Element]]] = {
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
"""To add a device: a function that makes its elements, and a line here."""


def _old_interfaces(old: VmParameters) -> list[Element]:
    """Comma lists of addresses, models and bridges; the shorter ones repeat their last value.

    But for addresses: libvirt makes one up, as an address given twice would be two cards with one address.
    """
    addresses, models, bridges = (_split(text) for text in (old.mac_addresses, old.nic_models, old.bridges))
    count = max(len(addresses), len(bridges))
    addresses += [""] * count
    return [_card(addresses[index], _padded(models, index), _padded(bridges, index)) for index in range(count)]


def _split(text: str | UnsetType) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _padded(values: list[str], index: int) -> str:
    return values[min(index, len(values) - 1)] if values else ""


def _add_old_display(found: Devices) -> None:
    display = given(found.parameters.display, "")
    if display and not found.find("graphics"):
        found.elements.append(_display(found, "vnc" if display == "vnc" else "spice", DeviceParameters()))
    if found.find("video"):
        return
    if any(screen.get("type") == "spice" for screen in found.find("graphics")):
        model = element("model", type="qxl", vram=32768, heads=given(found.parameters.spice_monitors, 1))
    elif found.find("graphics"):
        model = element("model", type="cirrus", vram=16384, heads=1)
    else:
        model = element("model", type="none")  # or libvirt would add one
    found.elements.append(element("video", model))


def _add_always(found: Devices) -> None:
    if not any(bus.get("type") == "virtio-serial" for bus in found.find("controller")):
        found.elements.append(element("controller", type="virtio-serial", index=0, ports=16))
    for name in (given(found.parameters.agent_channel_name, "") or AGENT_CHANNEL, QEMU_AGENT_CHANNEL):
        source = element("source", mode="bind")
        found.elements.append(element("channel", source, element("target", type="virtio", name=name), type="unix"))
    if any(display.get("type") == "spice" for display in found.find("graphics")):
        target = element("target", type="virtio", name="com.redhat.spice.0")
        found.elements.append(element("channel", target, type="spicevmc"))
    is_tablet = given(found.parameters.tablet, False)
    found.elements.append(element("input", type="tablet" if is_tablet else "mouse", bus="usb" if is_tablet else "ps2"))
    if not found.find("memballoon"):
        found.elements.append(element("memballoon", model="none"))  # or libvirt would add one
