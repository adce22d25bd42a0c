"""Requests for VMs in both forms: what is accepted, what is refused and how."""

from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml, parameters, plan
from vdsm.api.errors import CreateFailed, MissingParameter, UnsupportedVmType
from vdsm.api.vm import VmParameters
from vdsm.core.errors import InvalidArgument, NodeError
from vdsm.virt.metadata import find_metadata

OTHER_ID = "cccccccc-0000-4000-8000-00000000000c"


def test_the_id_comes_from_the_xml() -> None:
    wish = plan(VmParameters(xml=domain_xml(OTHER_ID.upper())), vm_id=VM_ID)
    assert wish.view.vm_id == OTHER_ID
    assert wish.domain.findtext("uuid") == OTHER_ID


def test_the_dictionary_may_carry_the_id() -> None:
    assert plan(parameters(vm_id=OTHER_ID), vm_id="").view.vm_id == OTHER_ID
    assert plan(parameters(name="")).view.name == VM_ID


def test_owner_and_start_are_stamped_whatever_the_client_says() -> None:
    claims = (
        '<owner>/elsewhere</owner><startTime type="float">1</startTime><exitCode type="int">0</exitCode><kept>1</kept>'
    )
    wish = plan(VmParameters(xml=domain_xml(metadata=claims), elapsed_offset_s=100.0), owner="/here", now_s=1000.0)
    assert wish.metadata.values == {"owner": "/here", "startTime": 900.0, "kept": "1", "cpuPolicy": "none"}
    assert find_metadata(wish.domain) == wish.metadata


def test_reboot_policy_becomes_metadata() -> None:
    wish = plan(VmParameters(xml=domain_xml(extra="<on_reboot>destroy</on_reboot>")))
    assert wish.metadata.destroy_on_reboot
    assert not plan(VmParameters(xml=domain_xml())).metadata.destroy_on_reboot


@pytest.mark.parametrize(
    ("given_s", "first_s", "added_s"),
    [(None, 60, 0), (10, 10, 10)],
)
def test_offset_of_the_clock_beside_an_xml(given_s: int | None, first_s: int, added_s: int) -> None:
    xml = domain_xml(extra="<clock offset='variable' adjustment='60'/>")
    wish = plan(VmParameters(xml=xml) if given_s is None else VmParameters(xml=xml, time_offset_s=given_s))
    assert (wish.first_offset_s, wish.added_offset_s) == (first_s, added_s)


def test_offset_of_the_clock_in_the_dictionary() -> None:
    wish = plan(parameters(time_offset_s=10))
    assert (wish.first_offset_s, wish.added_offset_s, wish.view.time_offset_s) == (10, 0, 10)


def test_volumes_of_both_forms_are_known() -> None:
    wish = plan(parameters(drives=[VOLUME]))
    volume = wish.view.disks[0].volume or wish.metadata.device(devtype="disk", name="hda").volume  # type: ignore[union-attr]
    assert volume is not None and volume.image_id == VOLUME["image_id"]


def test_passwords_are_not_shown() -> None:
    display = '<graphics type="vnc" passwd="secret" passwdValidTo="1970-01-01T00:00:01"/>'
    wish = plan(VmParameters(xml=domain_xml(devices=display)))
    assert "secret" not in wish.xml
    graphics = wish.domain.find("devices/graphics")
    assert graphics is not None and graphics.get("passwd") == "secret"


DEEP = "<domain>" + "<a>" * 100 + "</a>" * 100 + "</domain>"
NINES = "9" * 400


