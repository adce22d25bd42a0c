"""What goes wrong between machines: loss, delay and slow links; and an own ping that counts what comes back."""

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from lab.commands import PartFailed, run, wait_for
from lab.networks import Link, Namespace

_ECHO_REQUEST = 8
_ECHO_REPLY = 0
_IP_HEADER_BYTES = 20
_BURST_BYTES = 16384


@contextmanager
def impaired(link: Link, *, loss_percent: float = 0, delay_ms: float = 0, rate_kbit: int = 0) -> Iterator[None]:
    """What leaves by this link is lost, late or slow meanwhile; what comes in by it is not. One at a time for a link.

    Loss and delay need the kernel's netem; a rate alone does with its token buckets.
    """
    if loss_percent or delay_ms:
        words = ["netem", "limit", "100000", "loss", f"{loss_percent}%", "delay", f"{delay_ms}ms"]
        words += ["rate", f"{rate_kbit}kbit"] if rate_kbit else []
    else:
        words = ["tbf", "rate", f"{rate_kbit}kbit", "burst", str(_BURST_BYTES), "latency", "1s"]
    tc = ["tc", *(("-n", link.namespace.name) if link.namespace else ()), "qdisc"]
    run(*tc, "add", "dev", link.name, "root", *words)
    try:
        yield
    finally:
        try:
            run(*tc, "del", "dev", link.name, "root")
        except PartFailed:
            if link.exists():
                raise


def ping(
    address: str, count: int = 1, *, namespace: Namespace | None = None, interval_s: float = 0.02, wait_s: float = 2.0
) -> list[float]:
    """Send so many echo requests from a namespace and return the round trips, in seconds, of those that came back.

    Waits for stragglers until all are there, or so long after the last one was sent.
    """
    with namespace.entered() if namespace else nullcontext():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with raw:
        identity = struct.unpack("!H", os.urandom(2))[0]
        trips: dict[int, float] = {}
        sent: dict[int, float] = {}
        for number in range(count):
            sent[number] = time.monotonic()
            _send_request(raw, address, identity, number)
            last = number == count - 1
            deadline = sent[number] + (wait_s if last else interval_s)
            while (left := deadline - time.monotonic()) > 0 and not (last and len(trips) == count):
                if select.select([raw], [], [], left)[0]:
                    answer = _parse_reply(raw.recv(2048), identity)
                    if answer in sent:
                        trips.setdefault(answer, time.monotonic() - sent[answer])
    return list(trips.values())


def wait_until_reached(address: str, *, namespace: Namespace | None = None) -> None:
    """Wait until an address answers: links pass nothing for up to a second after they came up."""
    wait_for(lambda: ping(address, namespace=namespace, wait_s=0.3), f"an answer from {address}")


def _send_request(raw: socket.socket, address: str, identity: int, number: int) -> None:
    body = struct.pack("!HH", identity, number)
    total = (_ECHO_REQUEST << 8) + sum(struct.unpack("!HH", body))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    request = struct.pack("!BBH", _ECHO_REQUEST, 0, ~total & 0xFFFF) + body
    try:
        raw.sendto(request, (address, 0))
    except OSError:  # no route, no carrier: lost, like any other
        return


def _parse_reply(packet: bytes, identity: int) -> int | None:
    """The number of the request that this answers, if it is one of ours."""
    kind, _, _, whose, number = struct.unpack_from("!BBHHH", packet, _IP_HEADER_BYTES)
    return number if kind == _ECHO_REPLY and whose == identity else None
