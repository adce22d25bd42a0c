"""What a guest says may be anything: errors have names, what is kept is bounded, nothing hangs."""

import random
from collections.abc import Callable

import msgspec

from tests.fuzzing import fuzz
from tests.rounds import SOAK_FACTOR
from vdsm.virt.guest import figures, messages, qemu_agent
from vdsm.virt.guest.figures import GuestFigures
from vdsm.virt.guest.messages import BadMessage, Lines, clean, decode
from vdsm.virt.guest.qemu_agent import BadAnswer

NUMBER = random.randrange(1 << 32) if SOAK_FACTOR else 0
"""The same inputs every time in quick runs; others in soak."""
Rounds = Callable[[int, int], int]
TALK = [
    b'{"__name__": "heartbeat", "free-ram": 5, "memory-stat": {"mem_total": 9, "majflt": "2"}, "apiVersion": 3}\n',
    b'{"__name__": "host-name", "name": "a\\u00e9\\ud83d\\ude00\xc3\xa9"}\n{"__name__": "session-lock"}\n',
    b'{"__name__": "os-info", "type": "linux", "kernel": "6"}\n{"__name__": "timezone", "zone": "x", "offset": -60}\n',
    b'{"__name__": "network-interfaces", "interfaces": [{"name": "e", "hw": "m", "inet": ["1"], "inet6": []}]}\n',
    b'{"__name__": "applications", "applications": ["a", "b"]}\n{"__name__": "uninstalled"}\n',
    b'{"__name__": "disks-usage", "disks": [{"path": "/", "total": "5", "used": 3, "fs": "x"}],'
    b' "mapping": {"s": {"name": "/dev/vda"}}}\n',
    b'{"__name__": "containers", "list": [{"id": "i", "names": ["n"]}]}\n{"__name__": "active-user", "name": "u"}\n',
    b'{"__name__": "number-of-cpus", "count": 2}\n{"__name__": "fqdn", "fqdn": "a.b"}\n',
    b'{"__name__": "completion", "reply_id": 5}\n{"__name__": "session-startup"}\n',
]
WORDS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\\u", b"\\ud800", b"null", b"true", b"1e999", b"\xff"]
WORDS += [b'"__name__": "%s"' % name.encode() for name in messages._KINDS]


def hear(data: bytes) -> None:
    """As the daemon does."""
    lines, known = Lines(), GuestFigures()
    for at in range(0, len(data), 1000):
        for line in lines.feed(data[at : at + 1000]):
            try:
                message = decode(line)
            except BadMessage as error:
                assert len(str(error)) <= 300
                continue
            known = figures.apply(known, message, 0.0)
    figures.note_reboot(known, 0.0)
    text = msgspec.json.encode(known).decode()
    assert clean(text, len(text)) == text, "what is passed on is harmless"


def test_the_ovirt_agent(rounds: Rounds) -> None:
    new_ways = fuzz(hear, TALK, under=(messages, figures), count=rounds(3000, 300_000), words=WORDS, number=NUMBER)
    assert new_ways > 2


ANSWERS = [
    b'{"return": {"version": "7", "supported_commands": [{"name": "guest-get-users", "enabled": true}]}}',
    b'{"return": [{"online": true}, {"online": false, "logical-id": 1}]}',
    b'{"return": [{"driver-name": "d", "driver-date": 1600000000000, "id": {"device-id": 1, "vendor-id": 2}}]}',
    b'{"return": [{"name": "e", "ip-addresses": [{"ip-address": "fe80::1%e", "ip-address-type": "ipv6"}]}]}',
    b'{"return": {"host-name": "h", "id": "mswindows", "machine": "i686", "kernel-release": "6", "offset": -5}}',
    b'{"return": [{"user": "u", "domain": "d"}, {"user": "\\ud800"}]}',
    b'{"return": [{"mountpoint": "/", "total-bytes": 9, "used-bytes": 3, "disk": [{"serial": "s", "dev": "/a1"}]}]}',
    b'{"return": [{"name": "/dev/a", "partition": false, "address": {"serial": "s"}}]}',
]


def ask(data: bytes) -> None:
    """Whatever was asked, that is the answer."""
    known = GuestFigures()
    for command in qemu_agent.PERIODS:
        try:
            known = qemu_agent.read(known, command, data.decode("utf-8", "surrogateescape"))
        except BadAnswer as error:
            assert len(str(error)) <= 300
    qemu_agent.has_address(known)
    text = msgspec.json.encode(figures.merge(GuestFigures(applications=["a"]), known)).decode()
    assert clean(text, len(text)) == text, "what is passed on is harmless"


def test_the_qemu_agent(rounds: Rounds) -> None:
    new_ways = fuzz(ask, ANSWERS, under=(qemu_agent, figures), count=rounds(2000, 200_000), words=WORDS, number=NUMBER)
    assert new_ways > 2
