"""An iSCSI target and its initiators, and what goes wrong between them."""

import errno
from pathlib import Path

import pytest

from lab.commands import PartFailed, run, wait_for
from lab.devicemapper import mapped
from lab.direct import measure_size, read_direct, write_direct
from lab.initiator import NAME, initiator
from lab.iscsi import IQN, Chap, iscsi_target
from lab.loop import loop_disk

OTHER = "iqn.2026-11.org.example:host2"
CHAP = Chap("host", "a long password", "storage", "another password")
LVM = (
    "activation { udev_sync = 0 udev_rules = 0 monitoring = 0 } backup { backup = 0 archive = 0 } "
    'devices { hints = "none" } global { use_lvmpolld = 0 }'
)


def test_a_grown_lun_is_seen_after_a_rescan() -> None:
    with iscsi_target([32 << 20, 16 << 20]) as target, initiator() as host:
        assert host.discover("127.0.0.2") == [("127.0.0.2:3260", IQN)]
        with host.session(target) as session:
            assert [measure_size(session.device(lun)) for lun in (0, 1)] == [32 << 20, 16 << 20]
            target.luns[0].grow(64 << 20)
            assert measure_size(session.device(0)) == 32 << 20
            session.rescan()
            wait_for(lambda: measure_size(session.device(0)) == 64 << 20, "the new size is seen")
            write_direct(session.device(0), 48 << 20, b"g" * 4096, flush=True)
            assert read_direct(session.device(0), 48 << 20, 4096) == b"g" * 4096


def test_luns_come_and_go_live() -> None:
    with iscsi_target([16 << 20]) as target, initiator() as host, host.session(target) as session:
        lun = target.add_lun(16 << 20, sector_bytes=4096)
        session.rescan()
        device = session.device(lun.number)
        assert Path(f"/sys/block/{device.name}/queue/logical_block_size").read_text() == "4096\n"
        assert Path(f"/sys/block/{device.name}/device/wwid").read_text().strip() == f"naa.{lun.wwid[1:]}"
        write_direct(device, 0, b"l" * 4096)
        target.remove_lun(lun)
        with pytest.raises(OSError):
            read_direct(device, 0, 4096)
        session.forget(lun.number)
        assert not device.exists()
        target.remove_lun(target.luns[0])  # one that was there before the portal
        assert not target.luns


def test_a_fault_below_a_lun_reaches_the_initiator() -> None:
    with loop_disk(16 << 20) as disk, mapped(disk.path) as mapping:
        with iscsi_target([mapping.path]) as target, initiator() as host, host.session(target) as session:
            write_direct(session.device(), 0, b"k" * 4096, flush=True)
            assert read_direct(mapping.path, 0, 4096) == b"k" * 4096
            mapping.fail()
            with pytest.raises(OSError) as caught:
                read_direct(session.device(), 0, 4096)
            assert caught.value.errno == errno.EIO
            mapping.heal()
            assert read_direct(session.device(), 0, 4096) == b"k" * 4096


@pytest.mark.parametrize("initiators", [(), (NAME,)])
def test_a_wrong_password_is_refused(initiators: tuple[str, ...]) -> None:
    with iscsi_target([16 << 20], chap=CHAP, initiators=initiators) as target, initiator() as host:
        for wrong in (None, Chap(CHAP.user, "a wrong password"), Chap("guest", CHAP.password)):
            with pytest.raises(PartFailed, match="status 24"), host.session(target, chap=wrong):
                pass
        with host.session(target, chap=Chap(CHAP.user, CHAP.password)) as session:
            read_direct(session.device(), 0, 4096)


def test_a_target_with_a_wrong_password_is_refused_by_the_initiator() -> None:
    with iscsi_target([16 << 20], chap=CHAP) as target, initiator() as host:
        false = Chap(CHAP.user, CHAP.password, CHAP.target_user, "what a fake says")
        with pytest.raises(PartFailed), host.session(target, chap=false):
            pass
        with host.session(target, chap=CHAP) as session:
            read_direct(session.device(), 0, 4096)


