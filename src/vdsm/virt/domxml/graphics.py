"""Displays; passwords come later, by ticket."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import Graphics, VmSpec

LOCKED_PASSWORD = "*****"
LOCKED_SINCE = "1970-01-01T00:00:01"


def build(spec: VmSpec) -> list[Element]:
    """One `<graphics>` for each display, locked by a password that expired in 1970."""
    return [_graphics(display) for display in spec.graphics]


def _graphics(display: Graphics) -> Element:
    spice = display.type == "spice"
    made = element(
        "graphics",
        type=display.type,
        port=-1,
        autoport=True,
        keymap=display.keyboard_map,
        passwd=LOCKED_PASSWORD,
        passwdValidTo=LOCKED_SINCE,
        defaultMode="any" if spice else None,
    )
    made.append(element("listen", type="address", address=display.address))
    if spice:
        made.extend([element("channel", name=name, mode="secure") for name in display.secure_channels])
        if not display.copy_paste:
            made.append(element("clipboard", copypaste=False))
        if not display.file_transfer:
            made.append(element("filetransfer", enable=False))
    return made
