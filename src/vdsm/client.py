"""The Python client of 2017 and later (facts §1.11): `client.connect("host")`, then `cli.VM.getStats(vmID=…)`.

Names, shapes and exceptions are those that programs written for oVirt hosts rely on. Frames and sockets are left to
`vdsm.wire.client`; what the verbs are is the daemon's.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from vdsm.core.masking import mask
from vdsm.local import choose_certificate, find_paths
from vdsm.wire import client as wire

NAMESPACES = (
    *("Host", "VM", "Volume", "Image", "StoragePool", "StorageDomain", "Task", "LVMVolumeGroup", "ISCSIConnection"),
    *("Lease", "SDM", "NBD", "ManagedVolume"),
)
GLUSTER_NAMESPACES = ("GlusterVolume", "GlusterHost", "GlusterTask", "GlusterHook", "GlusterService", "GlusterBrick")
DEFAULT_PORT = 54321
DEFAULT_TIMEOUT_S = 60.0
RECONNECT_INTERVAL_S = 2.0
IDLE_S = 0.5
"""A connection that was not used for so long is looked at before a call: after a restart of the daemon it is dead."""
_PUMP_TURN_S = 5.0


class Error(Exception):
    """Whatever this client raises about a connection or a call."""


@dataclass(eq=False, repr=False)
class ConnectionError(Error):
    """The daemon could not be reached."""

    host: str
    port: int
    use_tls: bool
    timeout: float
    reason: object

    def __str__(self) -> str:
        where = f"{self.host}:{self.port}" if self.port else self.host
        return f"Connection to {where} with use_tls={self.use_tls}, timeout={self.timeout:g} failed: {self.reason}"


@dataclass(eq=False, repr=False)
class MissingSchemaError(Error):
    """The client's own files are incomplete. Kept for programs that catch it: this client needs no such files."""

    reason: object

    def __str__(self) -> str:
        return f"Missing API schema: {self.reason}"


@dataclass(eq=False, repr=False)
class _CallError(Error):
    cmd: str
    params: Mapping[str, object]

    def _tell(self, outcome: str) -> str:
        return f"Command {self.cmd} with args {mask(self.params)} {outcome}"


@dataclass(eq=False, repr=False)
class ClientError(_CallError):
    """A call could not be sent, or its answer not be understood."""

    reason: object

    def __str__(self) -> str:
        return self._tell(f"failed: {self.reason}")


@dataclass(eq=False, repr=False)
class TimeoutError(_CallError):
    """No answer came in time; the daemon may still do what was asked."""

    timeout: float

    def __str__(self) -> str:
        return self._tell(f"timed out after {self.timeout:g} seconds")


@dataclass(eq=False, repr=False)
class ServerError(_CallError):
    """The daemon refused or failed; `code` is the number of the facts' §10."""

    code: int
    resp_msg: str

    def __str__(self) -> str:
        return self._tell(f"failed:\n(code={self.code}, message={self.resp_msg})")


class Closed(Error):
    """The client was used after `close`."""


class Namespace:
    """One class of verbs: every attribute is a verb that takes keyword arguments (and `_timeout`, in seconds)."""

    def __init__(self, client: "Client", name: str) -> None:
        self._client = client
        self._name = name

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = f"{self._name}.{name}"

        def call(*, _timeout: float | None = None, **params: object) -> object:
            return self._client.call(method, params, _timeout)

        return call


class EventQueue(Protocol):
    """Where events go; `queue.Queue` is one."""

    def put(self, item: object, /) -> None:
        """Take one event: a mapping with `method` and `params`."""


class _Subscription(Struct):
    destination: str
    queue: EventQueue | None
    link_id: str