def test_a_host_that_is_not_on_the_list_is_refused() -> None:
    with iscsi_target([16 << 20], initiators=[NAME]) as target, initiator() as host:
        with host.interface("host2", OTHER) as interface:
            with pytest.raises(PartFailed, match="status 24"), host.session(target, interface=interface):
                pass
        with host.session(target) as session:
            read_direct(session.device(), 0, 4096)


def test_two_hosts_see_each_others_writes() -> None:
    with iscsi_target([16 << 20]) as target, initiator() as host, host.interface("host2", OTHER) as interface:
        with host.session(target) as first, host.session(target, interface=interface) as second:
            assert first.device() != second.device()
            assert [(each.folder / "initiatorname").read_text().strip() for each in (first, second)] == [NAME, OTHER]
            write_direct(first.device(), 0, b"1" * 4096)
            assert read_direct(second.device(), 0, 4096) == b"1" * 4096
            write_direct(second.device(), 4096, b"2" * 4096)
            assert read_direct(first.device(), 0, 8192) == b"1" * 4096 + b"2" * 4096


FAILED = (errno.EIO, errno.ENXIO)
"""Of what is read; or already of the open, when the kernel has given up the device before that."""


def test_a_closed_portal_fails_io_until_it_opens() -> None:
    with iscsi_target([16 << 20]) as target, initiator(replacement_s=1) as host, host.session(target) as session:
        with target.portals[0].closed():
            with pytest.raises(OSError) as caught:
                read_direct(session.device(), 0, 4096)
            assert caught.value.errno in FAILED
        wait_for(lambda: session.read_state() == "LOGGED_IN", "the session is back")
        read_direct(session.device(), 0, 4096)


def test_a_silent_portal_is_noticed_by_the_initiator() -> None:
    with iscsi_target([16 << 20]) as target, initiator(noop_s=1, replacement_s=1) as host:
        with host.session(target) as session:
            with target.portals[0].silenced():
                with pytest.raises(OSError) as caught:
                    read_direct(session.device(), 0, 4096)
                assert caught.value.errno in FAILED
            wait_for(lambda: session.read_state() == "LOGGED_IN", "the session is back")
            read_direct(session.device(), 0, 4096)


def test_lvm_lives_on_a_lun() -> None:
    with iscsi_target([64 << 20]) as target, initiator() as host, host.session(target) as session:
        ours = ("-qy", "--devices", session.device(), "--config", LVM)
        run("vgcreate", *ours, "-s", "4m", "lab-vg", session.device())  # which makes it a PV, too
        try:
            run("lvcreate", *ours, "-L", "8m", "-n", "volume", "lab-vg")
            volume = Path("/dev/lab-vg/volume")
            assert measure_size(volume) == 8 << 20
            write_direct(volume, 0, b"v" * 4096, flush=True)
            run("lvextend", *ours, "-L", "16m", "lab-vg/volume")
            assert measure_size(volume) == 16 << 20
            assert read_direct(volume, 0, 4096) == b"v" * 4096
        finally:
            run("vgchange", "-q", "--devices", session.device(), "--config", LVM, "-an", "lab-vg")


def test_a_target_that_cannot_be_finished_leaves_nothing() -> None:
    before = set(Path("/sys/kernel/config").iterdir())
    with pytest.raises(OSError), iscsi_target([16 << 20, 16 << 20], ["127.0.0.2", "no address"]):
        pass
    with pytest.raises(OSError), iscsi_target([16 << 20, Path("/dev/null")]):
        pass
    assert set(Path("/sys/kernel/config").iterdir()) == before
    with iscsi_target([16 << 20], ["127.0.0.2"]) as target:
        assert [lun.number for lun in target.luns] == [0]
