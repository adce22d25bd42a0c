"""KVM or emulation: who decides, and that it is measured only once."""

import asyncio

import pytest

from vdsm.virt.accelerator import Accelerator, AcceleratorSetting
from vdsm.virt.ports import ProbeResult

AUTO, KVM, TCG = AcceleratorSetting


class CountingProbe:
    def __init__(self, result: ProbeResult) -> None:
        self.result = result
        self.count = 0

    async def measure(self) -> ProbeResult:
        self.count += 1
        await asyncio.sleep(0)
        return self.result


@pytest.mark.parametrize("result", ProbeResult)
async def test_everybody_waits_for_one_measurement(result: ProbeResult, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    probe = CountingProbe(result)
    accelerator = Accelerator(AUTO, probe)
    assert not accelerator.is_kvm, "nothing is known yet"
    answers = await asyncio.gather(*(accelerator.uses_kvm() for _ in range(5)))
    assert probe.count == 1
    assert {*answers, accelerator.is_kvm} == {result is ProbeResult.FAST}
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("setting", [KVM, TCG])
async def test_a_fixed_setting_is_not_measured(setting: AcceleratorSetting) -> None:
    probe = CountingProbe(ProbeResult.ABSENT)
    assert await Accelerator(setting, probe).uses_kvm() == (setting is KVM)
    assert probe.count == 0
