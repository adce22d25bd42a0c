"""How declared types look in the oVirt dialects, both ways."""

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from vdsm.api.declare import ovirt
from vdsm.core.masking import MASK
from vdsm.wire.dialects.forms import BadValue, Forms

WORDS = {"4": "COW", "5": "RAW", "OLD": "RAW"}


class Inner(Struct, frozen=True, kw_only=True):
    size_bytes: Annotated[int, ovirt("size", as_=str)]
    note: str = ""


class Outer(Struct, frozen=True, kw_only=True):
    name: Annotated[str, ovirt("vmName")]
    share: Annotated[float | UnsetType, ovirt("share", as_=str, format="%.2f")] = UNSET
    enabled: Annotated[bool | UnsetType, ovirt("kvmEnable", as_=str)] = UNSET
    disks: Annotated[list[Inner] | UnsetType, ovirt("devices")] = UNSET
    by_name: Annotated[dict[str, Inner] | UnsetType, ovirt("byName")] = UNSET
    kind: Annotated[Literal["COW", "RAW"] | UnsetType, ovirt("volFormat", words=WORDS)] = UNSET


def encode(value: Any) -> Any:
    encoder = Forms().get(type(value)).encode
    assert encoder is not None
    return encoder(value)


def decode(hint: Any, value: Any, *, loose: tuple[type[Struct], ...] = ()) -> Any:
    return Forms(loose).get(hint).decode(value, "here")


FULL = Outer(
    name="a",
    share=1.005,
    enabled=True,
    disks=[Inner(size_bytes=2**40), Inner(size_bytes=1, note="x")],
    by_name={"b": Inner(size_bytes=7)},
    kind="COW",
)
WIRE = {
    "vmName": "a",
    "share": "1.00",
    "kvmEnable": "true",
    "devices": [{"size": str(2**40), "note": ""}, {"size": "1", "note": "x"}],
    "byName": {"b": {"size": "7", "note": ""}},
    "volFormat": "COW",
}


def test_names_and_numbers_as_text() -> None:
    assert encode(FULL) == WIRE


def test_what_is_not_known_is_absent() -> None:
    assert encode(Outer(name="a")) == {"vmName": "a"}
    assert decode(Outer, {"vmName": "a", "share": None, "stranger": 1}) == Outer(name="a")


def test_reading_is_the_reverse() -> None:
    read = decode(Outer, WIRE)
    assert (read.disks, read.by_name, read.enabled, read.share) == (FULL.disks, FULL.by_name, True, 1.0)


@pytest.mark.parametrize(("word", "value"), [("COW", "COW"), ("4", "COW"), (4, "COW"), ("old", "RAW"), (5, "RAW")])
def test_old_words(word: Any, value: str) -> None:
    assert decode(Outer, {"vmName": "a", "volFormat": word}).kind == value


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({}, "here.vmName"),
        ({"vmName": 7}, "here.vmName"),
        ({"vmName": "a", "devices": {}}, "here.devices"),
        ({"vmName": "a", "devices": [{"size": "1"}, {"size": "x"}]}, "here.devices[1].size"),
        ({"vmName": "a", "devices": [None]}, "here.devices[0]"),
        ({"vmName": "a", "byName": []}, "here.byName"),
        ({"vmName": "a", "byName": {"b": {}}}, "here.byName.'b'.size"),
        ({"vmName": "a", "byName": {7: {"size": 1}}}, "here.byName"),
        ({"vmName": "a", "kvmEnable": "perhaps"}, "here.kvmEnable"),
        ({"vmName": "a", "share": True}, "here.share"),
        ({"vmName": "a", "share": "nan"}, "here.share"),
        ({"vmName": "a", "devices": [{"size": 2**63}]}, "here.devices[0].size"),
        ({"vmName": "a", "volFormat": True}, "here.volFormat"),
        ({"vmName": "a", "volFormat": "6"}, "here.volFormat"),
        ([], "here"),
    ],
)
def test_what_does_not_fit_is_told_where(given: Any, where: str) -> None:
    with pytest.raises(BadValue) as caught:
        decode(Outer, given)
    assert caught.value.where == where


def test_text_may_be_a_number_only_where_old_scripts_write_it() -> None:
    assert decode(Outer, {"vmName": 7}, loose=(Outer,)).name == "7"
    assert decode(Outer, {"vmName": True}, loose=(Outer,)).name == "true"
    with pytest.raises(BadValue):
        decode(Outer, {"vmName": [7]}, loose=(Outer,))


@pytest.mark.parametrize("value", [7, 7.0, True, "1e9", "0x7", "7.0", " 7", "", "\u0667", "9" * 30, "-1"])
def test_a_number_that_must_be_text(value: Any) -> None:
    hint = Annotated[int, Meta(ge=0), ovirt("size", as_=str, text_only=True)]
    assert decode(hint, "7") == 7
    with pytest.raises(BadValue):
        decode(hint, value)


def test_an_error_never_shows_a_secret_nor_a_whole_document() -> None:
    class Login(Struct):
        password: str
        user: str

    with pytest.raises(BadValue) as caught:
        decode(Login, {"password": ["s3cret"], "user": "x"})
    assert "s3cret" not in str(caught.value)
    assert MASK in str(caught.value)
    with pytest.raises(BadValue) as caught:
        decode(Login, {"password": "x", "user": ["long"] * 1000})
    assert len(str(caught.value)) < 200


def test_types_are_published_under_their_names() -> None:
    forms = Forms()
    assert forms.get(Outer).schema == "Outer"
    fields = {field["name"]: field for field in forms.types["Outer"]["fields"]}
    assert fields["vmName"] == {"name": "vmName", "type": "string"}
    assert fields["kvmEnable"] == {"name": "kvmEnable", "type": "string", "optional": True}
    assert fields["devices"]["type"] == ["Inner"]
    assert forms.types[fields["volFormat"]["type"]] == {"kind": "enum", "values": ["COW", "RAW", "OLD"]}
    assert forms.types[fields["byName"]["type"]] == {"kind": "map", "key": "string", "value": "Inner"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("vmName"), inner, max_size=4),
    max_leaves=8,
)


@given(anything)
def test_nothing_but_a_bad_value_is_ever_raised(value: Any) -> None:
    try:
        read = decode(Outer, value, loose=(Outer, Inner))
    except BadValue as error:
        assert error.where.startswith("here")
    else:
        assert isinstance(read, Outer)
