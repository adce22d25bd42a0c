"""STOMP frames: any split of the bytes gives the same frames, and no bytes do worse than a FrameError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.wire.ports import Limits
from vdsm.wire.stomp import Frame, FrameError, FrameReader, format_frame

USUAL = Limits()
SMALL = Limits(frame_bytes=200, header_bytes=100)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
frames = st.tuples(
    st.sampled_from(["SEND", "MESSAGE", "SUBSCRIBE"]),
    st.dictionaries(texts.filter(lambda name: name not in ("", "content-length")), texts, max_size=4),
    st.binary(max_size=40),
)


def read_all(data: bytes, limits: Limits = USUAL) -> list[Frame]:
    reader = FrameReader(limits)
    reader.feed(data)
    return drain(reader)


def drain(reader: FrameReader) -> list[Frame]:
    frames = []
    while (frame := reader.get_frame()) is not None:
        frames.append(frame)
    return frames


def read_in_pieces(data: bytes, cuts: list[int], limits: Limits) -> tuple[list[Frame], bool]:
    """The frames, and whether the reader broke."""
    reader = FrameReader(limits)
    found = []
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in zip(edges, edges[1:] or [len(data)], strict=False):
        reader.feed(data[start:end])
        try:
            while (frame := reader.get_frame()) is not None:
                found.append(frame)
        except FrameError:
            return found, True
    return found, False


@given(st.lists(frames, max_size=4), st.lists(st.integers(0, 400), max_size=12))
def test_what_is_written_is_read_back_however_it_is_split(sent, cuts):
    data = b"\n".join(format_frame(command, headers.items(), body) for command, headers, body in sent)
    found, broken = read_in_pieces(data, cuts, Limits())
    assert not broken
    assert [(f.command, f.body) for f in found] == [(command, body) for command, _, body in sent]
    for frame, (_, headers, body) in zip(found, sent, strict=True):
        assert frame.headers == headers | ({"content-length": str(len(body))} if body else {})


noise = st.lists(
    st.sampled_from(
        [
            b"SEND\n",
            b"SEND\r\n",
            b"a:b\n",
            b"a:\\c\r\n",
            b"content-length:3\n",
            b"content-length:99999\n",
            b"\n",
            b"\r\n",
        ]
        + [b"\0", b"\r", b"abc", b"abc\0", b"\\", b":", b"x" * 50, b"\xff", b"MESSAGE\n\n\0"]
    )
    | st.binary(max_size=5),
    max_size=25,
).map(b"".join)


@given(noise, st.lists(st.integers(0, 300), max_size=30))
def test_any_bytes_give_the_same_frames_or_failure_however_they_are_split(data, cuts):
    assert read_in_pieces(data, cuts, SMALL) == read_in_pieces(data, [], SMALL)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_reads_either_line_end_and_skips_heartbeats(line_end):
    data = f"\n\r\n\nSEND{line_end}destination:a{line_end}{line_end}body\0\n\n".encode()
    assert read_all(data) == [Frame("SEND", {"destination": "a"}, b"body")]


def test_a_blank_line_in_the_body_does_not_end_headers_with_carriage_returns():
    assert read_all(b"SEND\r\na:b\r\n\r\n{\n\n}\0") == [Frame("SEND", {"a": "b"}, b"{\n\n}")]


def test_first_of_a_repeated_header_wins_and_escapes_are_resolved():
    [frame] = read_all(b"SEND\na:1\na:2\nx\\cy:p\\nq\\\\r\\r\n\n\0")
    assert frame.headers == {"a": "1", "x:y": "p\nq\\r\r"}


def test_body_with_nul_is_read_by_its_length():
    [frame] = read_all(b"SEND\ncontent-length:3\n\n\0a\0\0")
    assert frame.body == b"\0a\0"


def test_connect_may_hold_an_unescaped_address():
    [frame] = read_all(b"CONNECT\nhost:[::1]:54321\n\n\0")
    assert frame.headers["host"] == "[::1]:54321"


@pytest.mark.parametrize(
    "data",
    [
        b"SEND\na:b\\tc\n\n\0",
        b"SEND\na:b\\\n\n\0",
        b"SEND\na:b:c\n\n\0",
        b"SEND\nno colon\n\n\0",
        b"SEND\n:empty name\n\n\0",
        b"SEND\na:\xff\n\n\0",
        b"SEND\ncontent-length:1\n\nab\0",
        b"SEND\ncontent-length:-1\n\n\0",
        b"SEND\ncontent-length:1e1\n\n\0",
        b"SEND\ncontent-length:" + b"9" * 30 + b"\n\n",
        "SEND\ncontent-length:\N{SUPERSCRIPT TWO}\n\nab\0".encode(),
        b"SEND\ncontent-length:201\n\n",
        b"DISCONNECT\0",
        b"S" * 101,
        b"SEND\na:" + b"b" * 120 + b"\n\n\0",
        b"SEND\n\n" + b"x" * 201,
    ],
)
def test_malformed_frames_are_refused_as_soon_as_it_shows(data):
    reader = FrameReader(SMALL)
    reader.feed(data)
    with pytest.raises(FrameError):
        drain(reader)
    reader.feed(b"SEND\n\n\0")
    with pytest.raises(FrameError):
        reader.get_frame()


def test_frames_before_a_malformed_one_are_given_out():
    reader = FrameReader(SMALL)
    reader.feed(b"SEND\n\n\0SEND\nbad\n\n\0")
    assert reader.get_frame() == Frame("SEND")
    with pytest.raises(FrameError):
        reader.get_frame()


def test_memory_is_given_back_once_frames_are_out():
    reader = FrameReader(Limits())
    reader.feed(b"SEND\n\nx\0" * 1000)
    assert len(drain(reader)) == 1000
    reader.feed(b"SE")
    assert reader.unread_bytes == 2
    assert len(reader._buffer) == 2


def test_a_reader_that_waits_keeps_nothing_of_what_it_gave_out():
    reader = FrameReader(USUAL)
    reader.feed(format_frame("SEND", (), b"x" * 1_000_000) + b"\nSEND\n")
    assert [frame.command for frame in drain(reader)] == ["SEND"]
    assert len(reader._buffer) == reader.unread_bytes < 10
