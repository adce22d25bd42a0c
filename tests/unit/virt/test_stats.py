"""Figures from samples: the formulas of the facts, and nothing invented."""

import math
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, to_builtins

from tests.unit.virt.builders import domain_xml
from vdsm.virt.domain import DomainView, parse_domain
from vdsm.virt.stats import (
    Sample,
    Value,
    Window,
    get_balloon,
    get_cpu,
    get_guest_memory,
    get_memory_used_percent,
    list_disks,
    list_networks,
)

DEVICES = """<disk type="file"><target dev="vda" bus="virtio"/></disk>
<disk type="file"><target dev="vdb" bus="virtio"/></disk>
<interface type="bridge"><mac address="00:16:3e:00:00:01"/><target dev="vnet7"/><model type="virtio"/></interface>
<interface type="bridge"><mac address="00:16:3e:00:00:02"/><target dev="vnet8"/><model type="rtl8139"/></interface>
<memballoon model="virtio"/>"""
METADATA = (
    '<device devtype="disk" name="vda"><poolID>p</poolID><domainID>d</domainID><imageID>i</imageID>'
    "<volumeID>v</volumeID></device>"
    '<device devtype="disk" name="vdb"><GUID>3600</GUID></device>'
)


def view() -> DomainView:
    return parse_domain(domain_xml(metadata=METADATA, devices=DEVICES))


def window(before: Mapping[str, Value], last: Mapping[str, Value], seconds: float = 10.0) -> Window:
    return Window().then(Sample.of(100.0, before)).then(Sample.of(100.0 + seconds, last))


def test_cpu() -> None:
    before = {"cpu.time": 1_000_000_000, "cpu.user": 100_000_000, "cpu.system": 0}
    last = {"cpu.time": 8_000_000_000, "cpu.user": 600_000_000, "cpu.system": 500_000_000}
    cpu = get_cpu(window(before, last))
    assert math.isclose(cpu.user_percent, 60.0)  # type: ignore[arg-type]
    assert math.isclose(cpu.system_percent, 10.0)  # type: ignore[arg-type]
    assert cpu.usage_ns == 1_100_000_000


def test_one_sample_gives_no_rates() -> None:
    once = Window().then(
        Sample.of(1.0, {"cpu.time": 1, "cpu.user": 1, "cpu.system": 1, "block.count": 1, "net.count": 1})
    )
    assert get_cpu(once).user_percent is UNSET
    assert list_disks(once, view(), {}) is UNSET
    assert list_networks(once, view()) is UNSET
    assert list_disks(Window(), view(), {}) is UNSET


def test_disks_are_matched_by_name_even_when_their_order_changes() -> None:
    before = {
        "block.count": 1,
        "block.0.name": "vda",
        "block.0.rd.bytes": 1000,
        "block.0.rd.reqs": 1,
        "block.0.rd.times": 50,
    }
    last = {
        "block.count": 2,
        "block.0.name": "vdb",
        "block.1.name": "vda",
        "block.1.rd.bytes": 3000,
        "block.1.rd.reqs": 5,
        "block.1.rd.times": 250,
        "block.1.physical": 4096,
        "block.1.allocation": 8192,
    }
    disks = list_disks(window(before, last, 3.0), view(), {})
    assert disks is not UNSET and set(disks) == {"vda"}
    disk = disks["vda"]
    assert disk.read_bytes_per_s == 2000 / 3.0
    assert disk.read_latency_ns == 50.0
    assert (disk.write_bytes_per_s, disk.write_latency_ns, disk.flush_latency_ns) == (0.0, 0.0, 0.0)
    assert (str(disk.write_latency_ns), str(disk.write_bytes_per_s)) == ("0", "0.0")  # as text travels (facts §3.3)
    assert (disk.allocated_bytes, disk.size_bytes, disk.image_id, disk.reads) == (4096, 8192, "i", 5)


def test_luns_have_their_own_identity() -> None:
    values = {"block.count": 1, "block.0.name": "vdb"}
    disks = list_disks(window(values, values), view(), {})
    assert disks is not UNSET
    assert (disks["vdb"].lun_id, disks["vdb"].image_id, disks["vdb"].size_bytes) == ("3600", UNSET, UNSET)


def test_a_network_card_must_be_in_both_samples() -> None:
    before = {"net.count": 1, "net.0.name": "vnet7", "net.0.rx.bytes": 5}
    last = {"net.count": 2, "net.0.name": "vnet8", "net.1.name": "vnet7", "net.1.rx.bytes": 9, "net.1.tx.drop": 2}
    cards = list_networks(window(before, last), view())
    assert cards is not UNSET and set(cards) == {"vnet7"}
    card = cards["vnet7"]
    assert (card.received_bytes, card.send_dropped, card.speed_mbps) == (9, 2, 1000)
    assert (card.mac_address, card.sample_time_s) == ("00:16:3e:00:00:01", 110.0)


