"""What messages make of what is known of a VM's inside."""

import pytest
from msgspec import UNSET

from vdsm.api.guest import GuestInterface, GuestMount, GuestOs, GuestTimezone
from vdsm.virt.guest import figures, messages
from vdsm.virt.guest.figures import GuestFigures, apply, find_name, merge, note_reboot

NOW_S = 1_700_000_000.0


def after(*told: messages.Message) -> GuestFigures:
    known = GuestFigures()
    for message in told:
        known = apply(known, message, NOW_S)
    return known


def test_what_an_agent_tells() -> None:
    known = after(
        messages.Heartbeat(free_mib=100, memory=messages.Memory(mem_total=9, mem_unused=5, majflt=2, pageflt=7)),
        messages.HostName("host"),
        messages.OsVersion("6.1"),
        messages.OsInfo(type="linux", kernel="6.1"),
        messages.Timezone("CET", 60),
        messages.Interfaces(
            [
                messages.Interface("lo", None, ["127.0.0.1"], ["::1"]),
                messages.Interface("eth0", "52:54:00:00:00:01", ["10.0.0.1", "10.0.0.2"]),
            ]
        ),
        messages.Applications(["a-1", "b-2"]),
        messages.ActiveUser("root"),
        messages.SessionChanged("Locked"),
        messages.Fqdn("host.example"),
        messages.CpuCount(2),
        messages.DisksUsage([messages.Disk("/", 100, 50, "ext4")], {"serial": messages.Mapped("/dev/vda")}),
        messages.Noted(),
    )
    assert known.free_mib == 100 and known.memory is not UNSET
    assert (known.memory.total_kib, known.memory.free_kib, known.memory.minor_faults_per_s) == (9, 5, 5)
    assert (known.host_name, known.os_version, known.fqdn, known.cpus) == ("host", "6.1", "host.example", 2)
    assert (known.os, known.timezone) == (
        GuestOs(type="linux", kernel="6.1"),
        GuestTimezone(zone="CET", offset_min=60),
    )
    assert known.addresses == "127.0.0.1 10.0.0.1 10.0.0.2"
    assert known.interfaces is not UNSET and known.interfaces[1] == GuestInterface(
        name="eth0", hardware_address="52:54:00:00:00:01", ipv4=["10.0.0.1", "10.0.0.2"]
    )
    assert (known.applications, known.user, known.session) == (["a-1", "b-2"], "root", "Locked")
    assert known.last_login_s == NOW_S
    assert known.mounts == [GuestMount(path="/", total_bytes=100, used_bytes=50, type="ext4")]
    assert known.disk_names == {"serial": "/dev/vda"}


def test_a_login_counts_when_the_user_changes() -> None:
    first = after(messages.ActiveUser("root"))
    assert apply(first, messages.ActiveUser("root"), NOW_S + 5) is first
    assert apply(first, messages.ActiveUser("guest"), NOW_S + 5).last_login_s == NOW_S + 5
    assert apply(first, messages.ActiveUser(""), NOW_S + 5).last_login_s == NOW_S


def test_a_reboot_ends_the_users_session() -> None:
    left = note_reboot(after(messages.ActiveUser("root")), NOW_S + 9)
    assert (left.user, left.last_user, left.last_logout_s) == ("Unknown", "root", NOW_S + 9)
    assert note_reboot(left, NOW_S + 20) == left


def test_an_agent_that_is_removed_takes_the_applications_along() -> None:
    assert after(messages.Applications(["a"]), messages.Uninstalled()).applications == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_numbers_that_are_none_are_absent(number: float) -> None:
    known = after(messages.CpuCount(number), messages.Heartbeat(free_mib=number, memory=messages.Memory(number)))
    assert (known.cpus, known.free_mib) == (UNSET, UNSET)
    assert known.memory is not UNSET and known.memory.total_kib is UNSET
    zone = after(messages.Timezone("x", number)).timezone
    assert zone is not UNSET and zone.offset_min in (0, -1)


def test_lists_and_texts_are_cut() -> None:
    long, many = "x" * 5000, 5000
    known = after(
        messages.HostName(long),
        messages.Applications([long] * many),
        messages.Interfaces([messages.Interface(long, long, [long] * many, [long] * many)] * many),
        messages.Containers([messages.Container(long, [long] * many)] * many),
        messages.DisksUsage(
            [messages.Disk(long, 1, 1, long)] * many, {str(n): messages.Mapped(long) for n in range(many)}
        ),
    )
    assert known.host_name == "x" * figures.LONGEST_TEXT
    assert known.applications is not UNSET and len(known.applications) == figures.MOST_APPLICATIONS
    assert known.interfaces is not UNSET and len(known.interfaces) == figures.MOST
    assert len(known.interfaces[0].ipv4) == figures.MOST_ADDRESSES
    assert known.containers is not UNSET and len(known.containers) == figures.MOST
    assert known.mounts is not UNSET and len(known.mounts) == figures.MOST
    assert len(known.disk_names) == figures.MOST
    assert known.addresses is not UNSET and len(known.addresses) <= figures.MOST * (figures.LONGEST_TEXT + 1)


def test_the_qemu_agents_word_counts_where_it_has_one() -> None:
    ovirt = GuestFigures(host_name="old", fqdn="a.b", applications=["kernel-5", "vim-9", "qemu-guest-agent-1"])
    qemu = GuestFigures(host_name="new", user="", applications=["kernel-6", "qemu-guest-agent-7"])
    merged = merge(ovirt, qemu)
    assert (merged.host_name, merged.fqdn, merged.user) == ("new", "a.b", "")
    assert merged.applications == ["kernel-6", "qemu-guest-agent-7", "vim-9"]
    assert merge(ovirt, GuestFigures()) == ovirt and merge(GuestFigures(), qemu) == qemu


def test_a_disk_is_found_by_the_beginning_of_its_identity() -> None:
    image = "33333333-0000-4000-8000-000000000003"
    names = {"other": "/dev/vda", f"virtio-{image[:20]}": "/dev/vdb"}
    assert find_name(names, image) == "/dev/vdb"
    assert find_name(names, "") is None and find_name(names, "44444444") is None
