"""Channels of memory: what a VM's inside says and hears; fits `virt.ports.Channels`."""

import asyncio
import json

CHUNK = 1 << 16


class GuestEnd:
    """The inside of one VM. `heard` is all that it was told; it hangs up with `hang_up`."""

    def __init__(self) -> None:
        self.heard: list[dict[str, object]] = []
        self.listens = True
        self.unread = bytearray()
        self.connections = 0
        self._news = asyncio.Event()
        self._hung_up = False

    def say(self, name: str, /, **arguments: object) -> None:
        """Send a message."""
        self.babble(json.dumps({"__name__": name, **arguments}).encode() + b"\n")

    def babble(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.unread += data
        self._news.set()

    def hang_up(self) -> None:
        """End the connection that is."""
        self._hung_up = True
        self._news.set()

    async def read(self) -> bytes:
        while not self.unread:
            if self._hung_up:
                self._hung_up = False
                return b""
            self._news.clear()
            await self._news.wait()
        data = bytes(self.unread[:CHUNK])
        del self.unread[:CHUNK]
        return data

    def send(self, data: bytes) -> bool:
        if self.listens:
            self.heard.append(json.loads(data))
        return self.listens

    def close(self) -> None:
        pass


class FakeChannels:
    """Ends by path; where there is none, nobody can connect."""

    def __init__(self) -> None:
        self.ends: dict[str, GuestEnd] = {}
        self.tries = 0

    async def connect(self, path: str) -> GuestEnd:
        self.tries += 1
        if path not in self.ends:
            raise FileNotFoundError(path)
        self.ends[path].connections += 1
        return self.ends[path]
