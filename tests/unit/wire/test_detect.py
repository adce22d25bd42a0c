"""First bytes tell the protocol, as early as they can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.wire.detect import LONGEST_WORD, Spoken, detect

STOMP = "MESSAGE SEND SUBSCRIBE UNSUBSCRIBE CONNECT CONNECTED ERROR RECEIPT DISCONNECT STOMP ACK".split()
HTTP = "GET PUT POST HEAD DELETE OPTIONS PATCH CONNECT".split()


@pytest.mark.parametrize("command", STOMP)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_command_on_a_line_is_stomp(command, line_end):
    assert detect(command.encode() + line_end) is Spoken.STOMP


@pytest.mark.parametrize("method", HTTP)
def test_a_method_before_a_space_is_http(method):
    assert detect(method.encode() + b" ") is Spoken.HTTP


@pytest.mark.parametrize("first", [b"\n", b"get /", b"{", b"SEND:", b"CONNECT\rX", b"\0", b"A" * LONGEST_WORD])
def test_others_are_unknown_at_once(first):
    assert detect(first) is Spoken.UNKNOWN


def test_tls_is_told_apart():
    assert detect(b"\x16\x03\x01") is Spoken.TLS


@given(st.binary(max_size=30) | st.sampled_from([b"CONNECT\r\n", b"CONNECT /", b"UNSUBSCRIBE\n", b"A" * 30]))
def test_more_bytes_never_change_a_decision_and_enough_always_make_one(data):
    decisions = [detect(data[:n]) for n in range(len(data) + 1)]
    made = [decision for decision in decisions if decision is not None]
    assert len(set(made)) <= 1
    assert detect(data + b"." * (LONGEST_WORD + 2)) is not None
    assert len(made) == 0 or all(d is not None for d in decisions[decisions.index(made[0]) :])
