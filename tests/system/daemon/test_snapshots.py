"""Snapshots of running VMs of the real thing: libvirt, the files and every record tell the same chain after each step,
also when the daemon was killed amid one, and the guest's writes are all there."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lab import guests
from tests.system.chains import Guest, running
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd, Volume, kill_during, make_id, poll
from vdsm.wire.client import CallFailed

pytestmark = pytest.mark.skipif(guests.why_not() is not None, reason=str(guests.why_not()))


def begin(guest: Guest, tops: dict[str, Volume], **how: object) -> str:
    """Ask for a snapshot; its job."""
    job_id = make_id()
    drives = [guest.wish(target, top) for target, top in tops.items()]
    assert guest.vdsmd.call("VM.snapshot", vmID=guest.vm_id, snapDrives=drives, jobUUID=job_id, **how) is True
    return job_id


def take(guest: Guest, tops: dict[str, Volume], **how: object) -> None:
    """A snapshot from its beginning to its end."""
    guest.wait_job(begin(guest, tops, **how))


def add(guest: Guest, tops: dict[str, Volume]) -> None:
    """The disks are to have these tops from now on."""
    for target, top in tops.items():
        guest.disks[target].append(top)


def test_snapshots_of_two_disks(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd) as guest:
        for targets in (("vda", "vdb"), ("vda",), ("vdb", "vda")):
            tops = {target: guest.add_top(target) for target in targets}
            job = guest.wait_job(job_id := begin(guest, tops))
            assert job == {"id": job_id, "status": "done", "description": "snapshot_vm", "job_type": "virt"}
            again = [guest.wish(target, top) for target, top in tops.items()]
            add(guest, tops)
            assert guest.find_disagreement() == ""
            guest.vdsmd.call("VM.snapshot", vmID=guest.vm_id, snapDrives=again, jobUUID=(job_id := make_id()))
            assert guest.wait_job(job_id)["status"] == "done"
            assert guest.find_disagreement() == "" and "snapshot_job" not in guest.get_values()
        vdsmd.restart()
        poll(guest.is_prepared, "the images are prepared again")
        assert guest.find_disagreement() == ""
        guest.console.wait_for_writes(guest.console.writes + 10)
        guest.end()


def test_snapshots_that_fail_leave_all_as_it_was(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd) as guest:
        good = {target: guest.add_top(target) for target in ("vda", "vdb")}
        stranger = pool.create_volume()
        for bad in ({"vdb": stranger}, {"vdb": Volume(image_id=good["vdb"].image_id)}):
            job = guest.wait_job(begin(guest, {"vda": good["vda"], **bad}))
            assert (job["status"], job["error"]["code"]) == ("failed", 48), job
            assert guest.find_disagreement() == "" and "snapshot_job" not in guest.get_values()
        # A base that the VM does not have, and what libvirt cannot open.
        wrong = {**guest.wish("vda", good["vda"]), "baseVolumeID": make_id()}
        vdsmd.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wrong], jobUUID=(job_id := make_id()))
        assert guest.wait_job(job_id)["error"]["code"] == 48
        path = pool.get_data_path(good["vdb"])
        whole = path.read_bytes()
        path.write_bytes(bytes(len(whole)))
        job = guest.wait_job(begin(guest, good))
        assert (job["status"], job["error"]["code"]) == ("failed", 48), job
        path.write_bytes(whole)
        assert guest.find_disagreement() == ""
        assert guest.wait_job(begin(guest, good))["status"] == "done"
        add(guest, good)
        assert guest.find_disagreement() == ""
        guest.end()


def test_what_is_refused_at_once(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        top = {"vda": guest.add_top("vda")}
        job_id = begin(guest, top)
        good = {"vmID": guest.vm_id, "snapDrives": [guest.wish("vda", top["vda"])]}
        for change, code in (
            ({"jobUUID": job_id}, 100),
            ({"timeout": 0}, 91),
            ({"timeout": -1}, 91),
            ({"freeze_timeout": 0}, 91),
            ({"freeze_timeout": 2**70}, 91),
            ({"snapDrives": "all"}, 91),
            ({"snapMemory": "a,b,c,d,e,f"}, 100),
            ({"vmID": make_id()}, 1),
        ):
            with pytest.raises(CallFailed) as refused:
                vdsmd.call("VM.snapshot", **(good | change))
            assert refused.value.code == code, change
        assert guest.wait_job(job_id)["status"] == "done"
        for verb in ("VM.freeze", "VM.thaw"):
            with pytest.raises(CallFailed) as refused:
                vdsmd.call(verb, vmID=guest.vm_id)
            assert refused.value.code == 19
        add(guest, top)
        guest.end()


def test_a_guest_goes_back_to_a_moment(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        memory, beside = (pool.create_volume(Volume(format="RAW"), size) for size in (64 << 20, 64 << 10))
        ids = (memory.image_id, memory.volume_id, beside.image_id, beside.volume_id)
        handle = ",".join((pool.domain_id, pool.pool_id, *ids))
        tops = {"vda": guest.add_top("vda")}
        missing = handle.replace(beside.image_id, make_id())
        assert guest.wait_job(begin(guest, tops, snapMemory=missing))["error"]["code"] == 48
        assert guest.find_disagreement() == ""
        assert guest.wait_job(begin(guest, tops, snapMemory=handle))["status"] == "done"
        base = guest.disks["vda"][:]
        add(guest, tops)
        assert guest.find_disagreement() == "" and "snapshot_job" not in guest.get_values()
        assert vdsmd.wait_status(guest.vm_id, "Up", "Powering up")
        assert pool.get_data_path(memory).stat().st_size % 4096 == 0
        images = Path(vdsmd.root, "run/vdsm/storage", pool.domain_id)
        assert [link.name for link in images.iterdir()] == [base[0].image_id]
        guest.console.wait_for_writes(guest.console.writes + 10)
        vdsmd.call("VM.destroy", vmID=guest.vm_id)

        guest.disks["vda"] = base
        given = {"vmId": guest.vm_id, "xml": guest.format_xml(), "hiberVolHandle": handle}
        vdsmd.call("VM.create", vmID=guest.vm_id, vmParams=given)
        vdsmd.wait_status(guest.vm_id, "Up")
        guest.console.wait_for_writes(guest.console.writes + 10)
        guest.console.stop_writes()
        guest.console.wait_until_verified()


@pytest.mark.timeout(900)
def test_a_daemon_that_is_killed_while_memory_is_saved(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        memory, beside = (pool.create_volume(Volume(format="RAW"), size) for size in (64 << 20, 64 << 10))
        ids = (memory.image_id, memory.volume_id, beside.image_id, beside.volume_id)
        handle = ",".join((pool.domain_id, pool.pool_id, *ids))
        for _ in range(rounds(2, 30)):
            tops = {"vda": guest.add_top("vda")}
            kill_during(vdsmd, random.uniform(0, 0.4), partial(take, guest, tops, snapMemory=handle))
            vdsmd.start()
            pool.connect()
            poll(lambda: "snapshot_job" not in guest.get_values(), "the snapshot has ended")
            if guest.list_live("vda")[-1] == tops["vda"].volume_id:
                add(guest, tops)
            poll(lambda: guest.find_disagreement() == "", "all agree")
            vdsmd.wait_status(guest.vm_id, "Up", "Powering up")
            images = Path(vdsmd.root, "run/vdsm/storage", pool.domain_id)
            only = [guest.disks["vda"][0].image_id]
            poll(lambda: [link.name for link in images.iterdir()] == only, "the rest is released")  # noqa: B023
            pool.start_spm()
        guest.end()


@pytest.mark.timeout(900)
def test_a_daemon_that_is_killed_amid_snapshots(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    with running(vdsmd, pool, libvirtd) as guest:
        tops = {target: guest.add_top(target) for target in guest.disks}
        for _ in range(rounds(5, 30)):
            kill_during(vdsmd, random.uniform(0, 0.15), partial(take, guest, tops))
            vdsmd.start()
            pool.connect_server()
            pool.connect()
            poll(lambda: "snapshot_job" not in guest.get_values(), "the snapshot has ended")
            is_done = guest.list_live("vda")[-1] == tops["vda"].volume_id
            if is_done:
                add(guest, tops)
            poll(lambda: guest.find_disagreement() == "", "all agree")
            if is_done:
                pool.start_spm()
                tops = {target: guest.add_top(target) for target in guest.disks}
        guest.end()