@pytest.mark.parametrize(
    "xml",
    [
        "<domain",
        "<network/>",
        "<domain/>",
        DEEP,
        domain_xml("not-a-uuid"),
        domain_xml(name=" "),
        domain_xml(metadata='<launchPaused type="bool"/>'),
        domain_xml().replace("65536", "many"),
        domain_xml().replace("KiB", "parsec"),
        domain_xml(devices='<graphics type="vnc"/>'),
        '<!DOCTYPE d [<!ENTITY x "y">]>' + domain_xml(),
        domain_xml(extra="<a>" * 2000 + "</a>" * 2000),
        domain_xml(metadata=f'<device devtype="disk">{"<a>" * 100}{"</a>" * 100}</device>'),
        domain_xml(extra="<a/>" * 30_000),
        domain_xml(devices="<disk/>" * 1001),
        domain_xml(metadata='<device devtype="disk" name="vda"><shared>transient</shared></device>'),
        domain_xml(metadata='<device devtype="disk" name="x"/>' * 1001),
        domain_xml(extra=f"<description>{'x' * (1 << 20)}</description>"),
        domain_xml().replace("65536", NINES),
        domain_xml().replace("KiB", "b").replace("65536", NINES),
        domain_xml().replace("<vcpu>1", f"<vcpu>{NINES}"),
        domain_xml(extra=f"<clock adjustment='{NINES}'/>"),
        domain_xml(metadata=f'<balloonTarget type="int">{NINES}</balloonTarget>'),
        domain_xml(metadata='<pauseTime type="float">inf</pauseTime>'),
        domain_xml(metadata='<pauseTime type="float">nan</pauseTime>'),
        domain_xml(
            metadata='<device devtype="disk" name="vda"><a>1</a></device>' * 2,
            devices='<disk><target dev="vda"/></disk>',
        ),
    ],
)
def test_xml_that_cannot_be_started_is_refused_with_code_9(xml: str) -> None:
    with pytest.raises(CreateFailed):
        plan(VmParameters(xml=xml))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"memory_mib": 0}, MissingParameter),
        ({"memory_mib": -1}, InvalidArgument),
        ({"vm_type": "xen"}, UnsupportedVmType),
        ({"cpus": 0}, InvalidArgument),
        ({"cpus": 4, "maximum_cpus": 2}, InvalidArgument),
        ({"maximum_cpus": 3, "cores_per_socket": 2}, InvalidArgument),
        ({"io_threads": -1}, InvalidArgument),
        ({"boot": "x"}, CreateFailed),
        ({"boot": "c"}, MissingParameter),
        ({"display": "sdl"}, CreateFailed),
        ({"drives": [{}]}, CreateFailed),
        ({"drives": [{"pool_id": VOLUME["pool_id"]}]}, CreateFailed),
        ({"drives": [{**VOLUME, "image_id": "../../etc"}]}, InvalidArgument),
        ({"drives": [{"path": "/a", "index": 0}, {"path": "/b", "index": 0}]}, CreateFailed),
        ({"drives": [{"path": "/a", "index": 9999}]}, CreateFailed),
        ({"drives": [{"path": "/a", "format": "vmdk"}]}, CreateFailed),
        ({"hda": "/a", "drives": [{"path": "/b", "interface": "ide", "index": 0}]}, CreateFailed),
        ({"devices": [{"type": "tpm"}] * 2}, CreateFailed),
        ({"devices": [{"type": "tpm", "parameters": {"mode": "magic"}}]}, CreateFailed),
        ({"devices": [{"type": "hostdev", "device": "usb_1_1"}]}, CreateFailed),
        ({"devices": [{"type": "hostdev"}]}, CreateFailed),
        ({"devices": [{"type": "lease", "lease_id": VOLUME["volume_id"]}]}, CreateFailed),
        ({"devices": [{"type": "memory"}]}, MissingParameter),
        ({"devices": [{"type": "memory", "size_mib": 0}]}, InvalidArgument),
        ({"devices": [{"type": "interface", "port_mirroring": ["red"]}]}, CreateFailed),
        ({"devices": [{"type": "interface", "parameters": {"inbound": {"average": -1}}}]}, InvalidArgument),
        ({"devices": [{"type": "disk", "lun_id": "../sda"}]}, InvalidArgument),
        ({"devices": [{"type": "disk", "path": "a", "disk_type": "network"}]}, CreateFailed),
        ({"devices": [{"type": "disk", "device": "cdrom", "path": "/a", "parameters": {"payload": {}}}]}, CreateFailed),
        ({"devices": [{"type": "disk", "parameters": {"payload": {}}, **VOLUME}]}, CreateFailed),
        ({"devices": [{"type": "interface"}] * 1001}, CreateFailed),
        ({"drives": [{"path": "/a"}] * 700}, CreateFailed),
        ({"mac_addresses": "," * 1001}, CreateFailed),
        ({"bridges": "," * 1001}, CreateFailed),
        ({"custom": {"a": "x" * (1 << 20)}}, CreateFailed),
        ({"devices": [{"type": "nonsense"}]}, CreateFailed),
        ({"devices": [{"type": "disk"}]}, CreateFailed),
        ({"devices": [{"type": "disk", "path": "/a", "shared": "transient"}]}, CreateFailed),
        ({"devices": [{"type": "balloon"}] * 2}, CreateFailed),
        ({"devices": [{"type": "disk", "device": "tape", "path": "/a"}]}, CreateFailed),
        ({"devices": [{"type": "interface", "device": "sriov"}]}, CreateFailed),
        ({"devices": [{"type": "interface", "device": "hostdev", "host_device": "usb_1_1"}]}, CreateFailed),
        ({"devices": [{"type": "interface", "device": "carrier"}]}, CreateFailed),
        ({"devices": [{"type": "graphics", "device": "sdl"}]}, CreateFailed),
        ({"devices": [{"type": "graphics", "device": "vnc"}] * 2}, CreateFailed),
        ({"devices": [{"type": "watchdog"}] * 2}, CreateFailed),
        ({"devices": [{"type": "console"}] * 2}, CreateFailed),
        ({"devices": [{"type": "console", "parameters": {"console_type": "usb"}}]}, CreateFailed),
        ({"devices": [{"type": "rng", "parameters": {"source": "/etc/shadow"}}]}, CreateFailed),
    ],
)
def test_dictionaries_that_make_no_vm(changes: dict[str, object], error: type[NodeError]) -> None:
    with pytest.raises(error):
        plan(parameters(**changes))


