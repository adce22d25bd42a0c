"""Two hosts and their daemons on one Gluster domain, real mounts and real sanlock: layout, leases, one writer."""

import json
import re
import shlex
import sys
import time
from pathlib import Path

from lab.commands import wait_for
from lab.sanlock import TAKE_OVER_AFTER_S
from lab.shared_pool import SharedPool
from lab.vdsmd import SOURCES, make_id
from tests.system.vdsmd import Volume

MIB = 1 << 20
TAKE_OVER_S = 10.0


def test_a_shared_domain_is_as_the_facts_tell(pools: tuple[SharedPool, SharedPool]) -> None:
    first, second = pools
    first.start_spm()
    [mounted] = [line for line in first.host.run("cat", "/proc/self/mounts").splitlines() if "fuse.glusterfs" in line]
    assert {"nosuid", "nodev", "noexec"} <= set(mounted.split()[3].split(",")), mounted
    files = first.stat("-c", "'%n %u:%g %a %s'", "dom_md/*").splitlines()
    assert [line for line in files if "metadata" not in line] == [
        f"dom_md/ids 36:36 660 {MIB}",
        f"dom_md/inbox 36:36 660 {16 * MIB}",
        f"dom_md/leases 36:36 660 {2 * MIB}",
        f"dom_md/outbox 36:36 660 {16 * MIB}",
        "dom_md/xleases 36:36 660 1302528",
    ]
    assert re.search(r"metadata 36:36 644 \d{3}$", "\n".join(files), re.MULTILINE)
    second.wait_joined()
    places = [line.split()[:2] for line in first.dump("dom_md/ids")]
    assert places[:2] == [["00000000", first.domain_id], ["00000512", first.domain_id]]
    [leader] = first.dump("dom_md/leases", f":0:{2 * MIB}")
    assert leader.split()[:3] == [f"{MIB:08d}", first.domain_id, "SDM"]
    xleases = first.folder / first.domain_id / "dom_md/xleases"
    index = first.host.run("dd", f"if={xleases}", "bs=512", "skip=2048", "count=1", "iflag=direct", "status=none")
    assert index.encode()[:10].hex() == "12152016003030303100" and index[70] == "-" and index[511] == "\n"
    template = first.create_volume(Volume(format="RAW"))
    [lease] = first.dump(f"images/{template.image_id}/{template.volume_id}.lease")
    assert lease.split()[:3] == ["00000000", first.domain_id, template.volume_id]
    modes = first.stat("-c", "'%a %s %n'", f"images/{template.image_id}/*").splitlines()
    assert [line.split()[0] for line in modes] == ["660", "660", "644"]
    user = Volume(parent_id=template.volume_id)
    begun = first.vdsmd.call(
        "Volume.create",
        **first.place(user),
        srcImgUUID=template.image_id,
        srcVolUUID=template.volume_id,
        size=str(MIB),
        volFormat="COW",
        preallocate="SPARSE",
        diskType="DATA",
        desc="",
    )
    assert first.vdsmd.wait_task(begun)["code"] == 0
    links = [
        first.stat("-c", "%i", f"images/{image}/{template.volume_id}*").split()
        for image in (user.image_id, template.image_id)
    ]
    assert links[0] == links[1] and len(links[0]) == 3
    assert second.list_volumes() == {template.volume_id, user.volume_id}
    check_external_leases(first, second)
    first.stop_spm()


def check_external_leases(spm: SharedPool, other: SharedPool) -> None:
    """Made by one host, found and fenced by the other."""
    name = {"sd_id": spm.domain_id, "lease_id": make_id()}
    job = {"type": "JOB", "job_id": make_id(), "job_status": "PENDING", "generation": 0}
    task = spm.vdsmd.call("Lease.create", lease=name, metadata=job)
    assert spm.vdsmd.wait_task(task)["code"] == 0
    found = other.vdsmd.call("Lease.info", lease=name)
    xleases = spm.folder / spm.domain_id / "dom_md/xleases"
    assert (found["path"], found["offset"]) == (str(xleases), 3 * MIB)
    [line] = spm.dump("dom_md/xleases", f":{3 * MIB}:{MIB}")
    assert line.split()[1:3] == [spm.domain_id, name["lease_id"]]
    status = wait_for(lambda: other.vdsmd.call("Lease.status", lease=name), "the other host knows")
    assert status["owners"] == [] and status["metadata"].items() >= job.items()
    other.vdsmd.call("Lease.fence", lease=name, metadata=job)
    fenced = spm.vdsmd.call("Lease.status", lease=name)["metadata"]
    assert (fenced["job_status"], fenced["generation"]) == ("FENCED", 1)
    task = spm.vdsmd.call("Lease.delete", lease=name)
    assert spm.vdsmd.wait_task(task)["code"] == 0


