"""Video cards."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import Video, VmSpec


def build(spec: VmSpec) -> list[Element]:
    """One `<video>` for each card; without any, libvirt is told not to add one."""
    if not spec.videos and not spec.graphics:
        return [element("video", element("model", type="none"))]
    return [_video(card) for card in spec.videos]


def _video(card: Video) -> Element:
    if card.model == "none":
        return element("video", element("model", type="none"))
    is_qxl = card.model == "qxl"
    return element(
        "video",
        element(
            "model",
            type=card.model,
            vram=card.vram_kib,
            ram=card.ram_kib if is_qxl else None,
            vgamem=card.vga_memory_kib if is_qxl else None,
            heads=card.heads,
        ),
    )
