"""Measures whether KVM runs guest code at speed, and who may use it; what follows is left to `virt.accelerator`.

A machine may offer /dev/kvm, pass libvirt's checks and still emulate every instruction. So a boot sector is run that
enters 64-bit mode, spins a counted loop and leaves; its source is `tools/boot-sectors/probe.S`.
"""

import asyncio
import json
import logging
import os
import platform
import pwd
import shutil
import stat
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from vdsm.adapters.run import SEARCH_PATH, CommandFailed, CommandTimedOut, Completed, run_async
from vdsm.virt.ports import ProbeResult

log = logging.getLogger(__name__)

DEADLINE_S = 2.0  # an honest KVM needs a tenth of it
GOOD_STATUS = 35  # what isa-debug-exit makes of the probe's last instruction
KVM_DEVICE = Path("/dev/kvm")
EMULATORS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
PROBE = (
    bytes.fromhex(
        "fa31c08ed88ec08ed0bc007c66bf001000000f22df6631c066b9000c000066f3ab66c70600100320000066c7060020033000"
        "0066c7060030830000000f20e06683c8200f22e066b9800000c00f32660d000100000f300f20c0660d010000800f22c00f01"
        "16987cea6c7c0800b980f0fa02ffc975fc66baf400b011eef4ebfd90000000000000000000000000009a2000000000000092"
        "00001700807c"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)


class Runner(Protocol):
    """`adapters.run.run_async`, as far as it is used here."""

    async def __call__(
        self, argv: Sequence[str | Path], *, timeout_s: float, ok: Collection[int] = (0,)
    ) -> Completed: ...


class KvmProbe(Struct, frozen=True):
    """Fits `virt.accelerator.AcceleratorProbe`. A measurement is kept in `cache_file` until the machine boots again."""

    cache_file: Path
    qemu_user: str | None = None
    kvm_device: Path = KVM_DEVICE
    boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")
    accelerator: str = "kvm"
    deadline_s: float = DEADLINE_S
    run: Runner = run_async

    async def measure(self) -> ProbeResult:
        """FAST, SLOW, or ABSENT when there is no KVM that this process and qemu's user may use, within the deadline.

        The probe knows x86 only; elsewhere KVM counts as fast where it exists.
        """
        if not self.kvm_device.exists() or find_closed_device(self.qemu_user, self.kvm_device) is not None:
            return ProbeResult.ABSENT
        if platform.machine() != "x86_64":
            return ProbeResult.FAST
        cached = await asyncio.to_thread(self._read_cache)
        if cached is not None:
            return cached
        result = await self._run_probe()
        if result is not ProbeResult.ABSENT:  # a right or a program that is missing may come any time
            await asyncio.to_thread(self._write_cache, result)
        return result

    async def _run_probe(self) -> ProbeResult:
        emulator = next((name for name in EMULATORS if shutil.which(name, path=SEARCH_PATH)), EMULATORS[0])
        with tempfile.NamedTemporaryFile(prefix="vdsm-kvm-") as sector:
            sector.write(PROBE)
            sector.flush()
            try:
                await self.run(
                    [emulator, "-accel", self.accelerator, "-machine", "pc", "-m", "16", "-nodefaults"]
                    + ["-no-user-config", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
                    + ["-drive", f"file={sector.name},format=raw,if=ide"],
                    timeout_s=self.deadline_s,
                    ok=(GOOD_STATUS,),
                )
            except CommandTimedOut:
                log.warning("KVM is too slow to be real: VMs get software emulation")
                return ProbeResult.SLOW
            except CommandFailed as error:
                log.warning("KVM cannot be used: %s", error.stderr)
                return ProbeResult.ABSENT
        return ProbeResult.FAST

    def _read_cache(self) -> ProbeResult | None:
        try:
            cached = json.loads(self.cache_file.read_text())
            return ProbeResult(cached["result"]) if cached["boot_id"] == self._read_boot_id() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing or damaged: it is measured again

    def _write_cache(self, result: ProbeResult) -> None:
        text = json.dumps({"boot_id": self._read_boot_id(), "result": result.value})
        new = self.cache_file.with_name(self.cache_file.name + ".new")
        try:
            self.cache_file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(text)
            os.replace(new, self.cache_file)
        except OSError as error:
            log.warning("the measurement of KVM is not kept: %s", error)

    def _read_boot_id(self) -> str:
        return self.boot_id_file.read_text().strip()


def find_closed_device(user: str | None, device: Path = KVM_DEVICE) -> str | None:
    """Why VMs are slow to create here, when qemu's user may not open the KVM device; None when all is well.

    libvirt takes such a KVM for one that may be opened any moment, and probes its emulators again at every definition.
    """
    try:
        found, entry = device.stat(), pwd.getpwnam(user or "")
    except (FileNotFoundError, KeyError):
        return None
    if user is None or may_open(found, entry.pw_uid, os.getgrouplist(user, entry.pw_gid)):
        return None
    return (
        f"{device} (mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}:{found.st_gid}) is closed to qemu's "
        f"user {user}, so libvirt probes its emulators for half a minute whenever a VM is defined; "
        f"`chgrp kvm {device} && chmod 660 {device}`, as udev does where it runs, ends that"
    )


def may_open(found: os.stat_result, user_id: int, group_ids: Collection[int]) -> bool:
    """Whether that user may read and write; the first class that fits decides, as in the kernel."""
    if user_id == 0:
        return True
    shift = 6 if found.st_uid == user_id else 3 if found.st_gid in group_ids else 0
    return found.st_mode >> shift & 0o6 == 0o6
