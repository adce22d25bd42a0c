"""Pickles on shared storage: plain values come back, everything else is refused by name, nothing is run."""

import pickle
import pickletools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzz
from tests.rounds import SOAK_FACTOR
from vdsm.virt import pickles, saved
from vdsm.virt.pickles import PickleInvalid
from vdsm.virt.saved import parse_parameters

NUMBER = random.randrange(1 << 32) if SOAK_FACTOR else 0
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_keys = st.booleans() | st.integers() | st.text() | st.binary()
VALUES = st.recursive(
    _scalars, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_keys, inner), max_leaves=20
)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_of_every_protocol(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    if not any(opcode.name == "STACK_GLOBAL" for opcode, _, _ in pickletools.genops(data)):
        assert pickles.load(data + b"\0" * 100) == value


def test_what_is_told_twice_is_one_value() -> None:
    text = "x" * 1000
    first, second = pickles.load(pickle.dumps([text, text], protocol=2))  # type: ignore[misc]
    assert first is second


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"(S'x'\nios\nsystem\n.",
        pickle.dumps({1, 2}),
        pickle.dumps(bytearray(b"x")),
        pickle.dumps(complex(1)),
        pickle.dumps(Exception("x")),
        b"(lp0\n",
        b"]]]a",
        b"l.",
        b"(.",
        b"c_codecs\nencode\n.",
        b"](a.",
        b"(c_codecs\nencode\nl.",
        b"(K\x01K\x02c_codecs\nencode\nd.",
        b"e.",
        b"}(K\x01u.",
        b"}]K\x01s.",
        b"g5\n.",
        b"\x8a\xff\x00.",
        b"X\xff\xff\xff\xffx.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02" + b"]" * (1 << 21),
        b"c_codecs\nencode\n)\x81.",
        b"c_codecs\nencode\nK\x01K\x02\x86R.",
        b"c_codecs\nencode\nX\x04\x00\x00\x00\xf0\x9f\x98\x80X\x06\x00\x00\x00latin1\x86R.",
    ],
)
def test_everything_else_is_refused(data: bytes) -> None:
    with pytest.raises(PickleInvalid):
        pickles.load(data)


def test_a_place_in_the_memo_costs_nothing() -> None:
    assert pickles.load(b"Nr\xff\xff\xff\xff.") is None


def test_what_is_written_is_read_and_fills_blocks() -> None:
    values = {"a": "ä" * 5000, "b": 1.5, "c": True}
    data = pickles.dump(values)
    assert len(data) % 4096 == 0 and pickle.loads(data) == values == pickles.load(data)  # noqa: S301


def test_what_stands_beside_a_memory() -> None:
    told = parse_parameters(
        pickle.dumps({"restoreFromSnapshot": True, "_srcDomXML": "<a/>", "elapsedTimeOffset": 7}, 2)
    )
    assert (told.is_snapshot, told.live_xml, told.elapsed_s) == (True, "<a/>", 7.0)
    for odd in (True, -1, 2.0**80, "7", None, float("nan")):
        told = parse_parameters(
            pickle.dumps({"elapsedTimeOffset": odd, "_srcDomXML": b"x", "restoreFromSnapshot": 1}, 2)
        )
        assert (told.is_snapshot, told.live_xml, told.elapsed_s) == (False, "", None)
    with pytest.raises(PickleInvalid):
        parse_parameters(pickle.dumps([], 2))


def test_fuzzed_pickles_have_named_errors(rounds: Callable[[int, int], int]) -> None:
    value = {"_srcDomXML": "<domain/>", "elapsedTimeOffset": 1.5, "l": [1, (2, b"x"), {"y": None}], 5: True}
    seeds = [pickle.dumps(value, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]

    def target(data: bytes) -> None:
        try:
            parse_parameters(data)
        except PickleInvalid:
            pass

    words = (
        b"c_codecs\nencode\n",
        b"R",
        b"(",
        b"t",
        b"u",
        b"s",
        b"e",
        b"a",
        b"\x94",
        b"h\x00",
        b"q\x00",
        b".",
        b"r\xff\xff\xff\x7f",
    )
    fuzz(target, seeds, under=(pickles, saved), count=rounds(3000, 300_000), words=words, number=NUMBER)
