"""The VM's metadata survives being written and read, whatever is in it."""

from xml.etree.ElementTree import fromstring, tostring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.core.errors import InvalidArgument
from vdsm.virt.lifecycle import ExitInfo, ExitReason
from vdsm.virt.metadata import (
    VM_URI,
    Branch,
    DeviceMetadata,
    MetadataInvalid,
    VmMetadata,
    find_metadata,
    format_metadata,
    parse_metadata,
    set_metadata,
)

TEXT = st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f\ufffe\uffff", exclude_categories=("Cs",)))
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,12}", fullmatch=True).filter(lambda n: n not in ("device", "custom"))
LIMIT = 2**63
SCALAR = st.one_of(TEXT, st.integers(-LIMIT, LIMIT - 1), st.booleans(), st.floats(-LIMIT, LIMIT, exclude_max=True))
SCALARS = st.dictionaries(NAME, SCALAR, max_size=4)
DEVICE = st.builds(
    DeviceMetadata,
    st.dictionaries(NAME, TEXT, max_size=2),
    st.dictionaries(NAME, SCALAR, min_size=1, max_size=3),
    st.just((Branch("chain", {"a": "b"}, "", (Branch("node", {}, "text", ()),)),)),
)
METADATA = st.builds(
    VmMetadata, SCALARS, st.lists(DEVICE, max_size=2).map(tuple), st.dictionaries(NAME, TEXT, max_size=2)
)


def parse(inner: str) -> VmMetadata:
    return parse_metadata(fromstring(f'<x:vm xmlns:x="{VM_URI}">{inner}</x:vm>'))


@given(METADATA)
def test_round_trip_through_the_metadata_call(metadata: VmMetadata) -> None:
    assert parse_metadata(fromstring(format_metadata(metadata))) == metadata


@given(METADATA)
def test_round_trip_through_the_domain(metadata: VmMetadata) -> None:
    domain = fromstring("<domain><metadata><other xmlns='urn:other'>kept</other></metadata></domain>")
    set_metadata(domain, VmMetadata({"old": 1}))
    set_metadata(domain, metadata)
    again = fromstring(tostring(domain))
    assert find_metadata(again) == metadata
    assert again.findtext("metadata/{urn:other}other") == "kept"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('<a type="bool">True</a>', True),
        ('<a type="bool">tRUE</a>', True),
        ('<a type="bool">2</a>', True),
        ('<a type="bool">0</a>', False),
        ('<a type="bool">yes</a>', False),
        ('<a type="bool">False</a>', False),
        ('<a type="int">7</a>', 7),
        ('<a type="float">7</a>', 7.0),
        ('<a type="unknown">7</a>', "7"),
        ("<a>7</a>", "7"),
        ("<a/>", ""),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse(text).values["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("hint", ["bool", "int", "float"])
def test_empty_text_is_no_number(hint: str) -> None:
    with pytest.raises(MetadataInvalid, match="a: ''"):
        parse(f'<a type="{hint}"/>')


def test_scalars_come_first_and_sorted_then_devices_then_custom() -> None:
    metadata = VmMetadata({"b": 1, "a": "x"}, (DeviceMetadata({"devtype": "disk"}, {"q": True}),), {"p": "v"})
    assert format_metadata(metadata) == (
        '<vm><a>x</a><b type="int">1</b><device devtype="disk"><q type="bool">True</q></device>'
        "<custom><p>v</p></custom></vm>"
    )


def test_devices_without_data_and_unknown_trees_are_dropped() -> None:
    metadata = parse('<device devtype="disk" name="vda"/><strange><deep/></strange><kept>1</kept>')
    assert format_metadata(metadata) == "<vm><kept>1</kept></vm>"


def test_a_device_is_found_by_all_its_attributes() -> None:
    metadata = parse(
        '<device devtype="disk" name="vda" extra="1"><GUID>a</GUID></device>'
        '<device devtype="disk" name="vdb"><GUID>b</GUID></device>'
        '<device mac_address="00:11"><network>n</network></device>'
    )
    found = metadata.device(devtype="disk", name="vda")
    assert found is not None and found.values == {"GUID": "a"}
    assert metadata.device(devtype="disk", name="vdc") is None
    with pytest.raises(MetadataInvalid):
        metadata.device(devtype="disk")


def test_a_volume_needs_all_four_ids() -> None:
    ids = {"poolID": "p", "domainID": "d", "imageID": "i", "volumeID": "v"}
    whole = DeviceMetadata({}, ids).volume
    assert whole is not None and whole.image_id == "i"
    for key in ids:
        assert DeviceMetadata({}, {**ids, key: ""}).volume is None


def test_who_has_no_owner_belongs_to_the_root() -> None:
    assert parse("").owner == "/"
    assert parse("<owner>/srv/node</owner>").owner == "/srv/node"


def test_exit_information_survives() -> None:
    end = ExitInfo.of(ExitReason.LOST_QEMU)
    assert parse_metadata(fromstring(format_metadata(VmMetadata().with_exit(end)))).exit == end
    assert parse('<exitCode type="int">1</exitCode>').exit is None
    unknown = parse('<exitCode type="int">1</exitCode><exitReason type="int">99</exitReason>').exit
    assert unknown is not None and unknown.reason is ExitReason.GENERIC_ERROR


def test_guaranteed_memory_prefers_the_engine() -> None:
    assert VmMetadata({"memGuaranteedSize": 5}).guaranteed_memory_mib == 5
    assert VmMetadata({"memGuaranteedSize": 5, "minGuaranteedMemoryMb": 6}).guaranteed_memory_mib == 6


def test_hostile_text_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        format_metadata(VmMetadata({"a": "\x00"}))
