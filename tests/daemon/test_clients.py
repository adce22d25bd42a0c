"""The clients for programs and people against live doors: TLS, plain, unix socket, events, restarts."""

import asyncio
import queue
from pathlib import Path

import pytest

from tests.daemon.doors import House, listening, opened, wait_for
from vdsm import client, pki
from vdsm.cli.client import main


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with certificates."""
    root = tmp_path_factory.mktemp("root")
    pki.ensure(root / "etc/pki/vdsm", names=("localhost",))
    return root


async def call(house: House, method: str, root: Path | None = None, **params: object) -> object:
    """One call of a program without an event loop."""

    def work() -> object:
        with client.connect("127.0.0.1", house.port, use_tls=root is not None, root=root, timeout=20) as cli:
            with cli.flow("flow-1"):
                return cli.call(method, params)

    return await asyncio.to_thread(work)


async def test_a_call_over_tls_with_the_certificate_of_the_root(trusted: Path) -> None:
    async with listening(pki=trusted / "etc/pki/vdsm") as house:
        assert await call(house, "Test.echo", trusted, text="é", list=[1, None]) == {"text": "é", "list": [1, None]}


async def test_the_flow_reaches_the_daemon() -> None:
    async with listening() as house:
        whoami = await call(house, "Test.whoami")
        assert isinstance(whoami, list)
        assert whoami[2] == "flow-1"


async def test_a_certificate_of_another_authority_is_a_connection_error(trusted: Path, tmp_path: Path) -> None:
    pki.ensure(tmp_path / "etc/pki/vdsm", names=("localhost",))
    async with listening(pki=trusted / "etc/pki/vdsm") as house:
        with pytest.raises((client.ConnectionError, client.ClientError)):
            await call(house, "Test.echo", tmp_path)


async def test_errors_carry_the_number_of_the_daemon() -> None:
    async with listening() as house:
        with pytest.raises(client.ServerError) as caught:
            await call(house, "Test.fail")
        assert caught.value.code == 100
        with pytest.raises(client.ServerError) as caught:
            await call(house, "Host.bogus")
        assert caught.value.code == -32601


async def test_no_answer_in_time_is_a_timeout_error() -> None:
    async with listening() as house:

        def work() -> None:
            with client.connect("127.0.0.1", house.port, use_tls=False, timeout=20) as cli:
                with pytest.raises(client.TimeoutError) as caught:
                    cli.call("Test.hold", {}, 0.05)
                assert caught.value.timeout == 0.05
                assert cli.call("Test.echo", {"still": "here"}) == {"still": "here"}

        await asyncio.to_thread(work)


async def test_nobody_there_is_a_connection_error() -> None:
    async with listening() as house:
        port = house.port
    with pytest.raises(client.ConnectionError) as caught:
        await asyncio.to_thread(client.connect, "127.0.0.1", port, use_tls=False)
    assert caught.value.port == port


async def test_events_reach_a_program_that_makes_calls_too() -> None:
    async with listening() as house:
        events: queue.Queue[object] = queue.Queue()
        with await asyncio.to_thread(client.connect, "127.0.0.1", house.port, False, 20) as cli:
            await asyncio.to_thread(cli.subscribe, "jms.queue.events", events)
            # Subscribing has no answer; a call that is answered after it shows that it was taken.
            assert await asyncio.to_thread(cli.call, "Test.echo", {}) == {}
            house.doors.stomp.publish("jms.queue.events", b'{"jsonrpc":"2.0","method":"|a|b|c","params":{"x":1}}')
            event = await asyncio.to_thread(events.get, timeout=20)
            assert event == {"jsonrpc": "2.0", "method": "|a|b|c", "params": {"x": 1}}
            await asyncio.to_thread(cli.close)


async def test_programs_can_send_events_to_each_other() -> None:
    async with listening() as house:
        events: queue.Queue[object] = queue.Queue()

        def work() -> object:
            with (
                client.connect("127.0.0.1", house.port, use_tls=False, timeout=20) as one,
                client.connect("127.0.0.1", house.port, use_tls=False, timeout=20) as other,
            ):
                one.subscribe("jms.free", events)
                one.call("Test.echo", {})
                other.notify("|x|y|z", "jms.free.topic", {"a": 1})
                return events.get(timeout=20)

        assert await asyncio.to_thread(work) == {"jsonrpc": "2.0", "method": "|x|y|z", "params": {"a": 1}}


async def test_a_program_goes_on_when_the_daemon_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    door = Path("s")
    async with opened() as house:
        await house.doors.open_unix(door, None)
        cli = await asyncio.to_thread(client.connect, "", socket_path=door, timeout=20)
        assert await asyncio.to_thread(cli.call, "Test.echo", {"n": 1}) == {"n": 1}
    async with opened() as house:
        await house.doors.open_unix(door, None)
        await asyncio.to_thread(_wait_until_idle, cli)
        assert await asyncio.to_thread(cli.call, "Test.echo", {"n": 2}) == {"n": 2}
        await asyncio.to_thread(cli.close)


def _wait_until_idle(cli: client.Client) -> None:
    cli._used_s -= 2 * client.IDLE_S  # as if so much time had passed


async def test_a_call_that_the_daemon_did_not_survive_fails_at_once() -> None:
    async with listening() as house:
        pending = asyncio.create_task(call(house, "Test.hold"))
        await wait_for(lambda: house.calls.held == 1)
    with pytest.raises(client.ClientError):
        await pending


async def test_the_command_line_reaches_a_daemon_over_tls(trusted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with listening(pki=trusted / "etc/pki/vdsm") as house:
        words = ["--root", str(trusted), "-a", "127.0.0.1", "-p", str(house.port), "Host", "ping2"]
        assert await asyncio.to_thread(main, words) == 1
    error = capsys.readouterr().err
    assert error.startswith("vdsm-client: Command Host.ping2 with args {} failed:\n(code=-32601, message=")
