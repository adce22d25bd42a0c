"""STOMP 1.2 frames, read from and written to bytes (facts: rpc §1.3); what they mean is left to server and client."""

import re
from collections.abc import Iterable

import msgspec

from vdsm.wire.ports import Limits


class FrameError(ValueError):
    """The bytes are no STOMP frame, or exceed a limit; what follows them cannot be trusted."""


class Frame(msgspec.Struct, frozen=True):
    """One frame: headers are unescaped, the first of a repeated name wins."""

    command: str
    headers: dict[str, str] = {}
    body: bytes = b""


_blank = re.compile(rb"[\r\n]*")
_escape_sequence = re.compile(r"\\(.?)", re.DOTALL)
_unescaped = {"\\": "\\", "r": "\r", "n": "\n", "c": ":"}
_escapes = str.maketrans({"\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c"})
_special = re.compile(r"[\\\r\n:]")
_verbatim = frozenset(("CONNECT", "STOMP"))
"""Frames whose values older clients do not escape (an IPv6 address in `host`, say)."""


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        try:
            return _unescaped[match[1]]
        except KeyError:
            raise FrameError(f"illegal escape {match[0]!r} in a header") from None

    return _escape_sequence.sub(replace, text)


def _escape(text: str) -> str:
    return text.translate(_escapes) if _special.search(text) else text


def format_frame(command: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> bytes:
    """The bytes of a frame, with `content-length` when there is a body (a header of that name is not to be given)."""
    lines = [command]
    lines += [f"{_escape(name)}:{_escape(value)}" for name, value in headers]
    if body:
        lines.append(f"content-length:{len(body)}")
    return b"%b\n\n%b\0" % ("\n".join(lines).encode(), body)


def _parse_head(head: bytes) -> Frame:
    try:
        lines = head.decode().split("\n")
    except UnicodeDecodeError:
        raise FrameError("headers are not UTF-8") from None
    if b"\r" in head:
        lines = [line.removesuffix("\r") for line in lines]
    command = lines[0]
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise FrameError("a header line without a name or a colon")
        if command not in _verbatim:
            if ":" in value:
                raise FrameError(f"an unescaped colon in the value of header {name[:100]!r}")
            if "\\" in line:
                name, value = _unescape(name), _unescape(value)
        headers.setdefault(name, value)
    return Frame(command, headers)


def _parse_length(text: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        raise FrameError("content-length is not a number")
    length = int(text)
    if length > limit:
        raise FrameError(f"a body of {length} bytes exceeds the limit of {limit}")
    return length


class FrameReader:
    """Frames out of a byte stream that arrives in pieces of any size.

    `feed` takes bytes, `get_frame` gives the next complete frame or None. Memory is bounded by the limits of a frame
    plus what one `feed` brought. After a FrameError the reader only repeats it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._start = 0  # of the frame that is being read
        self._searched = 0  # from _start on, bytes that need no second look
        self._head: Frame | None = None
        self._body_at = 0  # from _start on
        self._length = -1
        self._broken: str | None = None

    @property
    def unread_bytes(self) -> int:
        """What was fed and not yet given out as frames."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Append what arrived."""
        self._drop_read()
        self._buffer += data

    def get_frame(self) -> Frame | None:
        """The next frame, or None until more is fed. Raises FrameError."""
        if self._broken is not None:
            raise FrameError(self._broken)
        try:
            frame = self._get_frame()
        except FrameError as error:
            self._broken = str(error)
            self._buffer.clear()
            self._start = 0
            raise
        if frame is None:
            self._drop_read()  # nobody knows when more comes: an idle connection keeps nothing of its last frame
        return frame

    def _drop_read(self) -> None:
        if self._start:
            del self._buffer[: self._start]
            self._start = 0

    def _get_frame(self) -> Frame | None:
        head = self._head
        if head is None:
            head = self._get_head()
            if head is None:
                return None
            length = head.headers.get("content-length")
            self._length = -1 if length is None else _parse_length(length, self._limits.frame_bytes)
            self._head = head
        body_at = self._start + self._body_at
        end = self._find_body_end(body_at)
        if end < 0:
            return None
        self._head = None
        self._start = end + 1
        self._searched = 0
        if end > body_at:
            return Frame(head.command, head.headers, bytes(self._buffer[body_at:end]))
        return head

    def _get_head(self) -> Frame | None:
        buffer = self._buffer
        if not self._searched:
            self._start = start = _blank.match(buffer, self._start).end()  # type: ignore[union-attr]
        else:
            start = self._start
        if start == len(buffer):
            return None
        search_from = start + max(0, self._searched - 2)
        search_to = start + self._limits.header_bytes
        end = buffer.find(b"\n\n", search_from, search_to)
        crlf = buffer.find(b"\n\r\n", search_from, search_to if end < 0 else end + 1)
        skip = 2
        if crlf >= 0:
            end, skip = crlf, 3
        if buffer.find(0, search_from, search_to if end < 0 else end) >= 0:
            raise FrameError("a frame ends within its headers")
        if end < 0:
            if len(buffer) >= search_to:
                raise FrameError(f"headers exceed the limit of {self._limits.header_bytes} bytes")
            self._searched = len(buffer) - start
            return None
        self._body_at = end + skip - start
        self._searched = self._body_at
        return _parse_head(bytes(buffer[start:end]))

    def _find_body_end(self, body_at: int) -> int:
        buffer = self._buffer
        if self._length >= 0:
            end = body_at + self._length
            if end >= len(buffer):
                return -1
            if buffer[end]:
                raise FrameError("a body is not followed by NUL")
            return end
        limit = body_at + self._limits.frame_bytes
        end = buffer.find(0, self._start + self._searched, limit + 1)
        if end < 0:
            if len(buffer) > limit:
                raise FrameError(f"a body exceeds the limit of {self._limits.frame_bytes} bytes")
            self._searched = len(buffer) - self._start
        return end
