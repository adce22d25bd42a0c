"""Layers of running VMs of the real thing are merged: libvirt, the files and every record tell the same chain after
each merge, also when the daemon was killed amid one, and the guest's writes are all there."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lab import guests
from tests.system.chains import Guest, running
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd, Volume, kill_during, make_id, poll
from vdsm.wire.client import CallFailed

pytestmark = pytest.mark.skipif(guests.why_not() is not None, reason=str(guests.why_not()))


def grow(guest: Guest, count: int, *, size_bytes: int = 4 << 20) -> None:
    """Put so many tops on the first disk, and let the guest write to each."""
    for _ in range(count):
        top = guest.add_top("vda", size_bytes=size_bytes)
        drives = [guest.wish("vda", top)]
        guest.vdsmd.call("VM.snapshot", vmID=guest.vm_id, snapDrives=drives, jobUUID=(job_id := make_id()))
        assert guest.wait_job(job_id)["status"] == "done"
        guest.disks["vda"].append(top)
        guest.console.wait_for_writes(guest.console.writes + 3)


def begin(guest: Guest, base: Volume, top: Volume, **how: object) -> str:
    """Ask for a merge; its job."""
    given = {"drive": guest.drive("vda"), "baseVolUUID": base.volume_id, "topVolUUID": top.volume_id} | how
    assert guest.vdsmd.call("VM.merge", vmID=guest.vm_id, jobUUID=(job_id := make_id()), **given) is True
    return job_id


def list_jobs(guest: Guest) -> dict[str, Any]:
    return dict(guest.vdsmd.get_stats(guest.vm_id)["vmJobs"])


def remove(guest: Guest, *volumes: Volume) -> None:
    """Do what a client does after a merge: the volumes that are not in the chain any more go."""
    for volume in volumes:
        assert guest.vdsmd.wait_task(guest.pool.begin_delete(volume))["code"] == 0


def merge(guest: Guest, base: int, top: int) -> None:
    """Merge layers of the first disk, from its beginning to its end."""
    chain = guest.disks["vda"]
    job_id = begin(guest, chain[base], chain[top])
    poll(lambda: job_id not in list_jobs(guest), "the merge is over")


def test_merges_of_inner_layers_and_of_the_top(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd) as guest:
        grow(guest, 3)
        assert list_jobs(guest) == {} and guest.find_disagreement() == ""
        chain = guest.disks["vda"]
        job_id = begin(guest, chain[1], chain[2], bandwidth=1)
        job = list_jobs(guest).get(job_id)
        if job is not None:  # It may be over already.
            told = {"id": job_id, "jobType": "block", "blockJobType": "commit", "drive": "vda"}
            assert {key: job[key] for key in told} == told
            assert (job["imgUUID"], job["bandwidth"]) == (chain[0].image_id, 1)
            assert job["cur"].isdecimal() and job["end"].isdecimal()
        poll(lambda: list_jobs(guest) == {}, "the merge is over")
        inner = chain.pop(2)
        assert guest.find_disagreement() == "" and "jobs" not in guest.get_values()
        remove(guest, inner)
        merge(guest, 0, 2)
        tops, guest.disks["vda"] = chain[1:], chain[:1]
        assert guest.find_disagreement() == ""
        assert pool.get_info(tops[1])["legality"] == "ILLEGAL"
        remove(guest, *reversed(tops))
        assert pool.get_info(chain[0])["voltype"] == "LEAF"
        vdsmd.restart()
        poll(guest.is_prepared, "the images are prepared again")
        assert guest.find_disagreement() == "" and list_jobs(guest) == {}
        guest.console.wait_for_writes(guest.console.writes + 10)
        guest.end()


def test_a_larger_top_and_a_raw_base(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1, format="RAW") as guest:
        grow(guest, 1, size_bytes=8 << 20)
        base, top = guest.disks["vda"]
        with pytest.raises(CallFailed) as refused:
            begin(guest, base, top)
        assert refused.value.code == 79 and list_jobs(guest) == {}
        extended = {**pool.place(base), "newSize": str(8 << 20)}
        assert vdsmd.wait_task(vdsmd.call("Volume.extendSize", **extended))["code"] == 0
        merge(guest, 0, 1)
        guest.disks["vda"].pop()
        assert guest.find_disagreement() == "" and pool.get_info(base)["capacity"] == str(8 << 20)
        guest.end()


def test_a_base_of_qcow2_grows_with_its_top(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        grow(guest, 1, size_bytes=8 << 20)
        merge(guest, 0, 1)
        guest.disks["vda"].pop()
        [base] = guest.disks["vda"]
        assert guest.find_disagreement() == "" and pool.get_info(base)["capacity"] == str(8 << 20)
        guest.end()


def test_what_is_refused(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        grow(guest, 2)
        chain = guest.disks["vda"]
        stranger = Volume(image_id=chain[0].image_id)
        for base, top, how, code in (
            (chain[0], stranger, {}, 52),
            (stranger, chain[1], {}, 52),
            (chain[1], chain[1], {}, 52),
            (chain[1], chain[0], {}, 52),
            (chain[0], chain[1], {"drive": {**guest.drive("vda"), "volumeID": chain[1].volume_id}}, 13),
            (chain[0], chain[1], {"drive": {**guest.drive("vda"), "imageID": make_id()}}, 13),
            (chain[0], chain[1], {"drive": {}}, 91),
            (chain[0], chain[1], {"bandwidth": -1}, 91),
            (chain[0], Volume(volume_id="../../x"), {}, 91),
        ):
            with pytest.raises(CallFailed) as refused:
                begin(guest, base, top, **how)
            assert refused.value.code == code, (base, top, how)
        assert list_jobs(guest) == {} and guest.find_disagreement() == ""
        guest.end()


@pytest.mark.timeout(900)
def test_a_daemon_that_is_killed_amid_merges(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        for number in range(rounds(4, 30)):
            is_active = number % 2 == 0
            grow(guest, 4 - len(guest.disks["vda"]))
            chain = guest.disks["vda"]
            top = len(chain) - 1 if is_active else len(chain) - 2
            kill_during(vdsmd, random.uniform(0, 0.3), partial(merge, guest, 1, top))
            vdsmd.start()
            pool.connect_server()
            pool.connect()
            poll(lambda: list_jobs(guest) == {}, "the merge is over")
            is_done = len(guest.list_live("vda")) < len(chain)
            gone = [chain.pop(place) for place in range(top, 1, -1)] if is_done else []
            assert guest.find_disagreement() == ""
            pool.start_spm()
            remove(guest, *gone)
        guest.end()
