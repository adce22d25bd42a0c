"""One call to another node, over a connection of its own; frames are left to `client_session`."""

import asyncio
import socket
from typing import Any

from vdsm.wire.client_session import Address, CallTimedOut, ConnectionFailed, Params, Session
from vdsm.wire.tls import make_client_context

_CHUNK = 1 << 16
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 4}
"""s, s and tries: a node that is gone is noticed while its answer is waited for."""


async def call_once(address: Address, method: str, params: Params, timeout_s: float) -> Any:
    """The result of one call. Raises CallFailed, CallTimedOut, ConnectionFailed."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _call(address, method, params)
    except TimeoutError as error:
        raise CallTimedOut(f"no answer to {method} from {address} within {timeout_s:g} s") from error
    except OSError as error:
        raise ConnectionFailed(f"cannot reach {address}: {error}") from error


async def _call(address: Address, method: str, params: Params) -> Any:
    context = None if address.tls is None else make_client_context(address.tls)
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname=None if context is None else ""
    )
    session = Session()
    try:
        _keep_alive(writer.get_extra_info("socket"))
        id, data = session.format_call(method, params)
        writer.write(session.get_greeting() + data)
        while id not in session.answers:
            if not (chunk := await reader.read(_CHUNK)):
                raise session.explain_end(address)
            session.feed(chunk)
        return session.get_result(id)
    finally:
        writer.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
