"""The port `virt.ports.Channels` on unix sockets; what travels there is virt's affair."""

import asyncio
from contextlib import suppress

CHUNK = 1 << 16


class UnixChannels:
    """qemu's sockets."""

    async def connect(self, path: str) -> "UnixChannel":
        """Raises OSError; also for a path that no socket can have."""
        try:
            return UnixChannel(*await asyncio.open_unix_connection(path, limit=CHUNK // 2))
        except ValueError as error:
            raise OSError(str(error)) from error


class UnixChannel:
    """One connection. The stream stops reading when 64 KiB are unread, and qemu then stops its guest's writing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(CHUNK)

    def send(self, data: bytes) -> bool:
        waiting = self._writer.transport.get_write_buffer_size()
        if self._writer.is_closing() or waiting + len(data) > CHUNK:
            return False
        self._writer.write(data)
        return True

    def close(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing is left to close
            self._writer.transport.abort()