class Client:
    """A connection to one daemon: `Host`, `VM` and the like are its attributes. For any number of threads.

    A connection that the daemon has dropped while nothing was going on is made anew at the next call; a call that was
    under way is never repeated. Use it as a context manager, or close it.
    """

    def __init__(
        self,
        open_link: Callable[[], wire.Client],
        timeout: float = DEFAULT_TIMEOUT_S,
        namespaces: tuple[str, ...] = NAMESPACES,
        nr_retries: int = 1,
        retry_interval_s: float = RECONNECT_INTERVAL_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """Connect; `open_link` makes a connection or raises ConnectionError."""
        self._open_link = open_link
        self._timeout_s = timeout
        self._namespaces = namespaces
        self._retries = nr_retries
        self._retry_interval_s = retry_interval_s
        self._idle_s = idle_s
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._flow = threading.local()
        self._subscriptions: dict[str, _Subscription] = {}
        self._pump: threading.Thread | None = None
        self._link: wire.Client | None = open_link()
        self._used_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Namespace:
        if name.startswith("_") or name not in self._namespaces:
            raise AttributeError(f"no such namespace: {name}")
        return Namespace(self, name)

    def call(self, method: str, params: Mapping[str, object], timeout: float | None = None) -> object:
        """The result of `Namespace.method`. Raises ServerError, TimeoutError, ClientError, ConnectionError."""
        timeout_s = self._timeout_s if timeout is None else timeout
        with _translated(method, params, timeout_s):
            try:
                return self._get_link().call(method, params, timeout_s, getattr(self._flow, "id", ""))
            finally:
                self._used_s = time.monotonic()

    @contextmanager
    def flow(self, flow_id: str) -> Iterator[Self]:
        """Name the flow that this thread's calls inside belong to; the daemon's log lines carry it."""
        before = getattr(self._flow, "id", "")
        self._flow.id = flow_id
        try:
            yield self
        finally:
            self._flow.id = before

    def subscribe(self, queue_name: str, event_queue: EventQueue | None = None) -> str:
        """Put the events of a destination (`jms.queue.events`) into a queue, as mappings with `method` and `params`.

        Gives the id for `unsubscribe`. Without a queue the events are ignored.
        """
        id = str(uuid.uuid4())
        with self._lock, _translated("subscribe", {"queue_name": queue_name}, self._timeout_s):
            link = self._get_link()
            self._subscriptions[id] = _Subscription(queue_name, event_queue, link.subscribe(queue_name))
            self._start_pump()
        return id

    def unsubscribe(self, sub_id: str) -> None:
        """End a subscription; an unknown one is ignored."""
        with self._lock, _translated("unsubscribe", {"sub_id": sub_id}, self._timeout_s):
            subscription = self._subscriptions.pop(sub_id, None)
            if subscription is not None and self._link is not None:
                self._link.unsubscribe(subscription.link_id)

    def notify(self, event_id: str, dest: str, params: Mapping[str, object] | None = None) -> None:
        """Publish an event to all who listen to a destination."""
        body: dict[str, object] = {"jsonrpc": "2.0", "method": event_id}
        if params is not None:
            body["params"] = params
        with _translated("notify", {"event_id": event_id, "dest": dest}, self._timeout_s):
            self._get_link().publish(dest, json.dumps(body).encode())

    def close(self) -> None:
        """End the connection; calls under way fail. Closing twice is fine."""
        self._closed.set()
        with self._lock:
            link, self._link = self._link, None
            pump, self._pump = self._pump, None
        if link is not None:
            link.close()
        if pump is not None and pump is not threading.current_thread():
            pump.join()

    def _get_link(self) -> wire.Client:
        """The connection, made anew if it died unused."""
        with self._lock:
            if self._link is not None and self._is_dead(self._link):
                self._link.close()
                self._link = None
            if self._link is None:
                self._link = self._reopen()
                for subscription in self._subscriptions.values():
                    subscription.link_id = self._link.subscribe(subscription.destination)
                self._start_pump()
            return self._link

    def _is_dead(self, link: wire.Client) -> bool:
        if time.monotonic() - self._used_s < self._idle_s:
            return False
        try:
            event = link.get_event(0.001)
        except wire.ConnectionFailed:
            return True
        self._used_s = time.monotonic()
        self._deliver(event)
        return False

    def _reopen(self) -> wire.Client:
        for _ in range(self._retries):
            if self._closed.is_set():
                break
            try:
                return self._open_link()
            except ConnectionError:
                self._closed.wait(self._retry_interval_s)
        if self._closed.is_set():
            raise Closed("the client is closed")
        return self._open_link()

    def _start_pump(self) -> None:
        if self._subscriptions and (self._pump is None or not self._pump.is_alive()) and not self._closed.is_set():
            self._pump = threading.Thread(target=self._run_pump, name="vdsm events", daemon=True)
            self._pump.start()

    def _run_pump(self) -> None:
        while not self._closed.is_set():
            try:
                self._deliver(self._get_link().get_event(_PUMP_TURN_S))
            except (wire.ConnectionFailed, wire.CallTimedOut):
                self._used_s = 0.0  # the next _get_link looks at the connection
            except (ConnectionError, Closed):
                return  # the next call connects again, and starts a new pump

    def _deliver(self, event: wire.Notice | None) -> None:
        if event is None:
            return
        with self._lock:
            queues = [s.queue for s in self._subscriptions.values() if s.link_id == event.subscription]
        for queue in queues:
            if queue is not None:
                queue.put({"jsonrpc": "2.0", "method": event.method, "params": event.params})


@contextmanager
def _translated(cmd: str, params: Mapping[str, object], timeout_s: float) -> Iterator[None]:
    """Failures of the wire come out under the names that programs catch."""
    try:
        yield
    except wire.CallFailed as error:
        raise ServerError(cmd, params, error.code, error.message) from error
    except wire.CallTimedOut as error:
        raise TimeoutError(cmd, params, timeout_s) from error
    except (wire.ConnectionFailed, TypeError, ValueError) as error:
        raise ClientError(cmd, params, error) from error


def connect(
    host: str,
    port: int = DEFAULT_PORT,
    use_tls: bool = True,
    timeout: float = DEFAULT_TIMEOUT_S,
    gluster_enabled: bool = False,
    incoming_heartbeat: int = 30000,
    outgoing_heartbeat: int = 0,
    nr_retries: int = 1,
    *,
    root: Path | None = None,
    socket_path: Path | None = None,
) -> Client:
    """Connect to a daemon over TCP, or through its unix socket when `socket_path` is given (then only that counts).

    TLS shows the certificate of this machine (below `root`, by default VDSM_ROOT or `/`). `timeout` is in seconds, the
    heart-beats in ms: they are taken and not needed, since a dead connection is noticed when it is used. Raises
    ConnectionError.
    """
    address = _make_address(host, port, use_tls, root, socket_path)

    def open_link() -> wire.Client:
        try:
            _check_files(address)
            return wire.connect(address, timeout)
        except (wire.ConnectionFailed, OSError) as error:
            where, at = (str(socket_path), 0) if socket_path else (host, port)
            raise ConnectionError(where, at, address.tls is not None, timeout, error) from error

    namespaces = NAMESPACES + GLUSTER_NAMESPACES if gluster_enabled else NAMESPACES
    return Client(open_link, timeout, namespaces, nr_retries)


def _make_address(host: str, port: int, use_tls: bool, root: Path | None, socket_path: Path | None) -> wire.Address:
    if socket_path is not None:
        return wire.Address(socket_path=socket_path)
    if not use_tls:
        return wire.Address(host, port)
    return wire.Address(host, port, choose_certificate(find_paths(root).pki))


def _check_files(address: wire.Address) -> None:
    """OSError that names the file, which TLS itself does not, when one of the certificates cannot be read."""
    if address.tls is not None:
        for path in (address.tls.key, address.tls.certificate, address.tls.authority):
            path.open("rb").close()
