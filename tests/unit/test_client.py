"""`vdsm.client`: the names and exceptions of facts §1.11 (rpc), on a connection that does what it is told."""

import queue
import threading
from collections.abc import Mapping

import pytest

from vdsm import client
from vdsm.wire.client import CallFailed, CallTimedOut, ConnectionFailed, Notice


class FakeLink:
    """A connection without a wire: answers calls with what it holds, and dies on demand."""

    def __init__(self) -> None:
        self.result: object = "result"
        self.calls: list[tuple[str, Mapping[str, object], float | None, str]] = []
        self.subscriptions: dict[str, str] = {}
        self.published: list[tuple[str, bytes]] = []
        self.events: queue.Queue[Notice | ConnectionFailed] = queue.Queue()
        self.closed = False

    def call(self, method: str, params: Mapping[str, object], timeout_s: float | None, flow_id: str) -> object:
        self.calls.append((method, params, timeout_s, flow_id))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def subscribe(self, destination: str) -> str:
        id = str(len(self.subscriptions))
        self.subscriptions[id] = destination
        return id

    def unsubscribe(self, id: str) -> None:
        del self.subscriptions[id]

    def publish(self, destination: str, body: bytes) -> None:
        self.published.append((destination, body))

    def get_event(self, timeout_s: float) -> Notice | None:
        try:
            event = self.events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(event, ConnectionFailed):
            self.events.put(event)
            raise event
        return event

    def close(self) -> None:
        self.closed = True
        self.die()

    def tell(self, method: str, params: object, *subscriptions: str) -> None:
        """An event, as nodes send it: once for each subscription that it reaches."""
        for id in subscriptions:
            self.events.put(Notice(method, params, self.subscriptions[id], id))

    def die(self) -> None:
        self.events.put(ConnectionFailed("the connection is lost"))


