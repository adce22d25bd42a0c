import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from vdsm.adapters.accelerator import GOOD_STATUS, PROBE, KvmProbe, find_closed_device, may_open
from vdsm.adapters.run import CommandFailed, CommandTimedOut, Completed
from vdsm.virt.accelerator import ProbeResult

THIS_BOOT = "0c9a8a6e-this-boot"


class Emulator:
    """Runs nothing and ends as told."""

    def __init__(self, failure: CommandFailed | None = None) -> None:
        self.failure = failure
        self.sectors: list[bytes] = []

    async def __call__(self, argv: Sequence[str | Path], *, timeout_s: float, ok: Collection[int] = (0,)) -> Completed:
        assert timeout_s == 2.0 and ok == (GOOD_STATUS,)
        drive = str(argv[-1])
        self.sectors.append(Path(drive.split(",")[0].removeprefix("file=")).read_bytes())
        if self.failure is not None:
            raise self.failure
        return Completed("qemu", GOOD_STATUS, b"", b"")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    (tmp_path / "boot_id").write_text(f"{THIS_BOOT}\n")


def make_probe(folder: Path, emulator: Emulator) -> KvmProbe:
    return KvmProbe(folder / "run/cache.json", kvm_device=folder / "kvm", boot_id_file=folder / "boot_id", run=emulator)


def test_probe_is_a_boot_sector() -> None:
    assert len(PROBE) == 512 and PROBE.endswith(b"\x55\xaa")


@pytest.mark.parametrize(
    ("failure", "result"),
    [(None, ProbeResult.FAST), (CommandTimedOut("qemu", -9, "", 2.0), ProbeResult.SLOW)],
)
async def test_measured_once_in_a_boot(tmp_path: Path, failure: CommandFailed | None, result: ProbeResult) -> None:
    emulator = Emulator(failure)
    assert await make_probe(tmp_path, emulator).measure() is result
    assert await make_probe(tmp_path, emulator).measure() is result
    assert emulator.sectors == [PROBE]

    (tmp_path / "boot_id").write_text("another boot\n")
    assert await make_probe(tmp_path, Emulator()).measure() is ProbeResult.FAST


async def test_kvm_that_cannot_be_used_is_tried_again(tmp_path: Path) -> None:
    refused = Emulator(CommandFailed("qemu", 1, "Could not access KVM kernel module: Permission denied"))
    assert await make_probe(tmp_path, refused).measure() is ProbeResult.ABSENT
    assert await make_probe(tmp_path, Emulator()).measure() is ProbeResult.FAST


async def test_without_device_nothing_is_run(tmp_path: Path) -> None:
    (tmp_path / "kvm").unlink()
    emulator = Emulator()
    assert await make_probe(tmp_path, emulator).measure() is ProbeResult.ABSENT
    assert emulator.sectors == []


@pytest.mark.parametrize("damage", ["", "[]", "{}", json.dumps({"boot_id": THIS_BOOT, "result": "purple"})])
async def test_damaged_cache_is_measured_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/cache.json").write_text(damage)
    assert await make_probe(tmp_path, Emulator()).measure() is ProbeResult.FAST


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o666, True)])
async def test_a_device_that_qemus_user_may_not_open_is_told_and_not_used(
    mode: int, is_open: bool, tmp_path: Path
) -> None:
    device = tmp_path / "kvm"
    device.chmod(mode)
    text = find_closed_device("nobody", device)
    assert (text is None) == is_open
    if text is not None:
        assert all(word in text for word in (str(device), f"{mode:04o}", "nobody", "chmod"))
    boot_id = tmp_path / "boot_id"
    probe = KvmProbe(tmp_path / "cache", qemu_user="nobody", kvm_device=device, boot_id_file=boot_id, run=Emulator())
    assert await probe.measure() is (ProbeResult.FAST if is_open else ProbeResult.ABSENT)


@pytest.mark.parametrize(
    ("mode", "user_id", "is_allowed"),
    [(0o600, 0, True), (0o600, 5, True), (0o066, 5, False), (0o060, 6, True), (0o606, 6, False), (0o006, 7, True)],
)
def test_the_first_class_that_fits_decides(mode: int, user_id: int, is_allowed: bool) -> None:
    found = os.stat_result((mode, 0, 0, 1, 5, 50, 0, 0, 0, 0))
    assert may_open(found, user_id, [50] if user_id == 6 else [70]) == is_allowed


def test_without_device_or_user_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert find_closed_device("nobody", tmp_path / "none") is None
    (tmp_path / "kvm").chmod(0)
    for user in (None, "no such user", "root"):
        assert find_closed_device(user, tmp_path / "kvm") is None
