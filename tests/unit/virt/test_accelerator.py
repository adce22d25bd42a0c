"""KVM or emulation: who decides, and that it is measured only once."""

import asyncio

import pytest

from vdsm.virt.accelerator import Accelerator, AcceleratorSetting, choose_accelerator
from vdsm.virt.ports import ProbeResult

AUTO, KVM, TCG = AcceleratorSetting


@pytest.mark.parametrize(
    ("setting", "probe", "fake", "domain_type", "reports_kvm"),
    [
        (AUTO, ProbeResult.FAST, False, "kvm", True),
        (AUTO, ProbeResult.SLOW, False, "qemu", False),
        (AUTO, ProbeResult.ABSENT, False, "qemu", False),
        (AUTO, ProbeResult.ABSENT, True, "qemu", True),
        (AUTO, ProbeResult.FAST, True, "kvm", True),
        (KVM, ProbeResult.ABSENT, False, "kvm", True),
        (TCG, ProbeResult.FAST, False, "qemu", False),
        (TCG, ProbeResult.FAST, True, "qemu", True),
    ],
)
def test_choice(
    setting: AcceleratorSetting, probe: ProbeResult, fake: bool, domain_type: str, reports_kvm: bool
) -> None:
    choice = choose_accelerator(setting, probe, fake_kvm_support=fake)
    assert (choice.domain_type, choice.reports_kvm) == (domain_type, reports_kvm)


class CountingProbe:
    def __init__(self) -> None:
        self.count = 0

    async def measure(self) -> ProbeResult:
        self.count += 1
        await asyncio.sleep(0)
        return ProbeResult.SLOW


async def test_everybody_waits_for_one_measurement() -> None:
    probe = CountingProbe()
    accelerator = Accelerator(AUTO, probe)
    choices = await asyncio.gather(*(accelerator.get() for _ in range(5)))
    assert probe.count == 1
    assert {choice.domain_type for choice in choices} == {"qemu"}


@pytest.mark.parametrize("setting", [KVM, TCG])
async def test_a_fixed_setting_is_not_measured(setting: AcceleratorSetting) -> None:
    probe = CountingProbe()
    await Accelerator(setting, probe).get()
    assert probe.count == 0
