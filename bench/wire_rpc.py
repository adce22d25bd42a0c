"""JSON-RPC calls a second over one connection, client included; judging the figures is left to `__main__`."""

import asyncio
import time

from bench.async_client import connect_async
from vdsm.wire.client import Address, connect


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
