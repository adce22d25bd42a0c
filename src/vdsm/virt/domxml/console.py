"""The text console."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """`<serial>` with its `<console>`, or a virtio `<console>` alone."""
    console = spec.console
    if console is None:
        return []
    backend = "pty" if console.socket is None else "unix"
    source = [] if console.socket is None else [element("source", mode="bind", path=console.socket)]
    if console.type == "virtio":
        return [element("console", *source, element("target", type="virtio", port=0), type=backend)]
    serial = element("serial", *source, element("target", port=0), type=backend)
    # A copy, since an element may hang from one parent only.
    again = [element("source", mode="bind", path=console.socket)] if source else []
    return [serial, element("console", *again, element("target", type="serial", port=0), type=backend)]
