"""A host that its watchdog resets: a small VM with sanlock, wdmd and the soft watchdog of Debian's kernel.

It is a VM of its own, beside whoever uses it, since a reset must not end the tests that wait for it.
"""

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo import cpio
from demo.guest import GuestFiles, Recipe, build_guest
from lab.commands import PartFailed, run, wait_for
from lab.processes import DIES_WITH_PARENT

PROGRAMS = ("/usr/sbin/sanlock", "/usr/sbin/wdmd", "/usr/bin/dd")  # busybox has a dd, but no direct I/O
DRIVERS = ("virtio_pci", "virtio_blk", "softdog")
FOLDERS = ("run", "run/sanlock", "run/wdmd", "var", "etc/wdmd.d")
DISK_BYTES = 2 << 30  # sparse; the holder that is to get stuck reads it through to its end
MEMORY_MIB = 160
START_S = 90.0
RESET_S = 60
"""What wdmd gives the watchdog; sanlock's renewals have failed for 8 I/O timeouts before it stops feeding it."""

# sanlock joins the lockspace at the start of the disk and takes the lease behind it, then the host counts its seconds.
_INIT = rb"""#!/bin/sh
export PATH=/bin:/usr/sbin
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm && mount -t tmpfs shm /dev/shm
ln -s /run /var/run
echo 'root:x:0:0::/:/bin/sh' >/etc/passwd
echo 'root:x:0:' >/etc/group
for module in $(cat /modules/order); do insmod "/modules/$module"; done
exec >/dev/ttyS0 2>&1
timeout_s=$(sed -n 's/.*\bio_timeout=\([0-9]*\).*/\1/p' /proc/cmdline)
hostname watched
wdmd -D -H 0 -w /dev/watchdog &
while [ ! -S /run/wdmd/wdmd.sock ]; do sleep 0.1; done
sanlock daemon -D -w 1 -U root -G root -l 0 -e watched &
while ! sanlock client status >/dev/null 2>&1; do sleep 0.1; done
sanlock client add_lockspace -s lab:1:/dev/vda:0 -o "$timeout_s" || echo "guest: cannot join"
holder="/bin/sleep 100000"
grep -q holder=stuck /proc/cmdline && holder="/usr/bin/dd if=/dev/vda of=/dev/null bs=512 iflag=direct"
sanlock client command -r lab:lease:/dev/vda:1048576 -c $holder &
while ! sanlock client status | grep -q '^r lab:lease'; do sleep 0.1; done
echo "guest: holds the lease"
while :; do
  sleep 1
  sanlock client status | grep -q '^r lab:lease' || echo "guest: lost the lease"
  echo "guest: alive $(cut -d. -f1 /proc/uptime)"
done
"""


class WatchedHost:
    """The host as others see it: what it says, and the cable to its disk."""

    def __init__(self, process: "subprocess.Popen[bytes]", monitor: Path, console: Path) -> None:
        self.process = process
        self._monitor = monitor
        self._console = console

    def read_console(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    @property
    def alive_s(self) -> int:
        """The newest of the seconds that it counts."""
        return int((re.findall(r"guest: alive (\d+)", self.read_console()) or ["0"])[-1])

    @property
    def holds_lease(self) -> bool:
        """What it said of that a second ago at most."""
        return "guest: lost the lease" not in self.read_console()

    def cut_storage(self) -> None:
        """From now on its disk neither answers nor fails, as a dead server's would."""
        self._throttle(1)

    def heal_storage(self) -> None:
        """The disk answers again, held requests too."""
        self._throttle(0)

    def _throttle(self, bytes_per_s: int) -> None:
        others = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
        self._ask("block_set_io_throttle", id="/machine/peripheral/leases/virtio-backend", bps=bytes_per_s, **others)

    def _ask(self, command: str, **arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._monitor))
            with connection.makefile("rw") as lines:
                lines.readline()
                for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                    lines.write(json.dumps(request) + "\n")
                    lines.flush()
                    answer = json.loads(lines.readline())
                    if "error" in answer:
                        raise PartFailed(f"{command}: {answer['error']['desc']}")


@contextmanager
def watched_host(folder: Path, io_timeout_s: int = 1, *, stuck: bool = False) -> Iterator[WatchedHost]:
    """A host with host id 1 in the lockspace `lab` on `folder`/leases, holding the resource `lease` in it.

    What holds the lease can be killed, unless it is to be `stuck`: then it reads the disk, and is beyond all signals
    once that no longer answers. The lockspace and the resource (at 1 MiB) are made there; who shares the file may join
    as another host. When the host is reset its process ends with status 0.
    """
    leases, monitor, console = (folder / name for name in ("leases", "monitor", "console"))
    with leases.open("xb") as file:
        file.truncate(DISK_BYTES)
    run("sanlock", "direct", "init", "-s", f"lab:0:{leases}:0", "-o", str(io_timeout_s))
    run("sanlock", "direct", "init", "-r", f"lab:lease:{leases}:1048576")
    guest = build_guest(recipe=Recipe(DRIVERS, _INIT, _list_files()))
    wishes = f"io_timeout={io_timeout_s} holder={'stuck' if stuck else 'killable'}"
    command = [*DIES_WITH_PARENT, *_make_qemu(guest, folder, wishes)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        host = WatchedHost(process, monitor, console)
        wait_for(lambda: _is_up(host), "the watched host holds its lease", START_S, 0.2)
        yield host
    finally:
        process.kill()
        process.wait()


def _is_up(host: WatchedHost) -> bool:
    if host.process.poll() is not None:
        raise PartFailed(f"the watched host ended:\n{host.read_console()[-2000:]}")
    return host.alive_s > 0


def _list_files() -> list[cpio.Entry]:
    """The programs as they are installed here, with the libraries that they load, and the folders of all these."""
    found = {path for program in PROGRAMS for path in re.findall(r"(/\S+) \(0x", run("ldd", program))}
    files = [*PROGRAMS, *sorted(found)]
    folders = {*FOLDERS, *(str(folder)[1:] for file in files for folder in Path(file).parents if folder.name)}
    programs = [cpio.program(file[1:], Path(file).read_bytes()) for file in files]
    return [*map(cpio.folder, sorted(folders)), *programs]


def _make_qemu(guest: GuestFiles, folder: Path, wishes: str) -> list[str]:
    arguments = f"console=ttyS0 quiet panic=5 {wishes}"
    leases = f"if=none,id=file,file={folder / 'leases'},format=raw,cache=none,file.locking=off"  # others join too
    command = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-m",
        str(MEMORY_MIB),
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]
    command += ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", arguments]
    command += ["-serial", f"file:{folder / 'console'}", "-qmp", f"unix:{folder / 'monitor'},server=on,wait=off"]
    return [*command, "-drive", leases, "-device", "virtio-blk-pci,drive=file,id=leases"]
