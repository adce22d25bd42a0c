"""The files of the mailbox, read and written past all caches (facts: storage §7.3); blocking."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from vdsm.storage.errors import MiscFileReadException, MiscFileWriteException, io_failing_as
from vdsm.storage.mail.mailbox import MAILBOX_BYTES


class MailFiles(Struct, frozen=True):
    """Inbox and outbox of one master domain, named from the SPM's side. Calls raise 2001, 2002 and 384."""

    folder: Path

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox"


def read_mailboxes(path: Path, first: int, count: int = 1) -> bytes:
    """So many mailboxes from that one on; what the file does not have is missing from the end."""
    with io_failing_as(lambda reason: MiscFileReadException(str(path), reason)), _opened(path, os.O_RDONLY) as file:
        with mmap.mmap(-1, count * MAILBOX_BYTES) as aligned:
            length = os.preadv(file, [aligned], first * MAILBOX_BYTES)
            return aligned[:length]


def write_mailboxes(path: Path, first: int, data: bytes) -> None:
    """Overwrite whole mailboxes from that one on."""
    with io_failing_as(lambda reason: MiscFileWriteException(str(path), reason)), _opened(path, os.O_WRONLY) as file:
        with mmap.mmap(-1, len(data)) as aligned:
            aligned[:] = data
            written = os.pwritev(file, [aligned], first * MAILBOX_BYTES)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes were written")


@contextmanager
def _opened(path: Path, mode: int) -> Iterator[int]:
    descriptor = os.open(path, mode | os.O_DIRECT | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
