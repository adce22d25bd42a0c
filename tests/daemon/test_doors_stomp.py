"""STOMP on a live port (facts: rpc §1.3, §1.4)."""

import json

import pytest

from tests.daemon.doors import REQUESTS, listening, wait_for
from vdsm.wire.ports import DEFAULT_ANSWERS, EVENTS, REQUEST_QUEUES, Limits
from vdsm.wire.stomp import Frame, format_frame
from vdsm.wire.stomp_server import UNFINISHED_FRAMES


async def test_connect_agrees_on_version_and_heartbeats():
    async with listening() as house, house.visit() as visitor:
        visitor.send("CONNECT", accept_version="1.2", heart_beat="7000,5", host="x")
        assert await visitor.get() == Frame("CONNECTED", {"version": "1.2", "heart-beat": "1000,7000"})


@pytest.mark.parametrize("headers", [{}, {"accept_version": "1.0,1.1"}, {"accept_version": "1.1"}])
async def test_other_versions_are_refused_and_the_connection_goes_on(headers):
    async with listening() as house, house.visit() as visitor:
        visitor.send("CONNECT", **headers)
        assert await visitor.get_error() == "Version unsupported"
        visitor.send("CONNECT", accept_version="1.2")
        assert (await visitor.get()).headers == {"version": "1.2", "heart-beat": "0,0"}


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
async def test_frames_back_to_back_in_pieces_of_any_size(pieces):
    data = format_frame("CONNECT", [("accept-version", "1.2")])
    data += format_frame("SUBSCRIBE", [("destination", "mine"), ("id", "1")])
    for n in range(3):
        body = json.dumps([{"jsonrpc": "2.0", "method": "Test.echo", "id": n, "params": {"n": n}}]).encode()
        data += format_frame("SEND", [("destination", REQUESTS), ("reply-to", "mine")], body)
    async with listening() as house, house.visit() as visitor:
        for start in range(0, len(data), pieces):
            visitor.say(data[start : start + pieces])
            await visitor.writer.drain()
        assert (await visitor.get()).command == "CONNECTED"
        for n in range(3):
            frame = await visitor.get()
            assert json.loads(frame.body) == {"jsonrpc": "2.0", "id": n, "result": {"n": n}}
            headers = {"destination": "mine", "subscription": "1", "content-type": "application/json"}
            assert frame.headers == headers | {"content-length": str(len(frame.body))}


@pytest.mark.parametrize("queue", [*REQUEST_QUEUES, f"{REQUESTS}.any.thing"])
async def test_request_queues_and_what_is_below_them_take_calls(queue):
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.send("SEND", b'{"jsonrpc":"2.0","method":"Test.echo","id":1}', destination=queue, reply_to="mine")
        assert (await visitor.get_answer())["result"] == {}


async def test_answers_reach_exactly_the_reply_to_on_every_connection():
    async with listening() as house, house.visit() as asker, house.visit() as other:
        await asker.subscribe("mine.too")
        await other.subscribe("mine.too", "x")
        await other.subscribe("mine", "parent")
        asker.call("Test.echo", [7], "mine.too")
        assert (await asker.get_answer())["result"] == [7]
        frame = await other.get()
        assert frame.headers["subscription"] == "x"
        other.send("DISCONNECT", receipt="end")
        assert (await other.get()).command == "RECEIPT"  # and nothing came for "parent"


async def test_answers_without_an_id_go_to_the_default_topic_as_well():
    async with listening() as house, house.visit() as asker, house.visit() as watcher:
        await asker.subscribe("mine")
        await watcher.subscribe(DEFAULT_ANSWERS)
        asker.send("SEND", b"{", destination=REQUESTS, reply_to="mine")
        for visitor in (asker, watcher):
            answer = await visitor.get_answer()
            assert (answer["id"], answer["error"]["code"]) == (None, -32700)
        asker.call("Test.fail", {}, "mine", id="f")
        assert (await asker.get_answer())["error"] == {"code": 100, "message": "General Exception: no luck"}
        asker.send("SEND", b'{"jsonrpc":"2.0","method":"Test.echo","id":3}', destination=REQUESTS)
        assert (await watcher.get_answer())["id"] == 3


async def test_notifications_are_silent():
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.send("SEND", b'[{"jsonrpc":"2.0","method":"Test.echo"}]', destination=REQUESTS, reply_to="mine")
        visitor.call("Test.echo", {}, "mine", id="after")
        assert (await visitor.get_answer())["id"] == "after"


async def test_the_origin_and_the_flow_travel_with_the_call():
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.call("Test.whoami", {}, "mine", ovirtCorrelationId="flow-1")
        assert (await visitor.get_answer())["result"] == ["127.0.0.1", "127.0.0.1", "flow-1", "ADMINISTER"]


