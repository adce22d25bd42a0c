"""JSON-RPC calls a second over one connection, client included: `measure` gives the figures, nothing is judged here."""

import asyncio
import multiprocessing
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec import Raw

from bench.async_client import connect_async
from vdsm.core.context import Request
from vdsm.wire.client import Address, connect
from vdsm.wire.jsonrpc import JsonRpc
from vdsm.wire.listener import Doors
from vdsm.wire.ports import Limits
from vdsm.wire.tls import ServerContexts, TlsFiles


async def _invoke(_method: str, _params: Raw, _request: Request) -> bytes:
    return b"true"


async def _serve(pipe: Connection, tls: TlsFiles | None) -> None:
    limits = Limits()

    async def app(_scope: object, _receive: object, _send: object) -> None:
        raise AssertionError("nobody calls this")

    doors = Doors(JsonRpc(_invoke, limits), app, limits, ServerContexts(tls) if tls else None)
    pipe.send(await doors.open_tcp("127.0.0.1", 0, tls=tls is not None))
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    await doors.close()


def _run_server(pipe: Connection, tls: TlsFiles | None) -> None:
    asyncio.run(_serve(pipe, tls))


def measure_sequential(address: Address, seconds: float, method: str = "Host.ping2") -> float:
    """Calls a second, one by one, with the client that has no loop."""
    with connect(address) as client:
        client.call(method)
        start = time.perf_counter()
        calls = 0
        while time.perf_counter() - start < seconds:
            for _ in range(100):
                client.call(method)
            calls += 100
        return calls / (time.perf_counter() - start)


async def measure_concurrent(
    address: Address, seconds: float, in_flight: int = 32, method: str = "Host.ping2"
) -> float:
    """Calls a second with so many in flight on one connection."""
    calls = 0
    async with await connect_async(address) as client:
        start = time.perf_counter()

        async def keep_calling() -> None:
            nonlocal calls
            while time.perf_counter() - start < seconds:
                await client.call(method)
                calls += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(keep_calling())
        return calls / (time.perf_counter() - start)


def measure(seconds: float = 2.0, pki: Path | None = None) -> Mapping[str, float]:
    """Figures in calls a second against a server in a process of its own; with TLS when `pki` names a folder of it."""
    figures: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    for name, tls in (("plain", None), ("tls", TlsFiles.below(pki) if pki else None)):
        if name == "tls" and tls is None:
            continue
        ours, theirs = context.Pipe()
        server = context.Process(target=_run_server, args=(theirs, tls))
        server.start()
        try:
            address = Address("127.0.0.1", ours.recv(), tls)
            figures[f"{name}_sequential"] = round(measure_sequential(address, seconds))
            figures[f"{name}_32_in_flight"] = round(asyncio.run(measure_concurrent(address, seconds)))
        finally:
            ours.send(None)
            server.join(10)
    return figures


if __name__ == "__main__":
    print(measure())