class FakeDaemon:
    """Hands out connections; `refuse` makes the next ones fail."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.refuse = 0

    def open(self) -> FakeLink:
        if self.refuse:
            self.refuse -= 1
            raise client.ConnectionError("host", 54321, True, 60, "refused")
        self.links.append(FakeLink())
        return self.links[-1]


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


def connect(daemon: FakeDaemon, *, retries: int = 1, idle_s: float = 60.0) -> client.Client:
    return client.Client(daemon.open, 60, client.NAMESPACES, retries, retry_interval_s=0.0, idle_s=idle_s)


def test_a_verb_is_an_attribute_of_its_class(daemon: FakeDaemon) -> None:
    with connect(daemon) as cli:
        assert cli.VM.getStats(vmID="x") == "result"
        assert cli.Host.getVMList(vmList=[], _timeout=3) == "result"
    assert daemon.links[0].calls == [
        ("VM.getStats", {"vmID": "x"}, 60, ""),
        ("Host.getVMList", {"vmList": []}, 3, ""),
    ]
    assert daemon.links[0].closed


def test_unknown_namespaces_are_attribute_errors_and_positional_arguments_type_errors(daemon: FakeDaemon) -> None:
    with connect(daemon) as cli:
        with pytest.raises(AttributeError, match="Vm"):
            cli.Vm  # noqa: B018
        with pytest.raises(TypeError):
            cli.Host.ping(1)
        assert not hasattr(cli, "GlusterVolume")


def test_the_flow_is_that_of_the_thread_and_ends_with_its_block(daemon: FakeDaemon) -> None:
    with connect(daemon) as cli:
        with cli.flow("outer"):
            with cli.flow("inner"):
                cli.Host.ping()
            cli.Host.ping()
            thread = threading.Thread(target=cli.Host.ping)
            thread.start()
            thread.join()
        cli.Host.ping()
    assert [call[3] for call in daemon.links[0].calls] == ["inner", "outer", "", ""]


@pytest.mark.parametrize(
    ("failure", "expected", "text"),
    [
        (
            CallFailed(1, "Virtual machine does not exist"),
            client.ServerError,
            "Command VM.setTicket with args {'vmID': 'x', 'password': '********'} failed:\n"
            "(code=1, message=Virtual machine does not exist)",
        ),
        (
            CallTimedOut("no answer"),
            client.TimeoutError,
            "Command VM.setTicket with args {'vmID': 'x', 'password': '********'} timed out after 60 seconds",
        ),
        (
            ConnectionFailed("lost"),
            client.ClientError,
            "Command VM.setTicket with args {'vmID': 'x', 'password': '********'} failed: lost",
        ),
        (
            TypeError("Encoding objects of type set is unsupported"),
            client.ClientError,
            "Command VM.setTicket with args {'vmID': 'x', 'password': '********'} failed: "
            "Encoding objects of type set is unsupported",
        ),
    ],
)
def test_failures_have_the_names_that_programs_catch(
    daemon: FakeDaemon, failure: Exception, expected: type[client.Error], text: str
) -> None:
    with connect(daemon) as cli:
        daemon.links[0].result = failure
        with pytest.raises(expected) as caught:
            cli.VM.setTicket(vmID="x", password="geheim")
    assert str(caught.value) == text
    assert vars(caught.value)["cmd"] == "VM.setTicket"
    assert vars(caught.value)["params"] == {"vmID": "x", "password": "geheim"}


def test_server_errors_tell_code_and_message(daemon: FakeDaemon) -> None:
    with connect(daemon) as cli:
        daemon.links[0].result = CallFailed(-32601, "no such method")
        with pytest.raises(client.ServerError) as caught:
            cli.Host.bogus()
    assert (caught.value.code, caught.value.resp_msg) == (-32601, "no such method")


def test_connection_errors_tell_where(daemon: FakeDaemon) -> None:
    daemon.refuse = 1
    with pytest.raises(client.ConnectionError) as caught:
        connect(daemon)
    error = caught.value
    assert (error.host, error.port, error.use_tls, error.timeout, error.reason) == ("host", 54321, True, 60, "refused")
    assert "host:54321" in str(error)


def test_a_connection_that_died_unused_is_made_anew(daemon: FakeDaemon) -> None:
    with connect(daemon, idle_s=0.0) as cli:
        cli.Host.ping()
        daemon.links[0].die()
        cli.Host.ping()
    assert [len(link.calls) for link in daemon.links] == [1, 1]
    assert daemon.links[0].closed


def test_a_daemon_that_starts_again_is_waited_for_as_often_as_allowed(daemon: FakeDaemon) -> None:
    with connect(daemon, retries=2, idle_s=0.0) as cli:
        daemon.links[0].die()
        daemon.refuse = 2
        cli.Host.ping()
        daemon.links[1].die()
        daemon.refuse = 3
        with pytest.raises(client.ConnectionError):
            cli.Host.ping()
    assert len(daemon.links) == 2


def test_a_call_that_was_under_way_is_never_repeated(daemon: FakeDaemon) -> None:
    with connect(daemon, idle_s=0.0) as cli:
        daemon.links[0].result = ConnectionFailed("lost")
        with pytest.raises(client.ClientError):
            cli.VM.create(vmID="x", vmParams={})
    assert len(daemon.links) == 1


def test_events_reach_the_queues_of_their_subscriptions_once(daemon: FakeDaemon) -> None:
    with connect(daemon) as cli:
        mine: queue.Queue[object] = queue.Queue()
        parents: queue.Queue[object] = queue.Queue()
        others: queue.Queue[object] = queue.Queue()
        cli.subscribe("jms.queue.events", mine)
        cli.subscribe("jms.queue", parents)
        cli.subscribe("jms.queue.other", others)
        cli.subscribe("jms.queue.events")
        daemon.links[0].tell("|virt|VM_status|x", {"x": 1}, "3", "0", "1")
        expected = {"jsonrpc": "2.0", "method": "|virt|VM_status|x", "params": {"x": 1}}
        assert mine.get(timeout=10) == expected
        assert parents.get(timeout=10) == expected
        assert others.empty() and mine.empty() and parents.empty()


def test_events_go_on_after_the_daemon_started_again(daemon: FakeDaemon) -> None:
    with connect(daemon, idle_s=0.0) as cli:
        mine: queue.Queue[object] = queue.Queue()
        cli.subscribe("jms.queue.events", mine)
        daemon.links[0].die()
        cli.Host.ping()
        daemon.links[-1].tell("again", None, "0")
        assert mine.get(timeout=10) == {"jsonrpc": "2.0", "method": "again", "params": None}
        assert list(daemon.links[-1].subscriptions.values()) == ["jms.queue.events"]


def test_a_subscription_ends(daemon: FakeDaemon) -> None:
    with connect(daemon) as cli:
        id = cli.subscribe("jms.queue.events", queue.Queue())
        cli.unsubscribe(id)
        cli.unsubscribe(id)
    assert daemon.links[0].subscriptions == {}


def test_notify_publishes_an_event(daemon: FakeDaemon) -> None:
    with connect(daemon) as cli:
        cli.notify("|x|y|z", "jms.topic.free", {"a": 1})
        cli.notify("|x|y|z", "jms.topic.free")
    assert daemon.links[0].published == [
        ("jms.topic.free", b'{"jsonrpc": "2.0", "method": "|x|y|z", "params": {"a": 1}}'),
        ("jms.topic.free", b'{"jsonrpc": "2.0", "method": "|x|y|z"}'),
    ]


def test_a_closed_client_says_so(daemon: FakeDaemon) -> None:
    cli = connect(daemon)
    cli.close()
    cli.close()
    with pytest.raises(client.Closed):
        cli.Host.ping()
    assert len(daemon.links) == 1
