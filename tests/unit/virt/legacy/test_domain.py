"""What clients send becomes the domain XML that is kept in tests/golden/domxml; nothing hostile gets into it."""

import string
from xml.etree.ElementTree import Element, fromstring, indent

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.domains import CASE_ID, Case, list_cases
from tests.unit.virt.builders import HOST, VM_ID, parameters, plan
from vdsm.api.vm import VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.virt import hostedits
from vdsm.virt.devices.payload import list_payloads
from vdsm.virt.elements import check_text, element, format_xml, parse_xml
from vdsm.virt.legacy.devices import Defaults
from vdsm.virt.legacy.domain import build_domain
from vdsm.virt.ports import PreparedImage
from vdsm.virt.request import Wish


def build(given: VmParameters) -> Element:
    return build_domain(VM_ID, given, HOST, Defaults())


def complete(wish: Wish) -> None:
    """Put in what is prepared when the VM starts."""
    volumes = {disk.target: disk.volume for disk in wish.view.disks if disk.volume is not None}
    images = {
        target: PreparedImage(
            f"/run/vdsm/storage/{volume.domain_id}/{volume.image_id}/{volume.volume_id}", "file", "cow"
        )
        for target, volume in volumes.items()
    }
    for target in list_payloads(CASE_ID, wish.view.disks, wish.metadata):
        images[target] = PreparedImage(f"/run/vdsm/payload/{CASE_ID}-{target}.img", "file", "raw")
    hostedits.set_images(wish.domain, images, relabel=False)
    leases = dict.fromkeys(hostedits.list_open_leases(wish.domain), ("/run/vdsm/storage/xleases", "3145728"))
    hostedits.set_leases(wish.domain, leases)


@pytest.mark.parametrize("case", list_cases(), ids=lambda case: case.name)
def test_golden(case: Case, regenerate: bool) -> None:
    wish = plan(case.parse(), vm_id=CASE_ID)
    complete(wish)
    indent(wish.domain)
    text = format_xml(wish.domain) + "\n"
    if regenerate:
        case.expected.write_text(text)
    assert text == case.expected.read_text()


HOSTILE = st.text(
    st.sampled_from([*"<>&\"'/]}{;$`", "\n", "\t", "é", "\U0001f600", *string.ascii_letters]), min_size=1, max_size=30
)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_hostile_text_stays_text(name: str, arguments: str, path: str) -> None:
    domain = build(
        parameters(
            name=name,
            kernel=path,
            kernel_arguments=arguments,
            custom={"note": arguments},
            cpu_type=name,
            devices=[{"type": "disk", "path": path, "serial": name}],
        )
    )
    read = fromstring(format_xml(domain))
    assert read.findtext("name") == name
    assert read.findtext("os/cmdline") == arguments
    assert read.find("devices/disk/source").get("file") == path  # type: ignore[union-attr]
    assert sorted({node.tag for node in read.iter()}) == sorted({node.tag for node in domain.iter()})


@pytest.mark.parametrize("field", ["name", "kernel", "emulated_machine", "cpu_type", "serial", "cdrom", "bridges"])
@pytest.mark.parametrize("character", ["\x00", "\x0b", "\x1b", "\ufffe", "\ud800"])
def test_characters_that_xml_cannot_carry_are_refused(field: str, character: str) -> None:
    with pytest.raises(InvalidArgument):
        build(msgspec.structs.replace(parameters(), **{field: f"a{character}b"}))


def test_custom_property_needs_a_name_that_xml_can_carry() -> None:
    with pytest.raises(InvalidArgument):
        build(parameters(custom={"a b": "1"}))


def test_attributes_without_a_value_are_left_out() -> None:
    assert format_xml(element("a", b=None, c=True, d=False, e=3)) == '<a c="yes" d="no" e="3" />'


@given(st.text(max_size=50))
def test_accepted_text_survives_a_round_trip(text: str) -> None:
    try:
        made = element("a", b=check_text("b", text))
    except InvalidArgument:
        return
    assert parse_xml(format_xml(made)).get("b") == text


@pytest.mark.parametrize(
    "document",
    [
        "",
        "<domain",
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "\x00",
    ],
)
def test_documents_that_are_not_acceptable(document: str) -> None:
    with pytest.raises(ValueError, match="not acceptable XML"):
        parse_xml(document)


def test_the_cache_of_virtio_disks_is_a_custom_property() -> None:
    disks = [{"type": "disk", "path": f"/{bus}", "interface": bus} for bus in ("virtio", "scsi")]
    own = {"type": "disk", "path": "/own", "interface": "virtio", "cache": "unsafe"}
    drives = [{"path": "/old", "interface": "virtio"}]
    domain = build(parameters(devices=[*disks, own], drives=drives, custom={"viodiskcache": "writeback"}))
    caches = [driver.get("cache") for driver in domain.iterfind("devices/disk/driver")]
    assert caches == ["writeback", "none", "unsafe", "writeback"]
