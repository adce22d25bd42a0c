"""Bodies of 2011: calls read, answers written."""

from typing import Any
from xmlrpc.client import dumps, loads

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.wire.dialects.xmlrpc import BadCall, format_answer, format_fault, parse_call


def answer(value: Any) -> Any:
    (read,), _ = loads(format_answer(value), use_builtin_types=True)
    return read


def test_a_call() -> None:
    body = dumps((1, "é", [True, {"a": 1.5}]), "create", encoding="utf-8").encode()
    assert parse_call(body) == ("create", [1, "é", [True, {"a": 1.5}]])
    assert parse_call(b"<methodCall><methodName>ping</methodName></methodCall>") == ("ping", [])


def test_null_of_newer_clients() -> None:
    assert parse_call(dumps((None,), "list", allow_none=True).encode()) == ("list", [None])


def test_numbers_beyond_32_bits_become_text_and_null_is_left_out() -> None:
    value = {"small": 2**31 - 1, "large": 2**31, "below": -(2**31) - 1, "flag": True, "none": None, "list": [1, None]}
    told = {"small": 2**31 - 1, "large": str(2**31), "below": str(-(2**31) - 1), "flag": True, "list": [1]}
    assert answer(value) == told


def test_characters_that_xml_cannot_carry() -> None:
    assert answer("a\0b\x1b\ud800\uffff\U0001f525\n") == "a?b???\U0001f525\n"
    assert answer({"a\0": 1}) == {"a?": 1}
    assert b"not \x3f known" in format_fault(1, "not \x01 known")


@given(st.binary(max_size=200))
def test_garbage_is_a_bad_call(body: bytes) -> None:
    with pytest.raises(BadCall):
        parse_call(body)


TOKENS = st.sampled_from(
    "methodCall methodName params param value int i4 string array data struct member name boolean double "
    "dateTime.iso8601 base64 nil fault methodResponse".split()
)
PIECES = st.builds("<{}>".format, TOKENS) | st.builds("</{}>".format, TOKENS) | st.text("ping1-. é", max_size=4)


@given(st.lists(PIECES, max_size=30))
def test_what_is_almost_a_call_is_read_or_a_bad_call(pieces: list[str]) -> None:
    body = "<methodCall><methodName>x</methodName>" + "".join(pieces) + "</methodCall>"
    try:
        method, parameters = parse_call(body.encode())
    except BadCall:
        return
    assert isinstance(method, str)
    assert isinstance(parameters, list)


def test_nesting_has_an_end() -> None:
    def nest(depth: int) -> bytes:
        value = b"<value><array><data>" * depth + b"</data></array></value>" * depth
        return b"<methodCall><methodName>x</methodName><params><param>" + value + b"</param></params></methodCall>"

    assert parse_call(nest(50))[0] == "x"
    for depth in (100, 20_000):
        with pytest.raises(BadCall):
            parse_call(nest(depth))
