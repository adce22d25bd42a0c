"""The event stream of REST: server-sent events that resume by number; what events are is left to the bus."""

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
KEEP_ALIVE = b": still here\n\n"


def format_reset(reset: Reset) -> bytes:
    """The message that tells the reader to look at everything anew."""
    return f"id: {reset.id}\nevent: reset\ndata: {{}}\n\n".encode()


def format_message(entry: Numbered[Event]) -> bytes:
    """One message of the stream."""
    name = EventDialect.get_name(entry.event)
    data = EventDialect.format_json(entry.event)
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (entry.id.encode(), name.encode(), data)


async def stream_events(
    bus: EventBus[Event], last_id: str | None, keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncIterator[bytes]:
    """The stream from the event after last_id on, or from now on; ends with the bus."""
    with bus.subscribe(last_id) as subscription:
        # A new reader learns its place at once, so that it misses nothing when it must come again before an event.
        yield b"id: %s\n\n" % bus.last_id.encode() if last_id is None else b": resumed\n\n"
        while True:
            batch = await _wait(subscription, keep_alive_s)
            if batch is None:
                yield KEEP_ALIVE
            elif not batch:
                return
            else:
                yield b"".join(format_reset(entry) if isinstance(entry, Reset) else entry for entry in batch)


async def _wait(subscription: Subscription[Event], longest_s: float) -> list[bytes | Reset] | None:
    try:
        async with asyncio.timeout(longest_s):
            return await subscription.get_batch()
    except TimeoutError:
        return None


def make_stream_routes(bus: EventBus[Event]) -> list[Route]:
    """`GET /api/v1/events`; `Last-Event-ID` (header or query) resumes."""

    async def events(request: HttpRequest) -> Response:
        last_id = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or None
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(stream_events(bus, last_id), media_type="text/event-stream", headers=headers)

    return [Route(f"{PREFIX}/events", events, methods=["GET"])]
