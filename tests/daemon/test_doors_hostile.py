"""Hostile input on a live port: every case is answered or ended, the daemon goes on, the log stays free of traces."""

import asyncio
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.daemon.doors import REQUESTS, House, listening
from vdsm.wire.ports import Limits
from vdsm.wire.stomp import format_frame

EXAMPLES = 10 * settings.default.max_examples  # a few seconds; minutes in soak
LIMITS = Limits(frame_bytes=20_000, header_bytes=2_000, unsent_bytes=200_000, subscriptions=5)

bodies = st.sampled_from(
    [b"", b"{", b"[" * 5000, b"null", b'{"jsonrpc":"2.0","method":"Test.echo","id":1}']
    + [
        b'[{"jsonrpc":"2.0","method":"Test.echo","id":[]}]',
        b'{"jsonrpc":"2.0","method":"Test.large","id":1,"params":{"size":9000}}',
    ]
    + [b'{"jsonrpc":"2.0","method":"Test.fail","id":"\xff"}', b"[" + b"1," * 900 + b"1]", b"\0\0"]
) | st.binary(max_size=50)

headers = st.lists(
    st.tuples(
        st.sampled_from(
            ["destination", "id", "reply-to", "accept-version", "heart-beat", "receipt", "x:y", "ovirtCorrelationId"]
        ),
        st.sampled_from([REQUESTS, "a", "a.b", "1.2", "0,0", "9" * 40, "-1,5", "\n", "\ud7ff", "." * 1500])
        | st.text("ab.:\\\n,0", max_size=6),
    ),
    max_size=5,
)

stomp = st.builds(
    format_frame,
    st.sampled_from(["CONNECT", "STOMP", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "DISCONNECT", "ACK", "MESSAGE", ""]),
    headers,
    bodies,
)

http = st.sampled_from(
    [
        b"GET /origin HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /origin HTTP/1.1\r\n\r\n",
        b"POST /origin HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"POST /origin HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /origin HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /origin HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        b"GET /origin HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HEAD /origin?a=%ff%00 HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"5\r\nhello\r\n",
        b"zz\r\n",
        b"0\r\n\r\n",
        b"hello",
    ]
)

noise = st.binary(max_size=30)
scripts = st.lists(stomp | http | noise | st.sampled_from([b"\n", b"\0", b"SEND\n", b"\r\n\r\n"]), max_size=6)


class Traces(logging.Handler):
    """Collects log records that carry a trace or are errors."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.found.append(self.format(record))


@pytest.fixture
def traces():
    handler = Traces()
    logging.getLogger().addHandler(handler)
    yield handler.found
    logging.getLogger().removeHandler(handler)


async def play(house: House, script: list[bytes], chunk: int, half_close: bool) -> None:
    async with house.visit() as visitor:
        data = b"".join(script)
        try:
            for start in range(0, len(data), chunk):
                visitor.say(data[start : start + chunk])
                await visitor.writer.drain()
                if chunk < 50:
                    await asyncio.sleep(0)
            if half_close:
                visitor.writer.write_eof()
                await visitor.read_to_end()
        except OSError:
            pass  # being thrown out is an answer


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(scripts, min_size=1, max_size=4), st.sampled_from([1000, 100_000, 11, 3]), st.booleans())
def test_the_daemon_survives_and_its_log_is_clean(traces, all_scripts, chunk, half_close):
    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: traces.append(repr(context)))
        async with listening(LIMITS) as house:
            async with asyncio.timeout(30):
                await asyncio.gather(*(play(house, script, chunk, half_close) for script in all_scripts))
                await house.check_alive()

    asyncio.run(run())
    assert traces == []


@pytest.mark.parametrize(
    "script",
    [
        # A second request's garbage while the first one's answer waits for its body.
        [b"POST /origin HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\n", b"5\r\nhello\r\n"],
        [b"POST /origin HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe"],
        [b"GET /origin HTTP/1.1\r\nHost: x\r\n\r\n\0\0\0garbage\r\n\r\n"],
    ],
)
@pytest.mark.parametrize("half_close", [True, False])
async def test_broken_http_bodies_leave_no_trace(script, half_close, traces):
    async with listening() as house:
        await play(house, script, 10_000, half_close)
        await house.check_alive()
        await house.doors.close(1)
    assert traces == []
