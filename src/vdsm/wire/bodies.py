"""Bounds on what HTTP requests carry: bytes, values, who sends them; what bodies mean is left to the dialects."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.requests import Request as HttpRequest

from vdsm.core.errors import ResourceExhausted
from vdsm.wire.errors import BodyTooLarge, ForeignOrigin
from vdsm.wire.ports import MIB, Limits

MAX_XML_BYTES = MIB
"""The largest call of 2011: its parser is slow, and its largest body, a VM with all its devices, a tenth of that."""
MAX_VALUES = 100_000
"""A body of many small values costs many times its size in memory, and seconds of the loop."""
_COUNTED_FROM_BYTES = 2 * MAX_VALUES


def holds_too_many(text: bytes | memoryview) -> bool:
    """Whether a JSON text may hold more than MAX_VALUES values; brackets and commas in strings count as well."""
    if len(text) < _COUNTED_FROM_BYTES:
        return False
    return sum(map(bytes(text).count, (b",", b"[", b"{"))) > MAX_VALUES


class Bodies:
    """Reads bodies of all HTTP clients; together they never take more than `call_bytes_in_flight`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0

    @asynccontextmanager
    async def reading(self, request: HttpRequest, most: int | None = None) -> AsyncIterator[bytes]:
        """The whole body, which counts as in flight until the block ends. Raises BodyTooLarge, ResourceExhausted."""
        most = self._limits.frame_bytes if most is None else most
        size = 0
        try:
            parts = []
            async for part in request.stream():
                size += len(part)
                self._bytes += len(part)
                if size > most:
                    raise BodyTooLarge(most)
                if self._bytes > self._limits.call_bytes_in_flight:
                    raise ResourceExhausted("request bodies")
                parts.append(part)
            yield b"".join(parts)
        finally:
            self._bytes -= size


def check_origin(request: HttpRequest) -> None:
    """Refuse what a page of another site has a browser send, which would show its user's certificate for it.

    Raises ForeignOrigin. Programs send neither of these headers.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (origin and urlsplit(origin).netloc != request.headers.get("host")):
        raise ForeignOrigin(origin or site)
