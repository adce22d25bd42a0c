"""Images whose blocks hold letters, so that what a chain reads as is a word; by the real programs."""

from pathlib import Path

from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.adapters.run import run
from vdsm.storage.ports import Layer

BLOCK = 65536
RAW, COW = "raw", "qcow2"
LEAKS = 3  # a status of qemu-img check


def make(path: Path, format: str, blocks: str, backing: Layer | None = None) -> Layer:
    """An image whose blocks hold these letters; a dot is a block that was never written."""
    path.touch()
    name, format_below = (backing.path.name, backing.format) if backing else (None, None)
    compat = "1.1" if format == COW else None
    size_bytes = len(blocks) * BLOCK
    QemuImgCommand().create(path, format, size_bytes, compat=compat, backing=name, backing_format=format_below)
    layer = Layer(path, format)
    write(layer, blocks)
    return layer


def write(layer: Layer, blocks: str) -> None:
    """Write letters; a dot leaves its block as it is."""
    writes = [f"write -q -P {ord(letter)} {at * BLOCK} {BLOCK}" for at, letter in enumerate(blocks) if letter != "."]
    if writes:
        words = [word for one in writes for word in ("-c", one)]
        run(["qemu-io", "-f", layer.format, *words, layer.path], timeout_s=60)


def read(layer: Layer, may_leak: bool = False) -> str:
    """The letters of an image and all below it, a dot for zeros, `?` for a mixture; the image itself is whole.

    It may have clusters that nothing refers to when its writer lost its power: they cost room and no data.
    """
    if layer.format == COW:
        run(["qemu-img", "check", "-q", "-f", COW, layer.path], timeout_s=60, ok=(0, LEAKS) if may_leak else (0,))
    out = layer.path.with_name("read.out")
    run(["qemu-img", "convert", "-f", layer.format, "-O", RAW, layer.path, out], timeout_s=60)
    data = out.read_bytes()
    out.unlink()
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    return "".join(_name(block) for block in blocks)


def _name(block: bytes) -> str:
    if block != block[:1] * BLOCK:
        return "?"
    return chr(block[0]) if block[0] else "."
