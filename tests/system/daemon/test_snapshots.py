"""Snapshots of running VMs of the real thing: libvirt, the files and every record tell the same chain after each step,
also when the daemon was killed amid one, and the guest's writes are all there."""

import random
from collections.abc import Callable
from functools import partial

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


def take(guest: Guest, tops: dict[str, Volume]) -> None:
    """A snapshot from its beginning to its end."""
    guest.wait_job(begin(guest, tops))


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
            ({"snapMemory": "a,b,c,d,e,f"}, 44),
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