async def test_a_call_that_waits_holds_up_no_other():
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        for n in range(100):
            visitor.call("Test.hold", {}, "mine", id=f"h{n}")
        visitor.call("Test.echo", {}, "mine", id="quick")
        assert (await visitor.get_answer())["id"] == "quick"
        house.calls.release.set()
        assert {(await visitor.get_answer())["id"] for _ in range(100)} == {f"h{n}" for n in range(100)}


async def test_clients_talk_to_each_other_over_free_topics():
    async with listening() as house, house.visit() as one, house.visit() as two:
        await two.subscribe("a.b")
        one.send("SEND", b"hello", destination="a.b.c", note="1:2", receipt="r")
        assert await two.get() == Frame(
            "MESSAGE",
            {"destination": "a.b.c", "note": "1:2", "subscription": "s1", "content-length": "5"},
            b"hello",
        )
        assert await one.get() == Frame("RECEIPT", {"receipt-id": "r"})
        two.send("UNSUBSCRIBE", id="s1", receipt="gone")
        assert (await two.get()).command == "RECEIPT"
        one.send("SEND", b"hello", destination="a.b.c")
        assert await one.get_error() == "Subscription not available"


async def test_events_are_published_to_those_who_subscribed():
    async with listening() as house, house.visit() as visitor:
        assert house.doors.stomp.publish(EVENTS, b"{}") == 0
        await visitor.subscribe(EVENTS)
        assert house.doors.stomp.publish(EVENTS, b'{"n":1}') == 1
        frame = await visitor.get()
        assert (frame.command, frame.headers["destination"], frame.body) == ("MESSAGE", EVENTS, b'{"n":1}')


@pytest.mark.parametrize(
    ("command", "headers", "text"),
    [
        ("SUBSCRIBE", {"id": "1"}, "Missing destination or subscription id header"),
        ("SUBSCRIBE", {"destination": "a"}, "Missing destination or subscription id header"),
        ("SUBSCRIBE", {"destination": "a", "id": "s1"}, "Subscription id already exists"),
        ("SUBSCRIBE", {"destination": "a" * 2000, "id": "2"}, "Destination or subscription id longer than 1024"),
        ("UNSUBSCRIBE", {}, "Missing id header"),
        ("SEND", {}, "Missing destination header"),
        ("SEND", {"destination": "." * 2000}, "Destination longer than 1024"),
        ("SEND", {"destination": "nobody"}, "Subscription not available"),
        ("ACK", {"id": "1"}, "Unsupported command 'ACK'"),
        ("BEGIN", {"transaction": "1"}, "Unsupported command 'BEGIN'"),
        ("NONSENSE", {}, "Unsupported command 'NONSENSE'"),
    ],
)
async def test_what_cannot_be_done_is_an_error_and_the_connection_goes_on(command, headers, text):
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.send(command, **headers)
        assert await visitor.get_error() == text
        visitor.call("Test.echo", {}, "mine")
        assert (await visitor.get_answer())["result"] == {}


async def test_disconnect_is_receipted_and_later_frames_still_work():
    async with listening() as house, house.visit() as visitor:
        visitor.send("DISCONNECT", receipt="bye")
        assert await visitor.get() == Frame("RECEIPT", {"receipt-id": "bye"})
        visitor.send("DISCONNECT")
        await visitor.subscribe("mine")


async def test_unknown_subscriptions_are_unsubscribed_in_silence():
    async with listening() as house, house.visit() as visitor:
        visitor.send("UNSUBSCRIBE", id="unknown")
        await visitor.subscribe("mine")


@pytest.mark.parametrize(
    "data",
    [
        b"SEND\ndestination\n\n\0",
        b"SEND\na:\\x\n\n\0",
        b"SEND\na:b:c\n\n\0",
        b"SEND\ncontent-length:1\n\nab\0",
        b"SEND\ncontent-length:99999999999\n\n",
        b"SEND\n" + b"a" * 70_000,
        b"SEND\n\0",
    ],
)
async def test_malformed_frames_get_an_error_and_the_end(data):
    async with listening() as house:
        async with house.visit() as visitor:
            visitor.say(data + b"SUBSCRIBE\nid:1\ndestination:a\nreceipt:1\n\n\0")
            assert (await visitor.get_error()).startswith("Malformed frame: ")
            with pytest.raises((EOFError, ConnectionError)):
                await visitor.get()
        await house.check_alive()


async def test_half_read_frames_of_all_clients_together_are_bounded():
    limits = Limits(frame_bytes=1_000)
    async with listening(limits) as house:
        visits = [house.visit() for _ in range(UNFINISHED_FRAMES + 4)]
        crowd = [await visit.__aenter__() for visit in visits]
        for visitor in crowd:
            await visitor.subscribe("mine")
            visitor.say(b"SEND\ncontent-length:1000\n\n" + b"x" * 990)
        await wait_for(lambda: house.doors.stomp.connections < len(crowd))
        for visit in visits:
            await visit.__aexit__(None, None, None)
        await wait_for(lambda: house.doors.stomp.connections == 0)
        assert house.doors.stomp._unfinished_bytes == 0
        await house.check_alive()


