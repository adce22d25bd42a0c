"""What a request for a migration comes to."""

from typing import Any

import msgspec
import pytest

from tests.unit.virt.builders import VM_ID, domain_xml
from vdsm.api.errors import CreateFailed, TransientDisks, VmRequestFailed
from vdsm.api.migration import IncomingVm, MigrationRequest
from vdsm.core.errors import InvalidArgument
from vdsm.virt.domain import parse_domain
from vdsm.virt.elements import parse_xml
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.migration.plans import (
    MigrationSettings,
    arrive,
    check_disks,
    parse_place,
    plan_arrival,
    plan_journey,
    plan_move,
)
from vdsm.virt.ports import Move, MoveFlag, Place

SETTINGS = MigrationSettings()


def request(**values: Any) -> MigrationRequest:
    return msgspec.convert({"destination": "there", **values}, MigrationRequest)


def move(xml: str = domain_xml(), there: VmMetadata | None = None, **values: Any) -> Move:
    return plan_move(plan_journey(request(**values), parse_domain(xml), SETTINGS), xml, there, SETTINGS)


@pytest.mark.parametrize(
    ("text", "place", "url"),
    [
        ("host", Place("host"), "host"),
        ("host.example:123", Place("host.example", 123), "host.example"),
        ("192.0.2.1:1", Place("192.0.2.1", 1), "192.0.2.1"),
        ("[2001:db8::1]", Place("2001:db8::1"), "[2001:db8::1]"),
        ("[2001:db8::1]:99", Place("2001:db8::1", 99), "[2001:db8::1]"),
    ],
)
def test_places(text: str, place: Place, url: str) -> None:
    assert parse_place(text) == place and place.url_host == url
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text",
    ["", ":1", "host:", "host:0", "host:65536", "host:x", "host:1:2", "a b", "h/../x", "h?x=1", "[::1", "[h]", "-h"]
    + ["h" * 300, "host:" + "9" * 5000, "h\n", "user@h", "ｈost"],
)
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_place(text)


def test_the_least() -> None:
    plan = move()
    assert (plan.uri, plan.memory_uri) == ("qemu+tls://there/system", "tcp://there")
    assert (plan.bandwidth_mib_per_s, plan.connections, plan.tls_name, plan.graphics_uri) == (52, 0, "", "")
    assert plan.flags == frozenset()


def test_all_that_can_be_wanted() -> None:
    metadata = "<clusterVersion>4.7</clusterVersion>"
    plan = move(
        domain_xml(metadata=metadata),
        destination="[2001:db8::1]:5",
        memory_host="[2001:db8::2]",
        bandwidth_mib_per_s=7,
        connections=3,
        auto_converge=True,
        compressed=True,
        abort_on_error=True,
        encrypted=True,
        zero_copy=True,
        console_address="console:5900/?tlsPort=5901",
        schedule={"stalling": [{"limit": 1, "action": {"name": "postcopy"}}]},
    )
    assert (plan.uri, plan.memory_uri) == ("qemu+tls://[2001:db8::1]/system", "tcp://[2001:db8::2]")
    assert (plan.bandwidth_mib_per_s, plan.connections, plan.tls_name) == (7, 3, "2001:db8::1")
    assert plan.graphics_uri == "spice://console:5900/?tlsPort=5901"
    assert plan.flags == set(MoveFlag) - {MoveFlag.TUNNELLED}


def test_tunnels_have_no_way_of_their_own_for_memory() -> None:
    plan = move(tunneled=True)
    assert plan.memory_uri == "" and plan.flags == {MoveFlag.TUNNELLED}


def test_without_tls() -> None:
    plain = MigrationSettings(uses_tls=False, bandwidth_mib_per_s=0)
    xml = domain_xml()
    plan = plan_move(plan_journey(request(), parse_domain(xml), plain), xml, None, plain)
    assert (plan.uri, plan.bandwidth_mib_per_s) == ("qemu+tcp://there/system", 0)


@pytest.mark.parametrize(("version", "persists"), [("4.1", False), ("4.2", True), ("10.0", True), ("x", False)])
def test_who_persists(version: str, persists: bool) -> None:
    plan = move(domain_xml(metadata=f"<clusterVersion>{version}</clusterVersion>"))
    assert (MoveFlag.PERSIST in plan.flags) == persists


def test_the_other_hosts_mark_is_handed_over() -> None:
    there = VmMetadata({"owner": "/there", "incoming": True})
    plan = move(domain_xml(metadata="<owner>/here</owner><migratesTo>there:1</migratesTo><x>1</x>"), there)
    found = parse_domain(plan.xml).metadata
    assert found is not None and found.values == {"owner": "/there", "incoming": True, "x": "1"}


def test_processors_and_nodes_are_the_other_hosts() -> None:
    tuned = "<cputune><vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='1' cpuset='2'/></cputune>"
    tuned += "<numatune><memnode cellid='0' mode='preferred' nodeset='0'/></numatune>"
    xml = domain_xml(extra=tuned).replace("<vcpu>1<", "<vcpu>2<")
    domain = parse_xml(move(xml, cpu_sets=["4-5,^4", None], node_sets=["1"]).xml)
    pins = {pin.get("vcpu"): pin.get("cpuset") for pin in domain.iterfind("cputune/vcpupin")}
    assert pins == {"0": "4-5,^4", "1": "2"}
    [node] = domain.findall("numatune/memnode")
    assert node.attrib == {"cellid": "0", "mode": "strict", "nodeset": "1"}


@pytest.mark.parametrize(
    "values",
    [
        {"cpu_sets": []},
        {"cpu_sets": ["0", "1"]},
        {"cpu_sets": ["x"]},
        {"cpu_sets": ["1' evil='"]},
        {"node_sets": ["-1"]},
        {"memory_host": "a/b"},
        {"console_address": "a b"},
        {"mode": "file"},
        {"schedule": {"init": [{"name": "setDowntime"}]}},
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        move(**values)


def test_transient_disks_stay() -> None:
    xml = domain_xml(metadata='<device devtype="disk" name="sda"><shared>transient</shared></device>')
    metadata = parse_domain(xml).metadata
    assert metadata is not None
    with pytest.raises(TransientDisks, match="sda"):
        check_disks(metadata)


def test_who_arrives_is_marked_and_owned() -> None:
    told = "<owner>/there</owner><exitCode type='int'>1</exitCode><migratesTo>x</migratesTo>"
    wish = plan_arrival(IncomingVm(live_xml=domain_xml(metadata=told), elapsed_offset_s=10.0), "/here", 100.0)
    assert (wish.view.vm_id, wish.view.name) == (VM_ID, "vm1")
    assert wish.metadata.values == {"owner": "/here", "incoming": True, "startTime": 90.0}
    assert arrive(wish.metadata, "/here").values == {"owner": "/here", "startTime": 90.0}


@pytest.mark.parametrize(
    ("xml", "failure"),
    [
        ("", VmRequestFailed),
        ("<domain", CreateFailed),
        ("<domain/>", CreateFailed),
        (domain_xml(name=""), CreateFailed),
        (domain_xml(devices="<disk/>" * 1001), CreateFailed),
        (domain_xml(metadata="<startTime type='int'>x</startTime>"), CreateFailed),
    ],
)
def test_what_is_no_vm_does_not_arrive(xml: str, failure: type[Exception]) -> None:
    with pytest.raises(failure):
        plan_arrival(IncomingVm(live_xml=xml), "/", 0.0)
