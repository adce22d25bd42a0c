"""Disks of running VMs of the real thing go to another storage domain, or stay when that is dropped; a daemon that is
killed amid it loses neither the guest's writes nor track of its images."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from lab import guests
from tests.system.chains import Guest, running
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import OWNER, Pool, Vdsmd, kill_during, make_id, poll
from vdsm.wire.client import CallFailed

pytestmark = pytest.mark.skipif(guests.why_not() is not None, reason=str(guests.why_not()))


@pytest.fixture
def other(vdsmd: Vdsmd, pool: Pool) -> Pool:
    """The same pool, as one sees it from its second domain."""
    folder = vdsmd.root / "elsewhere"
    folder.mkdir()
    os.chown(folder, *OWNER)
    other = replace(pool, folder=folder, domain_id=make_id())
    other.connect_server()
    other.create_domain()
    ids = {"storagedomainID": other.domain_id, "storagepoolID": pool.pool_id}
    vdsmd.call("StorageDomain.attach", **ids)
    vdsmd.call("StorageDomain.activate", **ids)
    return other


def run_task(pool: Pool, method: str, **params: object) -> None:
    assert pool.vdsmd.wait_task(pool.vdsmd.call(method, storagepoolID=pool.pool_id, **params))["code"] == 0


def clone(guest: Guest, there: Pool) -> None:
    """Do what a client does before: the chain is there, and all but the top has its data."""
    image = {"imageID": guest.disks["vda"][0].image_id, "storagedomainID": guest.pool.domain_id}
    run_task(there, "Image.cloneStructure", **image, dstSdUUID=there.domain_id)
    run_task(there, "Image.syncData", **image, dstSdUUID=there.domain_id, syncType="INTERNAL")


def delete(guest: Guest, pool: Pool) -> None:
    """Remove the image that is not in use any more."""
    image = {"imageID": guest.disks["vda"][0].image_id, "storagedomainID": pool.domain_id}
    run_task(pool, "Image.delete", **image, postZero=False, force=False)


def begin(guest: Guest, there: Pool) -> None:
    source = guest.drive("vda")
    replica = {**source, "domainID": there.domain_id}
    assert guest.vdsmd.call("VM.diskReplicateStart", vmID=guest.vm_id, srcDisk=source, dstDisk=replica) is True


def finish(guest: Guest, there: Pool) -> None:
    """Once the replica has everything; what is there already drops the replica."""
    source = guest.drive("vda")
    given = {"vmID": guest.vm_id, "srcDisk": source, "dstDisk": {**source, "domainID": there.domain_id}}

    def ask() -> bool:
        try:
            return guest.vdsmd.call("VM.diskReplicateFinish", **given) is True
        except CallFailed as refused:
            if refused.code != 40:
                raise
            return False

    poll(ask, "the replica has everything")


def find_mirror(guest: Guest) -> Element | None:
    return guest.find_disk("vda").find("mirror")


def get_domain(guest: Guest) -> str:
    """The domain of the disk's file."""
    source = guest.find_disk("vda").find("source")
    assert source is not None
    return Path(source.get("file", "")).parts[-4]


def list_prepared(guest: Guest, *pools: Pool) -> list[str]:
    image_id = guest.disks["vda"][0].image_id
    links = {pool.domain_id: Path(guest.vdsmd.root, "run/vdsm/storage", pool.domain_id, image_id) for pool in pools}
    return [domain_id for domain_id, link in links.items() if link.is_symlink()]


def test_a_disk_goes_there_and_back(vdsmd: Vdsmd, pool: Pool, other: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        top = guest.add_top("vda")
        vdsmd.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[guest.wish("vda", top)], jobUUID=(job_id := make_id()))
        assert guest.wait_job(job_id)["status"] == "done"
        guest.disks["vda"].append(top)
        for here, there in ((pool, other), (other, pool)):
            clone(guest, there)
            begin(guest, there)
            assert find_mirror(guest) is not None
            assert list_prepared(guest, here, there) == [here.domain_id, there.domain_id]
            finish(guest, here)
            assert (find_mirror(guest), list_prepared(guest, here, there)) == (None, [here.domain_id])
            assert guest.find_disagreement() == ""
            begin(guest, there)
            vdsmd.restart()
            pool.connect()
            pool.start_spm()
            poll(lambda: len(list_prepared(guest, here, there)) == 2, "both images are prepared again")  # noqa: B023
            finish(guest, there)
            assert (get_domain(guest), list_prepared(guest, here, there)) == (there.domain_id, [there.domain_id])
            delete(guest, here)
            guest.pool = there
            assert guest.find_disagreement() == ""
            guest.console.wait_for_writes(guest.console.writes + 10)
        guest.end()
        assert list_prepared(guest, pool, other) == []


def test_what_is_refused(vdsmd: Vdsmd, pool: Pool, other: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        source = guest.drive("vda")
        there, unknown = {**source, "domainID": other.domain_id}, {**source, "imageID": make_id()}
        for verb, given, code in (
            ("Finish", {"srcDisk": source, "dstDisk": there}, 88),
            ("Finish", {"srcDisk": unknown, "dstDisk": there}, 13),
            ("Start", {"srcDisk": unknown, "dstDisk": there}, 13),
            ("Start", {"srcDisk": source, "dstDisk": source}, 55),
            ("Start", {"srcDisk": source, "dstDisk": there}, 55),  # nothing is there
            ("Start", {"srcDisk": source, "dstDisk": {}}, 91),
            ("Start", {"srcDisk": source}, 91),
        ):
            with pytest.raises(CallFailed) as refused:
                vdsmd.call(f"VM.diskReplicate{verb}", vmID=guest.vm_id, **given)
            assert refused.value.code == code, (verb, given)
        assert list_prepared(guest, pool, other) == [pool.domain_id] and guest.find_disagreement() == ""
        guest.end()


@pytest.mark.timeout(900)
def test_a_daemon_that_is_killed_amid_it(
    vdsmd: Vdsmd, pool: Pool, other: Pool, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    def move(there: Pool) -> None:
        begin(guest, there)
        finish(guest, there)

    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        for _ in range(rounds(3, 20)):
            here, there = (pool, other) if guest.pool.domain_id == pool.domain_id else (other, pool)
            clone(guest, there)
            kill_during(vdsmd, random.uniform(0, 0.3), partial(move, there))
            vdsmd.start()
            pool.connect()
            pool.start_spm()
            is_there = get_domain(guest) == there.domain_id
            if not is_there and find_mirror(guest) is None:
                begin(guest, there)
            if not is_there:
                with suppress(CallFailed):
                    finish(guest, there)
            poll(lambda: get_domain(guest) == there.domain_id, "the disk is there")  # noqa: B023
            poll(lambda: list_prepared(guest, here, there) == [there.domain_id], "the old image is released")  # noqa: B023
            guest.pool = there
            poll(lambda: guest.find_disagreement() == "", "all agree")
            delete(guest, here)
        guest.end()
