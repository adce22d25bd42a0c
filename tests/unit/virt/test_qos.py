"""A VM's policy survives being written and read; what others wrote is read as far as it can be."""

from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from vdsm.api.tuning import DiskPolicy, IoLimits
from vdsm.virt.qos import LIBVIRT_NAMES, TUNE_URI, Policy, find_policy, format_policy, list_limits, merge

TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=9) | st.just(UNSET)
NUMBER = st.integers(0, 2**63 - 1) | st.just(UNSET)
LIMITS = st.builds(IoLimits, **dict.fromkeys(LIBVIRT_NAMES, NUMBER))
DISK = st.builds(DiskPolicy, name=TEXT, path=TEXT, maximum=LIMITS | st.just(UNSET), guaranteed=LIMITS | st.just(UNSET))
POLICY = st.builds(Policy, cpu_limit_percent=NUMBER, disks=st.lists(DISK, max_size=3).map(tuple))


def parse(inner: str) -> Policy:
    return find_policy(fromstring(f'<domain><metadata><t:qos xmlns:t="{TUNE_URI}">{inner}</t:qos></metadata></domain>'))


@given(POLICY)
def test_round_trip_through_the_metadata_call(policy: Policy) -> None:
    element = format_policy(policy).replace("<qos", f'<qos xmlns="{TUNE_URI}"', 1)  # as libvirt puts it
    assert find_policy(fromstring(f"<domain><metadata>{element}</metadata></domain>")) == policy


def test_without_any() -> None:
    assert find_policy(fromstring("<domain/>")) == Policy() == parse("")


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "9" * 30, "9" * 5000, "½"])
def test_what_is_no_number_is_not_there(text: str) -> None:
    found = parse(
        f"<t:vcpuLimit>{text}</t:vcpuLimit><t:ioTune><t:device name='vda'><t:maximum>"
        f"<t:read_iops_sec>{text}</t:read_iops_sec><t:write_iops_sec>7</t:write_iops_sec>"
        "</t:maximum></t:device></t:ioTune>"
    )
    assert found == Policy(disks=(DiskPolicy(name="vda", maximum=IoLimits(write_operations_per_s=7)),))


def test_the_names_that_others_read() -> None:
    limits = IoLimits(**{ours: number for number, ours in enumerate(LIBVIRT_NAMES)})
    policy = Policy(50, (DiskPolicy(name="vda", path="/x", maximum=limits),))
    assert format_policy(policy) == (
        '<qos><vcpuLimit>50</vcpuLimit><ioTune><device name="vda" path="/x"><maximum>'
        "<total_bytes_sec>0</total_bytes_sec><read_bytes_sec>1</read_bytes_sec><write_bytes_sec>2</write_bytes_sec>"
        "<total_iops_sec>3</total_iops_sec><read_iops_sec>4</read_iops_sec><write_iops_sec>5</write_iops_sec>"
        "</maximum></device></ioTune></qos>"
    )


@given(LIMITS, LIMITS)
def test_what_is_given_replaces_what_was(old: IoLimits, new: IoLimits) -> None:
    assert list_limits(merge(old, new)) == list_limits(old) | list_limits(new)
