"""Whether VMs run on KVM or by emulation: the choice is pure, measuring is left to a port."""

import asyncio
from dataclasses import dataclass
from enum import Enum

from vdsm.virt.ports import AcceleratorProbe as AcceleratorProbe
from vdsm.virt.ports import ProbeResult as ProbeResult


class AcceleratorSetting(Enum):
    """What the administrator wants."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class AcceleratorChoice:
    """`domain_type` is libvirt's (kvm or qemu); `reports_kvm` is what capabilities tell a management platform."""

    domain_type: str
    reports_kvm: bool
    reason: str


_REASONS = {
    ProbeResult.FAST: "KVM was measured and is fast",
    ProbeResult.SLOW: "KVM is there but emulates every instruction; software emulation is faster",
    ProbeResult.ABSENT: "there is no KVM",
}


def choose_accelerator(setting: AcceleratorSetting, probe: ProbeResult, *, fake_kvm_support: bool) -> AcceleratorChoice:
    """Which accelerator new VMs get. With `fake_kvm_support` the host passes for a KVM host whatever it runs on."""
    if setting is AcceleratorSetting.KVM:
        return AcceleratorChoice("kvm", True, "KVM by configuration")
    if setting is AcceleratorSetting.TCG:
        return AcceleratorChoice("qemu", fake_kvm_support, "software emulation by configuration")
    is_fast = probe is ProbeResult.FAST
    return AcceleratorChoice("kvm" if is_fast else "qemu", is_fast or fake_kvm_support, _REASONS[probe])


class Accelerator:
    """The choice of this daemon, measured once when first asked; all who ask meanwhile wait for that."""

    def __init__(self, setting: AcceleratorSetting, probe: AcceleratorProbe, *, fake_kvm_support: bool = False) -> None:
        self._setting = setting
        self._probe = probe
        self._fake_kvm_support = fake_kvm_support
        self._lock = asyncio.Lock()
        self._choice: AcceleratorChoice | None = None

    async def get(self) -> AcceleratorChoice:
        """The choice; only `auto` measures."""
        async with self._lock:
            if self._choice is None:
                measures = self._setting is AcceleratorSetting.AUTO
                result = await self._probe.measure() if measures else ProbeResult.ABSENT
                self._choice = choose_accelerator(self._setting, result, fake_kvm_support=self._fake_kvm_support)
            return self._choice
