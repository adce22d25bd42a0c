"""The checker's process as `storage.ports.PathChecker`: started when a path is watched, and again when it dies or falls
silent; what it does is `storage.checker`."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from vdsm.adapters.run import end, start
from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError
from vdsm.storage.health.checker import MESSAGE_BYTES, Checked, Forget, Order, Watch, Word
from vdsm.storage.ports import PathCheck

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "vdsm.storage.health.checker")
SILENCE_INTERVALS = 3
"""Every watched path has a word at every tick, well or not; a checker without a word for so many is replaced."""
PAUSE_S = 1.0
"""Between the end of one process and the start of the next."""


class CheckerProcess:
    """Watches paths by a process of its own while `run` runs; for the main thread's loop."""

    def __init__(
        self, interval_s: float, clock: Clock, command: Sequence[str] = COMMAND, silence_s: float | None = None
    ) -> None:
        self._interval_s = interval_s
        self._silence_s = SILENCE_INTERVALS * interval_s if silence_s is None else silence_s
        self._clock = clock
        self._command = command
        self._tells: dict[bytes, Callable[[PathCheck], None]] = {}
        self._news = asyncio.Event()
        self._channel: socket.socket | None = None
        self._decoder = msgspec.msgpack.Decoder(Word)
        self.process_id: int | None = None
        """Of the process that runs now."""

    def watch(self, path: Path, tell: Callable[[PathCheck], None]) -> None:
        key = os.fsencode(path)
        self._tells[key] = tell
        self._send(Watch(key, self._interval_s))
        self._news.set()

    def forget(self, path: Path) -> None:
        key = os.fsencode(path)
        if self._tells.pop(key, None) is not None:
            self._send(Forget(key))

    async def run(self) -> None:
        """Keep a process while there are paths, until cancelled."""
        while True:
            self._news.clear()
            if not self._tells:
                await self._news.wait()
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with ours, theirs:
                    await self._keep(ours, theirs)
            except (NodeError, OSError, msgspec.MsgspecError) as error:
                log.error("the checker of storage domains cannot be used: %s", error)
            await self._clock.sleep(PAUSE_S)

    async def _keep(self, ours: socket.socket, theirs: socket.socket) -> None:
        process = await start(self._command, theirs)
        theirs.close()  # only the process holds it now: when that ends, so does the channel
        ours.setblocking(False)
        self._channel, self.process_id = ours, process.pid
        try:
            for key in self._tells:
                self._send(Watch(key, self._interval_s))
            await self._listen(ours)
        finally:
            self._channel = self.process_id = None
            await end(process)

    async def _listen(self, channel: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    data = await loop.sock_recv(channel, MESSAGE_BYTES)
            except TimeoutError:
                if self._tells:
                    log.error("the checker of storage domains (process %s) is silent and is replaced", self.process_id)
                return
            except ConnectionError:
                data = b""
            if not data:
                log.error("the checker of storage domains (process %s) ended", self.process_id)
                return
            self._hear(self._decoder.decode(data))

    def _hear(self, word: Word) -> None:
        tell = self._tells.get(word.path)
        if tell is None:
            return  # forgotten meanwhile
        if isinstance(word, Checked):
            tell(PathCheck(word.delay_s, word.failure))
        else:
            tell(PathCheck(is_late=True))

    def _send(self, order: Order) -> None:
        # One that does not read its orders is silent soon, and its successor is told everything.
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(msgspec.msgpack.encode(order))
