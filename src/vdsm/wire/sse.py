"""The event stream of REST: server-sent events that resume by number; what events are is left to the bus and its dialect."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from vdsm.api.events import Event
from vdsm.wire.bus import EventBus, Numbered, Reset, Subscription
from vdsm.wire.dialects.events import EventDialect
from vdsm.wire.rest import PREFIX

KEEP_ALIVE_S = 15.0
"""A comment goes out when nothing else did, so that both ends find out when the other is gone."""


def format_message(entry: Numbered[Event] | Reset) -> bytes:
    """One message of the stream; a reset tells the reader to look at everything anew."""
    if isinstance(entry, Reset):
        return f"id: {entry.id}\nevent: reset\ndata: {{}}\n\n".encode()
    name = EventDialect.get_name(entry.event)
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (entry.id.encode(), name.encode(), EventDialect.format_json(entry.event))


async def _stream(bus: EventBus[Event], last_id: str | None) -> AsyncIterator[bytes]:
    with bus.subscribe(last_id) as subscription:
        yield f": {bus.last_id}\n\n".encode()
        while True:
            batch = await _wait(subscription)
            if batch is None:
                yield b": still here\n\n"
            elif not batch:
                return
            else:
                yield b"".join(format_message(entry) for entry in batch)


async def _wait(subscription: Subscription[Event]) -> list[Numbered[Event] | Reset] | None:
    try:
        async with asyncio.timeout(KEEP_ALIVE_S):
            return await subscription.get_batch()
    except TimeoutError:
        return None


def make_stream_routes(bus: EventBus[Event]) -> list[Route]:
    """`GET /api/v1/events`; `Last-Event-ID` (header or query) resumes."""

    async def events(request: HttpRequest) -> Response:
        last_id = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
        return StreamingResponse(_stream(bus, last_id), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return [Route(f"{PREFIX}/events", events, methods=["GET"])]
