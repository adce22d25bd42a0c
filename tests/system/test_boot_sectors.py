"""The guests without an operating system: they are what their sources say, and they do it under qemu."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from vdsm.adapters.accelerator import PROBE, KvmProbe
from vdsm.testing.bootsector import create_writer_disk, make_writer
from vdsm.virt.accelerator import ProbeResult

SOURCES = Path(__file__).parents[2] / "tools/boot-sectors"
LIMIT_S = 60.0


@pytest.mark.skipif(shutil.which("as") is None, reason="needs binutils")
@pytest.mark.parametrize(("name", "expected"), [("probe", PROBE), ("writer", make_writer())])
def test_sectors_match_their_sources(name: str, expected: bytes, tmp_path: Path) -> None:
    objects, sector = tmp_path / "object", tmp_path / "sector"
    subprocess.run(["as", "--32", SOURCES / f"{name}.S", "-o", objects], check=True)
    link = ["ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary", "-o", sector, objects]
    subprocess.run(link, check=True)
    assert sector.read_bytes() == expected


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu")
class TestUnderQemu:
    async def test_probe_leaves_with_its_own_status(self, tmp_path: Path) -> None:
        # Software emulation passes the measurement too, which shows that the guest itself works.
        device = tmp_path / "kvm"
        device.touch()
        probe = KvmProbe(tmp_path / "run" / "probe.json", kvm_device=device, accelerator="tcg", deadline_s=LIMIT_S)
        assert await probe.measure() is ProbeResult.FAST
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert boot_id in (tmp_path / "run" / "probe.json").read_text()

    async def test_writer_writes_and_tells(self, tmp_path: Path) -> None:
        disk, dots = tmp_path / "disk.raw", tmp_path / "dots"
        create_writer_disk(disk, 2**24, writes=100)
        command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none"]
        command += ["-serial", f"file:{dots}", "-drive", f"file={disk},format=raw,if=virtio"]
        process = await asyncio.create_subprocess_exec(*command)
        try:
            async with asyncio.timeout(LIMIT_S):
                while not dots.exists() or b"!" not in dots.read_bytes():
                    assert process.returncode is None
                    await asyncio.sleep(0.02)
        finally:
            process.kill()
            await process.wait()
        assert dots.read_bytes() == b"." * 100 + b"!"
        assert disk.stat().st_blocks * 512 >= 100 * 64 * 512