@pytest.mark.parametrize("changes", [{"display": "hologram"}, {"devices": [{"type": "graphics", "device": "rdp"}]}])
def test_displays_are_looked_at_beside_an_xml_too(changes: dict[str, object]) -> None:
    with pytest.raises(CreateFailed, match="unknown"):
        plan(parameters(xml=domain_xml(), **changes))


def test_memory_and_id_must_be_given() -> None:
    with pytest.raises(MissingParameter, match="memSize"):
        plan(VmParameters())
    with pytest.raises(MissingParameter, match="vmId"):
        plan(parameters(), vm_id="")
    with pytest.raises(InvalidArgument, match="vmId"):
        plan(parameters(), vm_id="vm1")


def test_emulation_when_the_caller_wants_no_kvm() -> None:
    assert plan(parameters(kvm=False)).domain.get("type") == "qemu"
    assert plan(parameters()).domain.get("type") == "kvm"


def test_drives_get_free_names_around_those_asked_for_and_around_the_cd() -> None:
    drives = [{"path": f"/{number}"} for number in range(3)]
    wish = plan(parameters(drives=drives))
    assert [disk.target for disk in wish.view.disks] == ["hda", "hdb", "hdd", "hdc"]
    disks = [{"type": "disk", "path": "/a"}, {"type": "disk", "path": "/b", "index": 0}, {"type": "disk", "path": "/c"}]
    assert [disk.target for disk in plan(parameters(devices=disks)).view.disks] == ["vdb", "vda", "vdc"]


def test_names_go_on_after_the_alphabet() -> None:
    drives = [{"path": f"/{number}", "interface": "virtio"} for number in range(28)]
    assert [disk.target for disk in plan(parameters(drives=drives)).view.disks][25:28] == ["vdz", "vdaa", "vdab"]


def test_no_cdrom_of_its_own_when_the_caller_lists_devices() -> None:
    assert plan(parameters(devices=[])).view.disks == ()
    assert [disk.device for disk in plan(parameters(devices=[], cdrom="/cd.iso")).view.disks] == ["cdrom"]
    taken = plan(parameters(hdc="/disk")).view.disks
    assert [(disk.device, disk.target) for disk in taken] == [("disk", "hdc")]


@given(st.text(max_size=200))
def test_any_text_as_xml_is_a_clean_refusal(text: str) -> None:
    with pytest.raises(NodeError):
        plan(VmParameters(xml=text or "x"))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_name_in_xml_comes_back_or_is_refused(name: str) -> None:
    domain = fromstring(domain_xml())
    try:
        wish = plan(parameters(name=name))
    except InvalidArgument:
        return
    assert wish.domain.findtext("name") == (name or VM_ID)
    assert domain.tag == wish.domain.tag
