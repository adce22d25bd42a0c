"""Images served by qemu-nbd, by processes of their own that go on beside the daemon and after it."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from vdsm.adapters.qemuimg import format_chain
from vdsm.adapters.run import CommandFailed, run
from vdsm.storage.ports import NbdExport, QemuImgFailed

_START_S = 10.0
_STOP_S = 5.0
_OPTIONS = ("--persistent", "--shared=8", "--export-name=", "--cache=none", "--aio=native")
SOCKET_MODE = 0o660


class QemuNbd:
    """`storage.ports.NbdServers`: a server is a process that wrote its id beside its socket."""

    def start(self, socket: Path, export: NbdExport) -> None:
        argv: list[str | Path] = ["qemu-nbd", "--fork", f"--pid-file={_name_file(socket)}", "--socket", socket]
        argv += [*_OPTIONS, *([] if export.layers[0].format == "raw" else ["--allocation-depth"])]
        argv += ["--read-only"] if export.read_only else []
        argv += ["--discard=unmap"] if export.discard else []
        argv += [f"--detect-zeroes={'unmap' if export.discard else 'on'}"] if export.detect_zeroes else []
        argv += [f"--bitmap={export.bitmap}"] if export.bitmap else []
        try:
            socket.parent.mkdir(parents=True, exist_ok=True)
            run([*argv, format_chain(export.layers)], timeout_s=_START_S)  # what it forks lives on
            socket.chmod(SOCKET_MODE)
        except (CommandFailed, OSError) as error:
            self.stop(socket)
            raise QemuImgFailed(str(error)) from error

    def is_running(self, socket: Path) -> bool:
        with _open_process(socket) as process:
            return process is not None

    def stop(self, socket: Path) -> None:
        with _open_process(socket) as process:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process is not None and not select.select([process], [], [], 0)[0]:
                    signal.pidfd_send_signal(process, number)
                    select.select([process], [], [], _STOP_S)
        for path in (socket, _name_file(socket)):
            path.unlink(missing_ok=True)


def _name_file(socket: Path) -> Path:
    return socket.with_suffix(".pid")


@contextlib.contextmanager
def _open_process(socket: Path) -> Iterator[int | None]:
    """The server's process, held so that nobody else gets its number; None when there is none any more."""
    descriptor = None
    with contextlib.suppress(OSError, ValueError):
        number = int(_name_file(socket).read_text("ascii"))
        descriptor = os.pidfd_open(number)
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(socket) not in words:  # the number is another's by now
            os.close(descriptor)
            descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
