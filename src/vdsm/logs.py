"""How the daemon logs: lines as in facts §8.1 (rpc), secrets masked, written beside the loop; where is a setting."""

import copy
import logging
import logging.handlers
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from vdsm.core.context import current_request
from vdsm.core.errors import InvalidArgument, shorten
from vdsm.core.masking import mask

LEVELS = logging.getLevelNamesMapping() | {"CRIT": logging.CRITICAL}
_SHORT = {"WARNING": "WARN", "CRITICAL": "CRIT"}
_DROP_FROM = ((0.9, logging.ERROR), (0.8, logging.WARNING), (0.7, logging.INFO), (0.6, logging.DEBUG))
"""When the queue is fuller than so much, records of that level and below are dropped (facts §8.1)."""
_REPORT_EVERY_S = 60.0
_LONGEST_CHARACTERS = 20_000
"""Of one record: messages repeat what callers sent, and thousands of them may wait."""


_Records = queue.SimpleQueue[logging.LogRecord | None]
_CLOSE_S = 2.0
"""How long the end of the process waits for a slow disk."""


class LineFormatter(logging.Formatter):
    """`time level (thread) [logger] message (module:line)`, and the flow id of the request that is worked for."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(short)-5s (%(threadName)s) [%(name)s] %(told)s (%(module)s:%(lineno)d)")

    def format(self, record: logging.LogRecord) -> str:
        record.short = _SHORT.get(record.levelname, record.levelname)
        flow_id = getattr(record, "flow_id", "")
        # One record is one line unless it carries a traceback: nobody can write lines of his own into the log.
        told = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        record.told = f"{told} flow_id={flow_id}" if flow_id else told
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = time.localtime(record.created)
        zone = time.strftime("%z", moment)
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', moment)},{int(record.msecs):03d}{zone}"


class LoopSafeHandler(logging.Handler):
    """Hands records to a thread through a bounded queue: a slow disk delays the log, never the one who logs.

    What depends on the caller is settled at once: the flow id, secrets, and the text of a traceback.
    """

    def __init__(self, records: _Records, capacity: int) -> None:
        super().__init__()
        self._records = records
        self._capacity = capacity
        self.dropped_count = 0

    def emit(self, record: logging.LogRecord) -> None:
        filled = self._records.qsize() / self._capacity
        if filled >= 1 or any(filled >= share and record.levelno <= level for share, level in _DROP_FROM):
            self.dropped_count += 1
            return
        try:
            self._records.put(_settle(record))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            self.handleError(record)  # a message that does not fit its arguments


def _settle(original: logging.LogRecord) -> logging.LogRecord:
    record = copy.copy(original)
    record.flow_id = current_request().flow_id.replace("\r", " ").replace("\n", " ")
    if isinstance(record.args, tuple):
        record.args = tuple(mask(argument) for argument in record.args)
    elif record.args:
        masked = mask(record.args)
        record.args = masked if isinstance(masked, dict) else None
    if not isinstance(record.msg, str):
        record.msg = mask(record.msg)
    record.msg = shorten(record.getMessage(), _LONGEST_CHARACTERS)
    record.args = None
    if record.exc_info:
        record.exc_text = shorten(logging.Formatter().formatException(record.exc_info), _LONGEST_CHARACTERS)
        record.exc_info = None
    return record


class LogOutput:
    """The open log. `close` writes what waits, unless the disk hangs, and restores how logging was before."""

    def __init__(self, output: logging.Handler, queue_records: int) -> None:
        output.setFormatter(LineFormatter())
        self._records: _Records = queue.SimpleQueue()
        self._handler = LoopSafeHandler(self._records, queue_records)
        self._output = output
        output.addFilter(_DropReporter(self._handler))
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        root = logging.getLogger()
        self._before = (root.handlers[:], root.level)
        root.handlers[:] = [self._handler]
        self._writer.start()

    @property
    def dropped_count(self) -> int:
        """Records that were dropped because the log was too slow."""
        return self._handler.dropped_count

    def close(self) -> None:
        root = logging.getLogger()
        root.handlers[:], level = self._before
        root.setLevel(level)
        self._records.put(None)
        self._writer.join(_CLOSE_S)
        if not self._writer.is_alive():
            self._output.close()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            self._output.handle(record)


class _DropReporter(logging.Filter):
    """Adds to the line at hand, once a minute at most, how many were dropped before it."""

    def __init__(self, handler: LoopSafeHandler) -> None:
        super().__init__()
        self._handler = handler
        self._reported_count = 0
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        dropped_count = self._handler.dropped_count - self._reported_count
        if dropped_count and record.created >= self._next_s:
            record.msg = f"{record.msg} [{dropped_count} log lines were dropped before this one]"
            self._reported_count += dropped_count
            self._next_s = record.created + _REPORT_EVERY_S
        return True


def open_logs(
    *,
    file: Path | None = None,
    level: str = "INFO",
    levels: Iterable[str] = (),
    queue_records: int = 2000,
    stream: TextIO | None = None,
) -> LogOutput:
    """Begin to log to the file (0644, opened anew when it was rotated away) or to the stream, stderr by default.

    `levels` are `logger=LEVEL` for single loggers. Raises InvalidArgument for a level that is none, OSError for a file
    that cannot be written.
    """
    named = {"": _parse_level(level)}
    for text in levels:
        name, _, word = text.partition("=")
        named[name.strip()] = _parse_level(word.strip().upper())
    output: logging.Handler = logging.StreamHandler(stream or sys.stderr)
    if file is not None:
        output = _WatchedFile(file, encoding="utf-8", errors="backslashreplace")
    opened = LogOutput(output, queue_records)
    for name, number in named.items():
        logging.getLogger(name or None).setLevel(number)
    return opened


def _parse_level(text: str) -> int:
    if text not in LEVELS:
        raise InvalidArgument("level", f"expected one of {', '.join(LEVELS)}, got {text!r}")
    return LEVELS[text]


class _WatchedFile(logging.handlers.WatchedFileHandler):
    """Each file that it begins is readable for all and writable for its owner, whatever the umask."""

    def _open(self) -> TextIOWrapper:
        opened = super()._open()
        with suppress(PermissionError):  # another's file that may be written: its mode is the owner's affair
            os.fchmod(opened.fileno(), 0o644)
        return opened
