"""libvirtd and virtlogd for as long as somebody here needs them; the daemon under test is started by others.

Nothing is started where libvirt answers already. What was started is stopped by the last user to leave, together with
the networks that came up with it: users share a lock, and a record beside it names the processes. Run as
`python -m demo.libvirtd -- COMMAND …` it runs a command with libvirt up and ends with that command's status.
"""

import fcntl
import grp
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

LOCKS = Path("/run/lock")
GATE = "vdsm-libvirt.gate"  # held while daemons are started or stopped
USERS = "vdsm-libvirt.users"  # shared by all who need them
RECORD = LOCKS / "vdsm-libvirt.json"
LOGS = Path("/var/log/libvirt")
KVM = Path("/dev/kvm")
URI = "qemu:///system"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0


class LibvirtError(Exception):
    """libvirt cannot be brought up here; the text says why."""


def virsh(*arguments: str) -> str:
    """What virsh prints. Raises LibvirtError when libvirt does not answer or refuses."""
    command = ("virsh", "-q", "-c", URI, *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise LibvirtError(str(error)) from error
    if done.returncode != 0:
        raise LibvirtError(f"virsh {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _ask(*arguments: str) -> str:
    """What virsh prints, empty when libvirt does not answer or refuses."""
    with suppress(LibvirtError):
        return virsh(*arguments)
    return ""


def is_running() -> bool:
    """Whether libvirt's qemu driver answers (where systemd listens for it, asking starts it)."""
    with suppress(LibvirtError):
        virsh("list")
        return True
    return False


def _list_links() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


def _start(program: str) -> int:
    found = shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise LibvirtError(f"{program} is not installed")
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"vdsm-{program}.log").open("ab") as log:
        process = subprocess.Popen((found,), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return process.pid


def _is_ours(pid: int, program: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == program and not _is_zombie(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_zombie(pid: int) -> bool:
    with suppress(ChildProcessError):  # a daemon that this very process started must be reaped
        os.waitpid(pid, os.WNOHANG)
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _is_listening(program: str) -> bool:
    pid_file = Path(f"/run/{program}.pid")
    try:
        return _is_ours(int(pid_file.read_text()), program)
    except (FileNotFoundError, ValueError):
        return False


def _open_kvm() -> tuple[int, int] | None:
    """Let qemu's group use /dev/kvm as device rules would; returns the mode and group from before, if changed.

    Where nothing applied those rules, libvirt finds a KVM that its qemus may not open, and measures that anew for half
    a minute at every definition of a VM.
    """
    with suppress(FileNotFoundError, KeyError):
        status, group = KVM.stat(), grp.getgrnam("kvm").gr_gid
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o006 != 0o006 and (mode & 0o060 != 0o060 or status.st_gid != group):
            os.chown(KVM, -1, group)
            KVM.chmod(mode | 0o060)
            print(f"libvirt: {KVM} was closed to qemu; it is open to group kvm until the end", flush=True)
            return mode, status.st_gid
    return None


def _close_kvm(before: tuple[int, int] | None) -> None:
    if before is not None:
        mode, group = before
        os.chown(KVM, -1, group)
        KVM.chmod(mode)


def _bring_up() -> None:
    if is_running():
        return
    if os.geteuid() != 0:
        raise LibvirtError(f"{URI} does not answer, and only root can start libvirtd")
    links = _list_links()
    kvm = _open_kvm()
    started: dict[str, int] = {}
    for program in ("virtlogd", "libvirtd"):
        if not _is_listening(program):
            started[program] = _start(program)
            RECORD.write_text(json.dumps({"started": started, "links": links, "kvm": kvm}))
    deadline = time.monotonic() + START_DEADLINE_S
    while not is_running():
        dead = [program for program, pid in started.items() if not _is_ours(pid, program)]
        if dead or time.monotonic() > deadline:
            _take_down()
            raise LibvirtError(f"{', '.join(dead) or 'libvirtd'} did not come up: see {LOGS}/vdsm-*.log")
        time.sleep(0.1)
    print(f"libvirt: started {', '.join(started)}", flush=True)


def _take_down() -> None:
    """Stop what the record names, in reverse order, and the networks that came with it."""
    if not RECORD.exists():
        return
    record = json.loads(RECORD.read_text())
    for network in _ask("net-list", "--name").split():
        described = dict(line.split(":", 1) for line in _ask("net-info", network).splitlines() if ":" in line)
        if described.get("Bridge", "").strip() not in ("", *record["links"]):
            _ask("net-destroy", network)
    for program, pid in reversed(record["started"].items()):
        stop(program, pid)
    _close_kvm(record["kvm"])
    RECORD.unlink(missing_ok=True)


def stop(program: str, pid: int) -> None:
    """End a process of an earlier run, if it is still that program."""
    deadline = time.monotonic() + STOP_DEADLINE_S
    if _is_ours(pid, program):
        os.kill(pid, signal.SIGTERM)
    while _is_ours(pid, program):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += STOP_DEADLINE_S
        time.sleep(0.05)


def disown() -> dict[str, int]:
    """Leave what was started here running for good; returns its process ids by program."""
    if not RECORD.exists():
        return {}
    started: dict[str, int] = json.loads(RECORD.read_text())["started"]
    RECORD.unlink()
    return started


@contextmanager
def running_libvirt() -> Iterator[None]:
    """libvirt answers within this block; the last of several users stops what they started. Raises LibvirtError."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / USERS).open("a") as users:
        with _gate():
            fcntl.flock(users, fcntl.LOCK_SH)
            _bring_up()
        try:
            yield
        finally:
            with _gate(), suppress(BlockingIOError):  # somebody else still needs it
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _take_down()


@contextmanager
def _gate() -> Iterator[None]:
    with (LOCKS / GATE).open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def end(number: int, frame: FrameType | None) -> None:
    """A signal handler that ends the program as Ctrl-C would, so that what was started is stopped."""
    raise SystemExit(128 + number)


def _run(command: list[str]) -> int:
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except (SystemExit, KeyboardInterrupt):
            process.terminate()
            raise


def main(arguments: list[str]) -> int:
    """Run the command after `--` with libvirt up."""
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: python -m demo.libvirtd -- COMMAND …", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, end)
    try:
        with running_libvirt():
            return _run(arguments[1:])
    except LibvirtError as error:
        print(f"libvirt: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
