"""Depth of JSON without parsing it, against a parser that counts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.wire.nesting import nests_deeper

documents = st.recursive(
    st.none() | st.text('ab"\\[]{}\n', max_size=6) | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{', max_size=3), inner, max_size=3),
    max_leaves=25,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(documents, st.integers(0, 8))
def test_agrees_with_a_parser(document, limit):
    assert nests_deeper(json.dumps(document).encode(), limit) == (depth(document) > limit)


@given(st.binary(max_size=200), st.integers(0, 3))
def test_takes_any_bytes(body, limit):
    nests_deeper(body, limit)


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 200_000, b"[]" * 100_000 + b"[" * 65, b'"[[",' * 50_000 + b"[" * 65]
)
def test_finds_depth_far_into_a_body(body):
    assert nests_deeper(body, 64)


def test_brackets_in_strings_and_side_by_side_do_not_count():
    body = json.dumps([["[" * 70_000], [], {}] * 20).encode()
    assert not nests_deeper(body, 64)