async def test_a_half_read_frame_goes_with_its_connection():
    async with listening() as house:
        async with house.visit() as visitor:
            await visitor.subscribe("mine")
            [connection] = house.doors.stomp._connections
            visitor.say(b"SEND\n\n" + b"x" * 1_000_000)
            await wait_for(lambda: connection._reader.unread_bytes > 1_000_000)
        await wait_for(lambda: house.doors.stomp.connections == 0)
        assert not connection._reader.unread_bytes  # transport and protocol are a cycle: it lasts for a while yet


async def test_who_leaves_is_forgotten_while_the_call_goes_on():
    async with listening() as house:
        async with house.visit() as visitor:
            await visitor.subscribe("mine")
            visitor.call("Test.hold", {}, "mine")
            await wait_for(lambda: house.calls.held)
        await wait_for(lambda: house.doors.stomp.connections == 0)
        assert house.doors.stomp.subscriptions.list_exact("mine") == ()
        house.calls.release.set()
        await wait_for(lambda: house.calls.ended)
        assert house.calls.ended == ["done"]


async def test_a_slow_reader_is_cut_off_and_others_are_not():
    async with listening(Limits(unsent_bytes=100_000)) as house, house.visit() as good, house.visit() as slow:
        await good.subscribe(EVENTS)
        await slow.subscribe(EVENTS)
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
        while house.doors.stomp.connections == 2:
            house.doors.stomp.publish(EVENTS, b"x" * 50_000)
            assert (await good.get()).command == "MESSAGE"
        assert house.doors.stomp.connections == 1
        await house.check_alive()


async def test_an_answer_larger_than_the_bound_reaches_a_reader():
    async with listening(Limits(unsent_bytes=100_000)) as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.call("Test.large", {"size": 3_000_000}, "mine")
        assert len((await visitor.get_answer())["result"]) == 3_000_000


async def test_who_does_not_read_answers_gets_no_more_frames_read():
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(4):
            visitor.call("Test.large", {"size": 2_000_000}, "mine", id=f"{n}")
        await wait_for(lambda: any(c._blocked for c in house.doors.stomp._connections))
        visitor.call("Test.hold", {}, "mine", id="held")
        visitor.reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert {(await visitor.get_answer())["id"] for _ in range(4)} == {"0", "1", "2", "3"}
        await wait_for(lambda: house.calls.held)


async def test_subscriptions_of_one_connection_are_bounded():
    async with listening(Limits(subscriptions=2)) as house, house.visit() as visitor:
        for id in ("1", "2"):
            await visitor.subscribe("mine", id)
        visitor.send("SUBSCRIBE", destination="mine", id="3")
        assert await visitor.get_error() == "More than 2 subscriptions"


async def test_the_server_beats_when_asked_to():
    async with listening(Limits(heartbeat_ms=5)) as house, house.visit() as visitor:
        visitor.send("CONNECT", accept_version="1.2", heart_beat="0,5")
        assert (await visitor.get()).headers["heart-beat"] == "5,0"
        assert await visitor.reader.readexactly(3) == b"\n\n\n"


async def test_a_client_that_breaks_its_promise_to_beat_is_given_up():
    async with listening(Limits(heartbeat_ms=5)) as house, house.visit() as visitor:
        visitor.send("CONNECT", accept_version="1.2", heart_beat="5,0")
        await visitor.read_to_end()
        await wait_for(lambda: house.doors.stomp.connections == 0)


async def test_closing_finishes_quick_calls_cancels_slow_ones_and_leaves_no_connection():
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.call("Test.hold", {}, "mine")
        await wait_for(lambda: house.calls.held)
        await house.doors.close(0.05)
        assert house.calls.ended == ["cancelled"]
        await visitor.read_to_end()
        with pytest.raises(OSError):
            await house.check_alive()


async def test_closing_waits_for_answers_to_be_sent():
    async with listening() as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        visitor.call("Test.hold", {}, "mine")
        await wait_for(lambda: house.calls.held)
        house.calls.release.set()
        await house.doors.close(10)
        assert (await visitor.get_answer())["result"] is True


async def test_where_requests_are_taken_is_for_the_caller_to_say():
    async with listening(request_queues=("here",)) as house, house.visit() as visitor:
        await visitor.subscribe("mine")
        body = b'{"jsonrpc":"2.0","method":"Test.echo","id":1,"params":[1]}'
        visitor.send("SEND", body, destination="here", reply_to="mine")
        assert (await visitor.get_answer())["result"] == [1]
        visitor.send("SEND", body, destination=REQUESTS, reply_to="mine")
        assert await visitor.get_error() == "Subscription not available"
