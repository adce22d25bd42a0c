"""A disc is changed although libvirt takes the drive's tray for open, which it is not."""

import json
from typing import Any, cast

import libvirt
import pytest

from tests.unit.adapters.libvirt_doubles import Libvirt
from vdsm.adapters.libvirt import devices
from vdsm.adapters.libvirt.calls import Calls
from vdsm.adapters.libvirt.devices import DeviceCalls

DRIVE = "<disk device='cdrom'><alias name='ide0-1-0'/><target dev='hdc'/></disk>"
CLOSED = "unable to execute QEMU command 'blockdev-{}-medium': Tray of {} is not open"
ON_REMOVAL, ON_INSERTION = CLOSED.format("remove", "device 'ide0-1-0'"), CLOSED.format("insert", "the device")
OPEN = json.dumps({"execute": "blockdev-open-tray", "arguments": {"id": "ide0-1-0", "force": True}})


class Drive:
    """A domain with one drive that refuses updates in these words, one after another."""

    def __init__(self, *refusals: str) -> None:
        self.refusals = list(refusals)
        self.steps: list[str] = []

    def updateDeviceFlags(self, xml: str, flags: int) -> int:
        self.steps.append("update")
        if self.refusals:
            raise Libvirt(libvirt.VIR_ERR_INTERNAL_ERROR, self.refusals.pop(0))
        return 0


class OneDomain:
    def __init__(self, drive: Drive) -> None:
        self.drive = drive

    async def on_vm(self, vm_id: str, name: str, call: Any) -> Any:
        return call(self.drive)


@pytest.fixture(autouse=True)
def monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the drive, which tells what it was asked for."""

    def ask(drive: Drive, command: str, flags: int) -> str:
        drive.steps.append(command)
        return "{}"

    monkeypatch.setattr(devices.libvirt_qemu, "qemuMonitorCommand", ask)


async def update(drive: Drive, xml: str = DRIVE, *, force: bool = True) -> None:
    calls = DeviceCalls()
    calls._calls = cast(Calls, OneDomain(drive))
    await calls.update_device("some-vm", xml, force=force)


@pytest.mark.parametrize("refusals", [[ON_INSERTION], [ON_REMOVAL], [ON_INSERTION, ON_REMOVAL]])
async def test_a_tray_that_the_guest_closed_is_opened(refusals: list[str]) -> None:
    drive = Drive(*refusals)
    await update(drive)
    assert drive.steps == ["update", *[OPEN, "update"] * len(refusals)]


async def test_a_guest_that_closes_it_always_has_its_way() -> None:
    drive = Drive(*[ON_INSERTION] * 9)
    with pytest.raises(Libvirt, match="is not open"):
        await update(drive)
    assert drive.steps.count(OPEN) == 3


@pytest.mark.parametrize(
    ("refusal", "xml", "force"),
    [
        ("no space on device", DRIVE, True),
        (ON_REMOVAL, DRIVE, False),
        (ON_REMOVAL, DRIVE.replace("alias", "other"), True),
    ],
)
async def test_what_else_is_refused_stays_refused(refusal: str, xml: str, force: bool) -> None:
    drive = Drive(refusal)
    with pytest.raises(Libvirt, match=refusal):
        await update(drive, xml, force=force)
    assert drive.steps == ["update"]
