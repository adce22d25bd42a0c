"""Payloads of drives: what metadata tells of them, and what cannot be a disc."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.virt.builders import VM_ID, domain_xml, parameters, plan
from vdsm.api.errors import CreateFailed
from vdsm.api.vm import VmParameters
from vdsm.core.errors import InvalidArgument, NodeError
from vdsm.virt.devices.payload import PLACEHOLDER, has_payload, list_payloads
from vdsm.virt.devices.plug import parse_plug
from vdsm.virt.domain import parse_domain, read_domain
from vdsm.virt.elements import parse_xml
from vdsm.virt.ports import Payload
from vdsm.virt.request import Wish

DRIVE = "<disk device='{}'><source file='PAYLOAD:'/><target dev='sda'/></disk>"
TOLD = "<device devtype='disk' name='sda'>{}</device>"


def read(payload: str, kind: str = "cdrom") -> dict[str, Payload]:
    domain = parse_xml(domain_xml(metadata=TOLD.format(payload), devices=DRIVE.format(kind)))
    view = read_domain(domain)
    assert view.metadata is not None
    return list_payloads(VM_ID, view.disks, view.metadata)


def discs_of(wish: Wish) -> dict[str, Payload]:
    return list_payloads(wish.view.vm_id, wish.view.disks, wish.metadata)


@pytest.mark.parametrize("form", ["{}", "<specParams><vmPayload>{}</vmPayload></specParams>"])
def test_both_places_of_the_metadata(form: str) -> None:
    inside = "<volId>config-2</volId><file path='/a/b'>\n aGk=\n</file><file path='c'></file>"
    payload = f"<payload>{inside}</payload>" if form == "{}" else form.format(inside)
    assert read(payload) == {"sda": Payload(False, "config-2", {"a/b": b"hi", "c": b""})}
    assert read(payload, "floppy")["sda"].is_floppy


@pytest.mark.parametrize(
    "payload",
    [
        "<network>none</network>",
        "<payload><file path='a'>no base64!</file></payload>",
        "<payload><file path='a'>aGk</file></payload>",
        "<payload><file>aGk=</file></payload>",
        "<payload><volId>{}</volId></payload>".format("x" * 33),
        "<payload><volId>é</volId></payload>",
        *(
            f"<payload><file path='{path}'>aGk=</file></payload>"
            for path in ("", "/", ".", "..", "../a", "a/../b", "a//b", "a/", "a\\b", "c:", "a*", "x" * 65, "a&#10;b")
        ),
        *(
            f"<payload><file path='{one}'>aGk=</file><file path='{other}'>aGk=</file></payload>"
            for one, other in (("a", "a"), ("a", "/A"), ("a", "a/b"), ("A/b", "a"), ("d/a", "D/A"))
        ),
    ],
)
def test_what_cannot_be_a_disc(payload: str) -> None:
    with pytest.raises(CreateFailed):
        read(payload)


@pytest.mark.parametrize("kind", ["disk", "lun"])
def test_what_is_no_drive_for_discs(kind: str) -> None:
    with pytest.raises(CreateFailed):
        read("<payload/>", kind)


def test_a_drive_with_another_disc_has_no_payload_made() -> None:
    devices = DRIVE.format("cdrom").replace(PLACEHOLDER, "/iso")
    wish = plan(VmParameters(xml=domain_xml(metadata=TOLD.format("<payload><volId/></payload>"), devices=devices)))
    assert discs_of(wish) == {} and has_payload(wish.metadata)


def test_a_vm_that_comes_from_another_host_has_its_disc_made_at_the_same_place() -> None:
    devices = DRIVE.format("cdrom").replace(PLACEHOLDER, f"/run/vdsm/payload/{VM_ID}-sda.img")
    wish = plan(VmParameters(xml=domain_xml(metadata=TOLD.format("<payload><volId/></payload>"), devices=devices)))
    assert discs_of(wish) == {"sda": Payload(False, "", {})}


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3), st.text(max_size=40))
def test_whatever_a_dictionary_says_it_is_a_disc_or_an_error(files: dict[str, str], volume_id: str) -> None:
    wanted = {"payload": {"volume_id": volume_id, "files": files}}
    try:
        wish = plan(parameters(devices=[{"type": "disk", "device": "cdrom", "parameters": wanted}]))
    except NodeError as error:
        assert isinstance(error, CreateFailed | InvalidArgument)
        return
    assert len(discs_of(wish)["hdc"].files) == len(files)
    read_again = parse_domain(wish.xml)
    assert read_again.metadata is not None
    assert list_payloads(VM_ID, read_again.disks, read_again.metadata) == discs_of(wish)


def test_a_script_for_windows_is_a_floppy_in_place_of_the_one_that_is_named() -> None:
    wish = plan(parameters(sysprep="[Unattended]\né", floppy="/f.img"))
    assert discs_of(wish) == {"fda": Payload(True, "", {"sysprep.inf": "[Unattended]\né".encode()})}


def test_such_discs_are_not_plugged_into_vms_that_run() -> None:
    drive = DRIVE.format("cdrom")
    with pytest.raises(InvalidArgument, match="VMs that start"):
        parse_plug(f"<hotplug><devices>{drive}</devices></hotplug>", "disk")
