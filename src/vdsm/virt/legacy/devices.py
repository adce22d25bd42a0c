"""The devices of the dictionary form (facts §2.2), old and new style, as elements; the larger kinds have own files."""

from collections.abc import Callable, Mapping
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct, field

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import DeviceParameters, DeviceSpec, VmParameters
from vdsm.virt.domain import AGENT_CHANNEL, QEMU_AGENT_CHANNEL
from vdsm.virt.elements import element
from vdsm.virt.hostedits import MAXIMUM_DEVICES
from vdsm.virt.legacy.disks import DrivePlanner
from vdsm.virt.legacy.displays import build_display, build_old_video, build_video
from vdsm.virt.legacy.host import build_host_device, build_lease, build_tpm
from vdsm.virt.legacy.nics import build_card, build_old_cards, tell_card
from vdsm.virt.legacy.sources import Drive
from vdsm.virt.legacy.values import given, list_places
from vdsm.virt.memory import build_module
from vdsm.virt.metadata import DeviceMetadata

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
    *("memballoon", "watchdog", "smartcard", "redirdev", "tpm", "hostdev", "memory", "lease"),
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
    found.elements += build_old_cards(parameters)
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
    for kind in ("watchdog", "console", "balloon", "tpm"):
        if sum(device.type == kind for device in listed) > 1:
            raise CreateFailed(f"only one {kind} is possible")


def _parameters(device: DeviceSpec) -> DeviceParameters:
    return given(device.parameters, DeviceParameters())


def _disk(found: Devices, device: DeviceSpec) -> list[Element]:
    found.add_drive(found.drives.plan_device(device))
    return []


def _interface(found: Devices, device: DeviceSpec) -> list[Element]:
    found.metadata += tell_card(device)
    return [build_card(device, given(found.parameters.custom, {}))]


def _graphics(found: Devices, device: DeviceSpec) -> list[Element]:
    kind = given(device.device, "")
    if any(display.get("type") == kind for display in found.find("graphics")):
        raise CreateFailed(f"only one {kind} display is possible")
    return [_display(found, kind, _parameters(device))]


def _display(found: Devices, kind: str, wishes: DeviceParameters) -> Element:
    return build_display(kind, wishes, found.parameters, found.defaults.display_address)


def _video(found: Devices, device: DeviceSpec) -> list[Element]:
    return [build_video(device)]


def _sound(found: Devices, device: DeviceSpec) -> list[Element]:
    return [element("sound", *list_places(device), model=given(device.device, "ich6"))]


def _controller(found: Devices, device: DeviceSpec) -> list[Element]:
    kind, thread = given(device.device, ""), _parameters(device).controller_io_thread
    return [
        element(
            "controller",
            *([element("master", startport=device.master)] if device.master else []),
            *([] if thread is UNSET else [element("driver", iothread=thread)]),
            *list_places(device),
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
    return [element("memballoon", *statistics, *list_places(device), model=model)]


def _watchdog(found: Devices, device: DeviceSpec) -> list[Element]:
    wishes = _parameters(device)
    model, action = given(wishes.model, "i6300esb"), given(wishes.action, "none")
    return [element("watchdog", *list_places(device), model=model, action=action)]


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
        return [element("smartcard", *list_places(device), mode="host")]
    return [element("smartcard", *list_places(device), mode="passthrough", type="spicevmc")]


def _redirection(found: Devices, device: DeviceSpec) -> list[Element]:
    return [element("redirdev", *list_places(device), bus="usb", type="spicevmc")]


def _rng(found: Devices, device: DeviceSpec) -> list[Element]:
    wishes = _parameters(device)
    sources = {"random": "/dev/urandom", "urandom": "/dev/urandom", "hwrng": "/dev/hwrng"}
    source = given(wishes.source, "random")
    if source not in sources:
        raise CreateFailed(f"unknown source of randomness {source!r}")
    is_limited = wishes.bytes is not UNSET
    rate = [element("rate", bytes=wishes.bytes, period=given(wishes.period_ms, None))] if is_limited else []
    backend = element("backend", model="random", text=sources[source])
    return [element("rng", *rate, backend, *list_places(device), model=given(device.model, "virtio"))]


def _tpm(found: Devices, device: DeviceSpec) -> list[Element]:
    return [build_tpm(device)]


def _host_device(found: Devices, device: DeviceSpec) -> list[Element]:
    made = build_host_device(device)
    return [] if made is None else [made]


def _memory(found: Devices, device: DeviceSpec) -> list[Element]:
    return [build_module(device.size_mib, device.node)]


def _lease(found: Devices, device: DeviceSpec) -> list[Element]:
    return [build_lease(device)]


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
    "tpm": _tpm,
    "hostdev": _host_device,
    "memory": _memory,
    "lease": _lease,
    "channel": _channel,
}
"""To add a device: a function that makes its elements, and a line here."""


def _add_old_display(found: Devices) -> None:
    display = given(found.parameters.display, "")
    if display and not found.find("graphics"):
        found.elements.append(_display(found, "vnc" if display == "vnc" else "spice", DeviceParameters()))
    if not found.find("video"):
        found.elements.append(build_old_video(found.find("graphics"), given(found.parameters.spice_monitors, 1)))


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
