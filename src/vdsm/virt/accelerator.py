"""Whether VMs run on KVM or by emulation; measuring is left to a port."""

import asyncio
import logging
from enum import Enum

from vdsm.virt.ports import AcceleratorProbe, ProbeResult

log = logging.getLogger(__name__)


class AcceleratorSetting(Enum):
    """What the administrator wants."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


_FINDINGS = {
    ProbeResult.FAST: "KVM was measured and is fast",
    ProbeResult.SLOW: "KVM is there but emulates every instruction; software emulation is faster",
    ProbeResult.ABSENT: "there is no KVM for them",
}


class Accelerator:
    """The choice of this daemon, measured once when first asked; all who ask meanwhile wait for that."""

    def __init__(self, setting: AcceleratorSetting, probe: AcceleratorProbe) -> None:
        self._setting = setting
        self._probe = probe
        self._lock = asyncio.Lock()
        self._is_kvm: bool | None = None

    @property
    def is_kvm(self) -> bool:
        """Whether new VMs get KVM, as far as is known by now; from any thread."""
        return self._is_kvm is True

    async def uses_kvm(self) -> bool:
        """Whether new VMs get KVM; only `auto` measures."""
        async with self._lock:
            if self._is_kvm is None:
                self._is_kvm = self._setting is AcceleratorSetting.KVM
                if self._setting is AcceleratorSetting.AUTO:
                    result = await self._probe.measure()
                    self._is_kvm = result is ProbeResult.FAST
                    log.info("VMs run on %s: %s", "KVM" if self._is_kvm else "software emulation", _FINDINGS[result])
            return self._is_kvm
