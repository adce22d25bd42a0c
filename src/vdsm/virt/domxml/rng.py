"""Randomness for the guest."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import VmSpec


def build(spec: VmSpec) -> list[Element]:
    """A virtio RNG, rate limited when asked."""
    rng = spec.rng
    if rng is None:
        return []
    made = element("rng", model="virtio")
    if rng.rate_bytes is not None:
        made.append(element("rate", bytes=rng.rate_bytes, period=rng.period_ms))
    made.append(element("backend", model="random", text=rng.source))
    return [made]
