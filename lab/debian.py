"""A Debian guest with an agent: a disk image with its kernel, made from the mirror that this machine is set to.

It is made once (50 s, of which most is unpacking; 330 MiB installed) and kept in `.cache/lab`, under a key of
what it is made from. Guests start on an overlay, so that it stays as it is.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from lab.commands import PartFailed, run
from lab.processes import DIES_WITH_PARENT

CACHE = Path(__file__).parent.parent / ".cache/lab"
SUITE = "bookworm"
# Without dbus the agent's shutdown never ends: systemd is asked through it.
PACKAGES = ("linux-image-cloud-amd64", "qemu-guest-agent", "dbus", "systemd-sysv", "udev", "python3", "iproute2")
PROGRAM_SERIAL = "program"
"""A disk of that serial is run as a Python program, from its first byte to its last; root's, and again when it ends."""
HOSTNAME = "lab-guest"
_IMAGE_BYTES = 2**30
_BUILD_TIMEOUT_S = 900.0
# Both hooks run outside the new root, whose path is $1. Before the kernel comes: an initrd that has only what finds the
# disk is small, and a small one is quickly unpacked.
_BEFORE_KERNEL = """
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/hooks"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"
cat >"$1/etc/initramfs-tools/hooks/lab" <<'X'
#!/bin/sh
[ "$1" = prereqs ] && exit
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk virtio_scsi sd_mod ext4 virtio_console
X
chmod 755 "$1/etc/initramfs-tools/hooks/lab"
"""
# At the end. With a machine ID the first boot is like any other. What waits for a person, for time to pass or for a
# network is off. The agent, which a udev rule starts when its port is there, comes after logind: a shutdown that it
# asks for earlier gets lost on a slow machine.
_AT_END = f"""
echo {HOSTNAME} >"$1/etc/hostname"
echo 76647376312d6c61622d677565737421 >"$1/etc/machine-id"
echo '/dev/vda / ext4 defaults 0 0' >"$1/etc/fstab"
rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/lib/apt/lists/*
mkdir -p "$1/etc/systemd/system/qemu-guest-agent.service.d"
printf '[Unit]\\nWants=systemd-logind.service\\nAfter=systemd-logind.service\\n' \\
  >"$1/etc/systemd/system/qemu-guest-agent.service.d/lab.conf"
cat >"$1/etc/systemd/system/program.service" <<'X'
[Service]
ExecStart=/usr/bin/python3 /dev/disk/by-id/virtio-{PROGRAM_SERIAL}
StandardError=journal+console
Restart=always
RestartSec=2
X
cat >"$1/etc/udev/rules.d/99-program.rules" <<'X'
SUBSYSTEM=="block", ENV{{ID_SERIAL}}=="{PROGRAM_SERIAL}", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="program.service"
X
ln -sf /lib/systemd/system/multi-user.target "$1/etc/systemd/system/default.target"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \\
  e2scrub_reap.service systemd-journal-flush.service systemd-update-utmp.service \\
  systemd-update-utmp-runlevel.service systemd-pstore.service serial-getty@ttyS0.service getty@tty1.service \\
  systemd-networkd-wait-online.service; do
  ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
"""


@dataclass(frozen=True)
class Guest:
    """What to boot: `kernel` with `initrd` and `command_line`, and `image` (raw ext4, no partitions) as /dev/vda."""

    kernel: Path
    initrd: Path
    image: Path
    command_line: str = "root=/dev/vda rw console=ttyS0 quiet loglevel=4"

    def create_overlay(self, path: Path) -> None:
        """Make a disk for one guest: qcow2, over the image, which must stay where it is."""
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.image, path)

    def make_domain(self, name: str, overlay: Path, console: Path, memory_mib: int = 256) -> str:
        """A domain for libvirt: emulated, with the agent's channel, that ends when the guest does."""
        # The overlay goes with its test, so nobody waits for its flushes.
        return f"""
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(self.kernel))}</kernel><initrd>{escape(str(self.initrd))}</initrd>
    <cmdline>{escape(self.command_line)}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe'/>
      <source file={quoteattr(str(overlay))}/><target dev='vda' bus='virtio'/>
    </disk>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <serial type='file'><source path={quoteattr(str(console))}/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>"""


def why_not() -> str | None:
    """Why no guest can be made here, or None."""
    missing = [name for name in ("mmdebstrap", "mkfs.ext4", "unshare", "qemu-img") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return None if os.geteuid() == 0 else "needs root to make a file system"


def get_guest(cache: Path = CACHE) -> Guest:
    """The guest, made now unless it is there. Several processes may ask at once: one makes it, the others wait."""
    key = hashlib.sha256(repr((SUITE, PACKAGES, _BEFORE_KERNEL, _AT_END, _IMAGE_BYTES)).encode()).hexdigest()[:12]
    folder = cache / f"debian-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "debian.lock"):
        if not folder.exists():
            _make(folder)
    return Guest(folder / "vmlinuz", folder / "initrd.img", folder / "disk.raw")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    for old in folder.parent.glob("debian-*.part"):  # of runs that were killed
        shutil.rmtree(old)
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir()
    try:
        _install(part / "root", part / "log")
        for name in ("vmlinuz", "initrd.img"):
            [found] = (part / "root/boot").glob(f"{name}-*")
            found.rename(part / name)
        # Sparse, and what the file system does not use stays a hole.
        with (part / "disk.raw").open("wb") as image:
            image.truncate(_IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-d", part / "root", part / "disk.raw", timeout_s=_BUILD_TIMEOUT_S)
        shutil.rmtree(part / "root")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _install(root: Path, log: Path) -> None:
    """Install Debian into a new folder, in mount and PID namespaces: what is mounted or left running there goes."""
    with tempfile.TemporaryDirectory() as scratch:
        hooks = []
        for when, text in (("essential", _BEFORE_KERNEL), ("customize", _AT_END)):
            hook = Path(scratch, when)
            hook.write_text(f"#!/bin/sh\nset -e\n{text}")
            hook.chmod(0o755)
            hooks.append(f"--{when}-hook={hook}")
        command = [*DIES_WITH_PARENT, "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command += ["--mount-proc", "mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"]
        command += [f"--include={','.join(PACKAGES)}", "--skip=cleanup/apt", *hooks]
        # The image is lost with its machine: no need to wait for the disk after each file.
        command += ["--dpkgopt=force-unsafe-io", SUITE, str(root)]
        environment = {**os.environ, "TMPDIR": scratch, "LC_ALL": "C.UTF-8"}
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=_BUILD_TIMEOUT_S,
                check=False,
            )
    if done.returncode != 0:
        raise PartFailed(f"mmdebstrap: status {done.returncode}: {log.read_text(errors='replace')[-2000:]}")
