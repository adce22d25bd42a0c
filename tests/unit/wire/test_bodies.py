"""Bounds on HTTP bodies, and how a stream of events looks."""

from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request as HttpRequest

from vdsm.api.events import VmStatusChanged
from vdsm.core.errors import ResourceExhausted
from vdsm.testing.clock import VirtualClock
from vdsm.wire.bodies import Bodies, holds_too_many
from vdsm.wire.bus import EventBus
from vdsm.wire.errors import BodyTooLarge
from vdsm.wire.ports import Limits
from vdsm.wire.sse import KEEP_ALIVE, format_message, stream_events

LIMITS = Limits(frame_bytes=100, call_bytes_in_flight=150)


def post(*parts: bytes) -> HttpRequest:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(messages)

    async def receive() -> dict[str, object]:
        return next(waiting)

    return HttpRequest({"type": "http", "method": "POST", "headers": []}, receive)


async def test_a_body_in_parts() -> None:
    async with Bodies(LIMITS).reading(post(b"a" * 60, b"b" * 40)) as body:
        assert body == b"a" * 60 + b"b" * 40


async def test_a_body_may_be_so_large_and_no_larger() -> None:
    bodies = Bodies(LIMITS)
    with pytest.raises(BodyTooLarge):
        async with bodies.reading(post(b"a" * 60, b"b" * 41)):
            raise AssertionError
    with pytest.raises(BodyTooLarge):
        async with bodies.reading(post(b"a" * 11), 10):
            raise AssertionError
    async with bodies.reading(post(b"a" * 100)), bodies.reading(post(b"a" * 50)):
        pass  # what was refused counts no more


async def test_all_bodies_together_are_bounded_while_they_are_worked_on() -> None:
    bodies = Bodies(LIMITS)
    async with bodies.reading(post(b"a" * 90)):
        with pytest.raises(ResourceExhausted):
            async with bodies.reading(post(b"b" * 61)):
                raise AssertionError
        async with bodies.reading(post(b"b" * 60)) as body:
            assert len(body) == 60


def test_values_are_counted_in_large_texts_only() -> None:
    assert not holds_too_many(b"," * 150_000)
    assert holds_too_many(memoryview(b"[" + b"0," * 150_000 + b"0]"))
    assert holds_too_many(b"[" + b"[]," * 100_000 + b"[]]")
    assert not holds_too_many(b'"' + b"x" * 1_000_000 + b'"')


async def test_a_stream_that_has_nothing_to_say_shows_that_it_lives() -> None:
    bus: EventBus[VmStatusChanged] = EventBus(VirtualClock(), format_message)
    stream: AsyncIterator[bytes] = stream_events(bus, None, keep_alive_s=0)
    assert await anext(stream) == b"id: %s\n\n" % bus.last_id.encode()
    assert [await anext(stream), await anext(stream)] == [KEEP_ALIVE, KEEP_ALIVE]
    id = bus.publish(VmStatusChanged(vm_id="v", status="Up"))
    told = await anext(stream)
    assert told == b'id: %s\nevent: vm.status\ndata: {"event":"vm.status","vm_id":"v","status":"Up"}\n\n' % id.encode()
    bus.close()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