def test_slow_cards_tell_so() -> None:
    values = {"net.count": 1, "net.0.name": "vnet8"}
    cards = list_networks(window(values, values), view())
    assert cards is not UNSET and cards["vnet8"].speed_mbps == 100


def test_memory_of_the_guest() -> None:
    before = {"balloon.available": 1000, "balloon.major_fault": 10, "balloon.minor_fault": 100, "balloon.swap_in": 0}
    last = {
        "balloon.available": 1000,
        "balloon.unused": 200,
        "balloon.disk_caches": 50,
        "balloon.major_fault": 25,
        "balloon.minor_fault": 144,
        "balloon.swap_in": 4,
    }
    memory = get_guest_memory(window(before, last))
    assert to_builtins(memory) == {
        "total_kib": 1000,
        "unused_kib": 200,
        "free_kib": 250,
        "swap_in_per_s": 0,
        "major_faults_per_s": 2,
        "minor_faults_per_s": 4,
        "faults_per_s": 6,
    }
    assert get_memory_used_percent(memory, 1250) == 80
    assert get_memory_used_percent(memory, 200) == 0
    assert get_guest_memory(window({}, {})) is UNSET
    assert get_memory_used_percent(UNSET, 1250) is UNSET


def test_balloon() -> None:
    sample = Window().then(Sample.of(1.0, {"balloon.current": 5000}))
    balloon = get_balloon(sample, view(), minimum_kib=None, target_kib=None, enabled=True)
    assert to_builtins(balloon) == {
        "maximum_kib": 65536,
        "minimum_kib": 65536,
        "current_kib": 5000,
        "target_kib": 65536,
        "enabled": True,
    }
    without = parse_domain(domain_xml(devices='<memballoon model="none"/>'))
    assert get_balloon(sample, without, minimum_kib=None, target_kib=None, enabled=True) is UNSET
    assert get_balloon(Window(), view(), minimum_kib=None, target_kib=None, enabled=True) is UNSET


KEYS = [
    "cpu.time",
    "cpu.user",
    "cpu.system",
    "balloon.available",
    "balloon.unused",
    "balloon.major_fault",
    "balloon.minor_fault",
]
KEYS += [f"block.0.{kind}.{what}" for kind in ("rd", "wr", "fl") for what in ("bytes", "reqs", "times")]
VALUES = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2**64)).map(
    lambda values: {**values, "block.count": 1, "block.0.name": "vda"}
)


@given(VALUES, VALUES, st.floats(-5, 100))
def test_no_figure_is_ever_negative_or_endless(
    before: dict[str, int | str], last: dict[str, int | str], seconds: float
) -> None:
    both = window(before, last, seconds)
    found = [get_cpu(both).user_percent, get_cpu(both).system_percent]
    disks = list_disks(both, view(), {})
    assert disks is not UNSET
    found += [disks["vda"].read_bytes_per_s, disks["vda"].write_latency_ns]
    memory = get_guest_memory(both)
    found += [] if memory is UNSET else [memory.major_faults_per_s, memory.faults_per_s]
    assert all(figure is UNSET or (figure >= 0 and math.isfinite(figure)) for figure in found)


def test_counters_that_begin_anew_give_no_rates_until_the_next_sample() -> None:
    """A counter that wrapped, or whose device was plugged anew, fell by an amount that says nothing."""
    block = {"block.count": 1, "block.0.name": "vda"}
    full = {**block, "block.0.rd.bytes": 2**64 - 1, "block.0.rd.reqs": 9, "block.0.rd.times": 9, "cpu.time": 2**63}
    fresh = {**block, "block.0.rd.bytes": 5, "block.0.rd.reqs": 1, "block.0.rd.times": 3, "cpu.time": 7}
    later = {**block, "block.0.rd.bytes": 25, "block.0.rd.reqs": 3, "block.0.rd.times": 13, "cpu.time": 9}
    times = {"cpu.user": 1, "cpu.system": 1}
    both = window({**full, **times}, {**fresh, **times})
    disks = list_disks(both, view(), {})
    assert disks is not UNSET and (disks["vda"].read_bytes_per_s, disks["vda"].read_latency_ns) == (0.0, 0.0)
    assert disks["vda"].read_bytes == 5 and get_cpu(both).user_percent is UNSET
    again = list_disks(both.then(Sample.of(120.0, {**later, **times})), view(), {})
    assert again is not UNSET and (again["vda"].read_bytes_per_s, again["vda"].read_latency_ns) == (2.0, 5.0)
