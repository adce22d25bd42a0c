"""The displays of the dictionary form (facts §2.2): VNC and SPICE, and the cards that show something there."""

from xml.etree.ElementTree import Element

from vdsm.api.vm import DeviceParameters, DeviceSpec, VmParameters
from vdsm.virt.elements import element
from vdsm.virt.hostedits import LOCKED_PASSWORD
from vdsm.virt.legacy.values import given, list_places

LOCKED_SINCE = "1970-01-01T00:00:01"


def build_display(kind: str, wishes: DeviceParameters, old: VmParameters, default_address: str) -> Element:
    """A display, locked by a password that expired in 1970. Wishes of the device come before those of older keys."""
    is_spice = kind == "spice"
    address = given(wishes.display_address, given(old.display_address, ""))
    network = given(wishes.display_network, given(old.display_network, ""))
    made = element(
        "graphics",
        _listen("" if address else network, address or default_address),
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


def _listen(network: str, address: str) -> Element:
    """An address comes before a network, which has one on each host."""
    if network:
        return element("listen", type="network", network=f"vdsm-{network}")
    return element("listen", type="address", address="0.0.0.0" if address == "0" else address)


def build_video(device: DeviceSpec) -> Element:
    """A device of type `video`."""
    wishes = given(device.parameters, DeviceParameters())
    model = given(device.device, "vga")
    if model == "none":
        return element("video", element("model", type=model))
    model = {"std": "vga", "vmware": "vmvga"}.get(model, model)
    is_qxl = model == "qxl"
    return element(
        "video",
        element(
            "model",
            type=model,
            vram=given(wishes.video_ram_kib, 32768),
            ram=given(wishes.ram_kib, None) if is_qxl else None,
            vgamem=given(wishes.vga_memory_kib, None) if is_qxl else None,
            heads=given(wishes.heads, 1),
        ),
        *list_places(device),
    )


def build_old_video(displays: list[Element], heads: int) -> Element:
    """The card of a VM that names none."""
    if any(screen.get("type") == "spice" for screen in displays):
        model = element("model", type="qxl", vram=32768, heads=heads)
    elif displays:
        model = element("model", type="cirrus", vram=16384, heads=1)
    else:
        model = element("model", type="none")  # or libvirt would add one
    return element("video", model)