def test_of_two_hosts_one_becomes_spm_and_its_death_lets_the_other(pools: tuple[SharedPool, SharedPool]) -> None:
    begun = [(pool, pool.begin_spm()) for pool in pools]
    codes = {pool.host_id: pool.vdsmd.wait_task(task)["code"] for pool, task in begun}
    assert sorted(codes.values()) == [0, 651], codes
    winner, loser = sorted(pools, key=lambda pool: int(codes[pool.host_id]))
    assert winner.get_spm_status()["spmStatus"] == "SPM" and loser.get_spm_status()["spmStatus"] == "Free"
    for pool in pools:
        pool.wait_spm_told(winner.host_id)
    before = int(str(winner.get_spm_status()["spmLver"]))
    kept = winner.create_volume()
    winner.vdsmd.kill()
    # The dead daemon's sanlock needs a moment to give the lease back.
    wait_for(lambda: loser.try_spm() == 0, "the other host takes over", TAKE_OVER_S, pause_s=0.1)
    status = loser.get_spm_status()
    assert (status["spmStatus"], status["spmId"], status["spmLver"]) == ("SPM", loser.host_id, before + 1)
    assert loser.list_volumes() == {kept.volume_id}
    loser.create_volume()
    winner.vdsmd.start()
    winner.vdsmd.wait_ready()
    wait_for(lambda: winner.vdsmd.call("Host.getConnectedStoragePools"), "the pool is connected again")
    winner.wait_spm_told(loser.host_id)
    assert winner.vdsmd.wait_task(winner.begin_spm())["code"] == 651


def test_a_daemon_whose_lease_is_taken_away_ends_at_once(pools: tuple[SharedPool, SharedPool]) -> None:
    first, second = pools
    first.start_spm()
    leases = first.folder / first.domain_id / "dom_md/leases"
    place = f"{first.domain_id}:SDM:{str(leases).replace(':', chr(92) + ':')}:{MIB}"
    numbers = Path(f"/proc/{first.vdsmd.spawned.pid}/status").read_text().split("NSpid:")[1].splitlines()[0]
    pid = numbers.split()[-1]  # as sanlock sees it
    first.host.run("sanlock", "client", "release", "-r", place, "-p", pid)
    begin_s = time.monotonic()
    assert first.vdsmd.process.wait(TAKE_OVER_S) != 0
    assert time.monotonic() - begin_s < TAKE_OVER_S
    second.start_spm()


def test_sanlock_that_dies_takes_the_spm_with_it(pools: tuple[SharedPool, SharedPool]) -> None:
    first, _ = pools
    first.start_spm()
    first.sanlock.kill()
    assert first.vdsmd.process.wait(TAKE_OVER_S) != 0


def test_an_spm_that_is_cut_off_from_its_storage_ends_before_another_may_begin(
    pools: tuple[SharedPool, SharedPool],
) -> None:
    first, second = pools
    first.start_spm()
    begin_s = time.monotonic()
    first.host.cut()
    first.vdsmd.process.wait(TAKE_OVER_AFTER_S - 20)
    assert time.monotonic() - begin_s < TAKE_OVER_AFTER_S - 20
    assert second.vdsmd.wait_task(second.begin_spm())["code"] == 651, "the other host may still be writing"


def test_the_tool_looks_at_any_time_and_writes_only_where_nobody_else_may(pools: tuple[SharedPool, SharedPool]) -> None:
    first, second = pools
    first.start_spm()
    volume = first.create_volume()
    folder = second.folder / second.domain_id

    def use_tool(*words: str) -> str:
        """What it prints; how it ended is the last line."""
        command = [sys.executable, "-m", "vdsm.cli.tool", "--root", str(folder.parents[5]), *words]
        script = f"cd {SOURCES} && {shlex.join(command)} 2>&1; echo $?"
        return str(second.host.run("bash", "-c", script))

    check = ("check-domain", second.domain_id)
    assert use_tool(*check).split() == ["Nothing.", "0"]
    said = json.loads(use_tool("dump-leases", second.domain_id, "--json").rpartition("]")[0] + "]")
    [writer] = [row for row in said if row["name"] == "SDM"]
    assert (writer["is_used"], writer["owner"], writer["lockspace"]) == (True, 1, second.domain_id)
    [line] = second.dump("dom_md/leases", f":0:{2 * MIB}")
    offset, _, _, timestamp, owner, generation, version = line.split()
    assert [int(offset), int(timestamp), int(owner), int(generation), int(version)] == [
        writer[name] for name in ("offset_bytes", "timestamp_s", "owner", "generation", "version")
    ]
    dumped = second.vdsmd.call("StorageDomain.dump", sd_id=second.domain_id, full=True)
    assert [tuple(one.values()) for one in dumped["leases"]] == [
        (int(offset), second.domain_id, "SDM", int(timestamp), int(owner), int(generation), int(version))
    ]
    assert {1} <= {one["own"] for one in dumped["lockspace"]} <= {1, 2, 250} and dumped["xleases"] == {}
    record = folder / f"images/{volume.image_id}/{volume.volume_id}.meta"
    first.host.run("sed", "-i", "s/VOLTYPE=LEAF/VOLTYPE=INTERNAL/", record)
    second.host.run("rm", record.with_suffix(".lease"))
    assert "--repair mends it" in use_tool(*check)
    assert "the daemon runs" in use_tool(*check, "--repair", "--host-id", "2")
    second.vdsmd.kill()
    assert "--host-id is needed" in use_tool(*check, "--repair")
    assert "Cannot obtain lock" in use_tool(*check, "--repair", "--host-id", "2")
    assert "INTERNAL" in first.host.run("cat", record)
    first.stop_spm()
    assert use_tool(*check, "--repair", "--host-id", "2").count("repaired") == 2
    assert use_tool(*check).split() == ["Nothing.", "0"]
    assert use_tool("rebuild-xleases", second.domain_id, "--host-id", "2").split() == ["Rebuilt.", "0"]
    second.vdsmd.start(wait=False)
