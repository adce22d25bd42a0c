"""Texts in which what TPMs and firmware keep travels: both forms are read, nothing else is, and bombs do not go off."""

import base64
import bz2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.virt.builders import domain_xml
from vdsm.api.errors import ExternalDataFailed
from vdsm.virt import kept_data
from vdsm.virt.domain import parse_domain
from vdsm.virt.kept_data import KINDS, decode, encode, get_hash, has_device, read_data

TPM = '<tpm model="tpm-crb"><backend type="{}" version="2.0"/></tpm>'


@given(st.binary(max_size=1000), st.sampled_from(KINDS))
def test_what_is_told_can_be_brought_back(payload: bytes, kind: str) -> None:
    text = encode(kind, payload)
    assert text.startswith("=0=") is (kind == "nvram")
    assert decode(kind, text) == payload
    assert decode(kind, "\n".join(text[at : at + 7] for at in range(0, len(text), 7))) == payload


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_are_read_for_both_kinds(kind: str) -> None:
    plain = base64.b64encode(b"abc").decode()
    packed = "=0=" + base64.b64encode(bz2.compress(b"abc")).decode()
    assert decode(kind, plain) == decode(kind, packed) == b"abc"


BOMB = "=0=" + base64.b64encode(bz2.compress(bytes(kept_data.LARGEST + 1))).decode()
SHORT = "=0=" + base64.b64encode(bz2.compress(bytes(1000))[:-8]).decode()


@pytest.mark.parametrize(
    "text",
    ["=1=QUJD", "=0=QUJD", "no base64", "QUJ", "QUJD é", BOMB, SHORT, "A" * (2 * kept_data.LARGEST + 4)],
    ids=["prefix", "no bzip2", "blanks", "padding", "accents", "bomb", "short", "long"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ExternalDataFailed) as caught:
        decode("nvram", text)
    assert caught.value.number == 89 and len(str(caught.value)) < 300


def test_devices_that_keep_something() -> None:
    bare = parse_domain(domain_xml())
    emulated = parse_domain(domain_xml(devices=TPM.format("emulator")))
    passed_through = parse_domain(domain_xml(devices=TPM.format("passthrough")))
    firmware = parse_domain(domain_xml().replace("</os>", "<nvram>/x.fd</nvram></os>"))
    assert [has_device(view, "tpm") for view in (None, bare, emulated, passed_through)] == [False, False, True, False]
    assert [has_device(view, "nvram") for view in (None, bare, firmware)] == [False, False, True]
    assert not has_device(emulated, "floppy")
    assert read_data({"tpm": "QUJD"}, emulated) == {"tpm": b"ABC"}
    assert read_data({"nvram": "QUJD", "tpm": ""}, emulated) == {}


def test_the_hash() -> None:
    assert get_hash("") == ""
    assert get_hash("a").startswith("ca978112")
