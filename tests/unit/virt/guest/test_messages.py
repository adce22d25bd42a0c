"""The oVirt agent's bytes: whatever they are, they become messages within bounds or a named error."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.virt.guest import messages
from vdsm.virt.guest.messages import BadMessage, Lines, clean, decode, encode


def line(name: str, /, **arguments: object) -> bytes:
    return json.dumps({"__name__": name, **arguments}).encode()


def test_numbers_may_be_text_as_agents_of_windows_tell_them() -> None:
    found = decode(line("heartbeat", **{"free-ram": "512", "memory-stat": {"mem_total": "1", "majflt": 2.5}}))
    assert found == messages.Heartbeat(free_mib=512, memory=messages.Memory(mem_total=1, majflt=2.5))


@pytest.mark.parametrize("name", ["session-startup", "session-shutdown"])
def test_messages_without_effect_are_understood(name: str) -> None:
    assert decode(line(name, reply_id=5)) == messages.Noted()


@pytest.mark.parametrize(
    "bad",
    [
        *(b"", b"{", b"[]", b"5", b"null", b"{}", b'{"__name__": 5}', b'{"__name__": "unheard-of"}', b"\xff" * 9),
        *(line("host-name"), line("host-name", name=5), line("host-name", name=["a"])),
        *(line("applications", applications={}), line("applications", applications=[1])),
        line("network-interfaces", interfaces=[{"inet": ["1"]}]),
        line("disks-usage", disks=[{"path": "/", "total": "much", "used": 1, "fs": ""}]),
        b'{"__name__": "number-of-cpus", "count": 1e999}',
        b'{"__name__": "number-of-cpus", "count": ' + b"9" * 100_000 + b"}",
        b'{"__name__": "host-name", "x": ' + b"[" * 300_000 + b"]" * 300_000 + b', "name": "a"}',
        b'{"__name__": "host-name", "x": ' + b'{"a":' * 200_000,
    ],
)
def test_what_is_no_message_is_told_shortly(bad: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(bad)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        (rb"a\ud800b", "a\ufffdb"),
        (rb"\udc00\ud83d\ude00\\ud800", "\ufffd😀\\ud800"),
        (rb"\ud83d\ud83d\ude00", "\ufffd😀"),
        (b"\xff\xc3\xa9\xed\xa0\x80", "\ufffdé\ufffd\ufffd\ufffd"),
        (rb"\u0000\u001b\u0085\u009f\ufffe", "\0\x1b\x85\x9f\ufffe"),
    ],
)
def test_text_that_is_none(told: bytes, understood: str) -> None:
    assert decode(b'{"__name__": "host-name", "name": "' + told + b'"}') == messages.HostName(understood)


def test_characters_that_harm_are_replaced() -> None:
    harmful = [0, 8, 0xB, 0xC, 0xE, 0x1F, 0x7F, 0x84, 0x86, 0x9F, 0xD800, 0xDFFF, 0xFFFE, 0xFFFF]
    assert clean("".join(map(chr, harmful)), 100) == "\ufffd" * len(harmful)
    fine = "".join(map(chr, [9, 0xA, 0xD, 0x20, 0x7E, 0x85, 0xA0, 0xD7FF, 0xE000, 0xFFFD, 0x10000]))
    assert clean(fine, 100) == fine
    assert clean("abc", 2) == "ab"


def test_what_we_say_is_one_line() -> None:
    said = encode("login", {"username": "a\nb@c", "password": 'x"\n'})
    assert said.count(b"\n") == 1 and said.endswith(b"\n")
    assert json.loads(said) == {"__name__": "login", "username": "a\nb@c", "password": 'x"\n'}


def feed(pieces: Iterable[bytes]) -> list[bytes]:
    lines = Lines()
    return [line for piece in pieces for line in lines.feed(piece)]


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\nd", b"\n\n"])))
def test_lines_are_the_same_however_they_arrive(pieces: list[bytes]) -> None:
    *ended, _ = b"".join(pieces).split(b"\n")
    assert feed(pieces) == [line for line in ended if line]


@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 1 << 22])
def test_a_line_that_is_too_long_is_skipped(size: int) -> None:
    longest, endless = b"l" * messages.LONGEST_LINE, b"e" * (messages.LONGEST_LINE + 1)
    data = b"a\n" + longest + b"\n" + endless + b"\nb\n" + endless * 3 + b"\nc\n"
    assert feed(data[at : at + size] for at in range(0, len(data), size)) == [b"a", longest, b"b", b"c"]


def test_an_endless_line_is_not_kept() -> None:
    lines = Lines()
    for _ in range(100):
        assert list(lines.feed(b"x" * 65536)) == []
        assert len(lines._rest) <= messages.LONGEST_LINE
