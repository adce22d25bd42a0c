"""STOMP heart-beats of one connection (facts: rpc §1.3): when to send one, when to give the other side up; I/O is left
to the connection."""

from asyncio import AbstractEventLoop
from collections.abc import Callable

LONGEST_MS = 24 * 3600 * 1000


def parse_heartbeat(text: str, shortest_ms: int) -> tuple[int, int]:
    """The two periods of a `heart-beat` header in ms, (0, 0) when it makes no sense; 0 or at least shortest_ms."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in parts):
        return 0, 0
    first, second = (min(max(int(part), shortest_ms), LONGEST_MS) if int(part) else 0 for part in parts)
    return first, second


class HeartBeat:
    """Calls `beat` after send_ms without a `wrote`, `lost` after receive_ms without a `heard`; 0 turns either off."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        send_ms: float,
        receive_ms: float,
        beat: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._send_s = send_ms / 1000
        self._receive_s = receive_ms / 1000
        self._beat = beat
        self._lost = lost
        self._wrote_at = self._heard_at = now = loop.time()
        self._send_timer = loop.call_at(now + self._send_s, self._on_send) if send_ms else None
        self._receive_timer = loop.call_at(now + self._receive_s, self._on_receive) if receive_ms else None

    def wrote(self) -> None:
        """Something was written: the next beat is a period away."""
        self._wrote_at = self._loop.time()

    def heard(self) -> None:
        """Something arrived: the other side lives."""
        self._heard_at = self._loop.time()

    def stop(self) -> None:
        """Neither beat nor judge any more."""
        for timer in (self._send_timer, self._receive_timer):
            if timer is not None:
                timer.cancel()
        self._send_timer = self._receive_timer = None

    def _on_send(self) -> None:
        if self._loop.time() >= self._wrote_at + self._send_s:
            self._beat()
            self.wrote()
        if self._send_timer is not None:
            self._send_timer = self._loop.call_at(self._wrote_at + self._send_s, self._on_send)

    def _on_receive(self) -> None:
        if self._loop.time() >= self._heard_at + self._receive_s:
            self.stop()
            self._lost()
        elif self._receive_timer is not None:
            self._receive_timer = self._loop.call_at(self._heard_at + self._receive_s, self._on_receive)
