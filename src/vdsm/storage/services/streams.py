"""Answers the image endpoint, and the verbs that bring images in and out over HTTP (facts: storage §9.9)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from msgspec import UNSET

from vdsm.api.streams import ImagePlace
from vdsm.api.transfers import HttpPlace
from vdsm.core.errors import NodeError
from vdsm.core.undo import Undo
from vdsm.storage.errors import CopyImageError, InvalidParameterException
from vdsm.storage.lanes import Lanes
from vdsm.storage.model import VolumeRef
from vdsm.storage.ports import RemotePlace, Rollbacks, Watch
from vdsm.storage.repository import Repository
from vdsm.storage.services.ports import LongWork

T = TypeVar("T")

_PIECE_BYTES = 1 << 18
_NOTICE_S = 0.2  # how late a thread that waits for the other end notices that it is to stop


class StreamService:
    """Implements `api.streams.ImageStreams` and `api.transfers.TransferApi`.

    A task's thread and the loop hold the ends of a pair of sockets: as much as these take waits between them.
    """

    def __init__(self, repository: Repository, lanes: Lanes, work: LongWork) -> None:
        self._repository = repository
        self._streams = repository.streams
        self._lanes = lanes
        self._work = work
        self._ends: set[asyncio.Future[object]] = set()

    async def read(self, place: ImagePlace, size_bytes: int) -> tuple[str, AsyncGenerator[bytes, None]]:
        source = await self._find(place)
        size = self._repository.volumes.get_size
        ids = (source.domain_id, source.image_id, source.volume_id)
        there = await self._lanes.run(source.domain_id, size, *ids)
        if size_bytes > there.apparent_bytes:
            raise InvalidParameterException("range", f"{size_bytes} of {there.apparent_bytes} bytes")

        def work(channel: socket.socket, _rollbacks: Rollbacks, watch: Watch) -> None:
            def write(data: bytes) -> None:
                left = memoryview(data)
                while left:
                    left = left[_patiently(partial(channel.send, left), source, watch) :]

            self._streams.send(source, size_bytes, write, watch)

        task_id, channel, _ = await self._start("uploadImageToStream", source, work)
        return task_id, _drain(channel)

    async def write(self, place: ImagePlace, size_bytes: int, pieces: AsyncIterator[bytes]) -> str:
        target = await self._find(place)

        def work(channel: socket.socket, rollbacks: Rollbacks, watch: Watch) -> None:
            def fill(write: Callable[[bytes], None]) -> None:
                while data := _patiently(partial(channel.recv, _PIECE_BYTES), target, watch):
                    write(data)

            self._streams.receive(place.pool_id, target, size_bytes, rollbacks, watch, fill)

        task_id, channel, ended = await self._start("downloadImageFromStream", target, work)
        with channel:
            async for piece in pieces:
                with contextlib.suppress(ConnectionError):  # the task has ended: what still comes is not wanted
                    await asyncio.get_running_loop().sock_sendall(channel, piece)
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_WR)
            await asyncio.wait([ended])
        return task_id

    async def upload(
        self, place: HttpPlace, pool_id: str, domain_id: str, image_id: str, volume_id: str | None = None
    ) -> str:
        source = await self._find(ImagePlace(pool_id, domain_id, image_id, volume_id))
        upload = partial(self._streams.upload, source, _read_place(place))
        return await self._work.start_persistent("uploadImage", domain_id, lambda _, watch: upload(watch))

    async def download(
        self, place: HttpPlace, pool_id: str, domain_id: str, image_id: str, volume_id: str | None = None
    ) -> str:
        target = await self._find(ImagePlace(pool_id, domain_id, image_id, volume_id))
        download = partial(self._streams.download, pool_id, target, _read_place(place))
        return await self._work.start_persistent("downloadImage", domain_id, download)

    async def _find(self, place: ImagePlace) -> VolumeRef:
        ids = (place.pool_id, place.domain_id, place.image_id, place.volume_id)
        return await self._lanes.run(place.domain_id, self._streams.find, *ids)

    async def _start(
        self, name: str, volume: VolumeRef, work: Callable[[socket.socket, Rollbacks, Watch], None]
    ) -> tuple[str, socket.socket, asyncio.Future[object]]:
        """Start a task with one end of a new pair; the other is returned, and hears its end when the task has ended."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(_NOTICE_S)
        with Undo() as undo:
            undo.push(ours.close)
            undo.push(theirs.close)
            task_id = await self._work.start_persistent(name, volume.domain_id, partial(work, theirs))
            undo.forget()
        ended: asyncio.Future[object] = asyncio.ensure_future(self._wait(task_id))
        self._ends.add(ended)
        ended.add_done_callback(lambda _: theirs.close())
        ended.add_done_callback(self._ends.discard)
        return task_id, ours, ended

    async def _wait(self, task_id: str) -> object:
        with contextlib.suppress(NodeError):  # the SPM stopped
            await self._work.wait(task_id)
        return None


def _read_place(place: HttpPlace) -> RemotePlace:
    return RemotePlace(place.url, {} if place.headers is UNSET else place.headers)


async def _drain(channel: socket.socket) -> AsyncGenerator[bytes, None]:
    with channel, contextlib.suppress(ConnectionError):
        while piece := await asyncio.get_running_loop().sock_recv(channel, _PIECE_BYTES):
            yield piece


def _patiently(call: Callable[[], T], volume: VolumeRef, watch: Watch) -> T:
    while not watch.stopping.is_set():
        with contextlib.suppress(TimeoutError):
            return call()
    raise CopyImageError(volume.volume_id, "stopped")
