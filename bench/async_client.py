"""A client with an event loop, for measurements and tests: any number of calls at once over one connection.

Frames are left to `vdsm.wire.client_session`; programs use `vdsm.client`.
"""

import asyncio
from typing import Any, Self

from vdsm.wire.client_session import Address, CallTimedOut, ConnectionFailed, Notice, Params, Session
from vdsm.wire.ports import EVENTS
from vdsm.wire.stomp import format_frame
from vdsm.wire.tls import make_client_context

TIMEOUT_S = 60.0


async def connect_async(address: Address, timeout_s: float = TIMEOUT_S) -> "AsyncClient":
    """A connected client; `timeout_s` bounds connecting, and calls that say nothing else. Raises ConnectionFailed."""
    loop = asyncio.get_running_loop()
    client = AsyncClient(address, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            if address.socket_path is not None:
                await loop.create_unix_connection(lambda: client, str(address.socket_path))
            else:
                context = None if address.tls is None else make_client_context(address.tls)
                name = None if context is None else ""
                await loop.create_connection(
                    lambda: client, address.host, address.port, ssl=context, server_hostname=name
                )
    except (OSError, TimeoutError) as error:
        raise ConnectionFailed(f"cannot connect to {address}: {error or 'timed out'}") from error
    return client


class AsyncClient(asyncio.Protocol):
    """One connection; `call` may be awaited by many at once."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._session = Session()
        self._calls: dict[str, asyncio.Future[None]] = {}
        self._lost: ConnectionFailed | None = None
        self._ended = asyncio.Event()
        self._news = asyncio.Event()
        self._output: list[bytes] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(
        self, method: str, params: Params | None = None, timeout_s: float | None = None, flow_id: str = ""
    ) -> Any:
        """Do one call and give its result. Raises CallFailed, CallTimedOut, ConnectionFailed."""
        if self._lost is not None:
            raise self._lost
        loop = asyncio.get_running_loop()
        id, data = self._session.format_call(method, params, flow_id)
        future = self._calls[id] = loop.create_future()
        timer = loop.call_later(self.timeout_s if timeout_s is None else timeout_s, self._on_timeout, future, method)
        self._write(data)
        try:
            await future
            return self._session.get_result(id)
        finally:
            timer.cancel()
            self._calls.pop(id, None)
            self._session.forget(id)

    def subscribe(self, destination: str = EVENTS) -> str:
        """Have events delivered from now on; see `get_event`. Gives the subscription's id."""
        id, data = self._session.format_subscription(destination)
        self._write(data)
        return id

    def publish(self, destination: str, body: bytes) -> None:
        """Send a JSON body to all who listen to destination."""
        self._write(format_frame("SEND", (("destination", destination), ("content-type", "application/json")), body))

    async def get_event(self) -> Notice:
        """The next event. Raises ConnectionFailed."""
        while not self._session.notices:
            if self._lost is not None:
                raise self._lost
            self._news.clear()
            await self._news.wait()
        return self._session.notices.popleft()

    async def close(self) -> None:
        """End the connection; calls that wait fail."""
        self._lost = self._lost or ConnectionFailed("the client was closed")
        self._transport.close()
        await self._ended.wait()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._session.get_greeting())

    def connection_lost(self, error: Exception | None) -> None:
        if self._lost is None:
            self._lost = self._session.explain_end(self.address)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(self._lost)
        self._news.set()
        self._ended.set()

    def data_received(self, data: bytes) -> None:
        try:
            answered = self._session.feed(data)
        except ConnectionFailed as error:
            self._lost = error
            self._transport.abort()
            return
        for id in answered:
            future = self._calls.get(id)
            if future is not None and not future.done():
                future.set_result(None)
        if self._session.notices:
            self._news.set()

    def _write(self, data: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        if not self._output:
            asyncio.get_running_loop().call_soon(self._flush)
        self._output.append(data)

    def _flush(self) -> None:
        data = b"".join(self._output)
        self._output.clear()
        self._transport.write(data)

    def _on_timeout(self, future: "asyncio.Future[None]", method: str) -> None:
        if not future.done():
            future.set_exception(CallTimedOut(f"no answer to {method} from {self.address} in time"))
