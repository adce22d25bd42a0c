"""From a VM's specification to its domain XML: one file per aspect, joined here in one visible list."""

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from vdsm.virt.domxml import (
    balloon,
    channel,
    clock,
    console,
    controller,
    cpu,
    disk,
    features,
    graphics,
    input,
    interface,
    memory,
    metadata,
    os,
    redirect,
    rng,
    smartcard,
    sound,
    sysinfo,
    video,
    watchdog,
)
from vdsm.virt.elements import element
from vdsm.virt.spec import HostFacts, VmSpec

Aspect = Callable[[VmSpec], list[Element]]

DOMAIN: tuple[Aspect, ...] = (
    memory.build,
    cpu.build,
    features.build,
    clock.build,
    metadata.build,
)
"""Aspects directly under `<domain>` that need the specification alone."""

DEVICES: tuple[Aspect, ...] = (
    controller.build,
    disk.build,
    interface.build,
    channel.build,
    console.build,
    input.build,
    graphics.build,
    video.build,
    sound.build,
    rng.build,
    balloon.build,
    watchdog.build,
    smartcard.build,
    redirect.build,
)
"""Aspects under `<devices>`."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What the host adds to every VM: `domain_type` is kvm or qemu."""

    domain_type: str
    host: HostFacts


def build_domain(spec: VmSpec, platform: Platform) -> Element:
    """The domain of that specification; raises InvalidArgument for text that XML cannot carry.

    Disks on storage domains have an empty source: their images are prepared, and their paths set, when the VM starts.
    """
    domain = element("domain", type=platform.domain_type)
    domain.append(element("name", text=spec.name))
    domain.append(element("uuid", text=spec.vm_id))
    domain.extend(os.build(spec, platform.host))
    domain.extend(sysinfo.build(spec, platform.host))
    for aspect in DOMAIN:
        domain.extend(aspect(spec))
    devices = element("devices")
    for aspect in DEVICES:
        devices.extend(aspect(spec))
    domain.append(devices)
    return domain
