"""Sealing as clients see it: a job of virt, whose program is a script here (facts: rpc §2.21)."""

import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import Furniture, Running, furnish_storage, make_id
from tests.daemon.test_jobs import end, fail, make_volume, read_volume
from vdsm.adapters import run as door

Stored = tuple[Running, Furniture]
Sysprep = Callable[[str], None]


@pytest.fixture
async def stored(daemon: Running, tmp_path: Path) -> AsyncIterator[Stored]:
    yield daemon, await furnish_storage(daemon, tmp_path / "storage")


@pytest.fixture
def sysprep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysprep:
    """Makes virt-sysprep a script."""
    program = tmp_path / "bin/virt-sysprep"
    program.parent.mkdir()
    monkeypatch.setattr(door, "SEARCH_PATH", f"{program.parent}:{door.SEARCH_PATH}")
    monkeypatch.setattr(door, "ENVIRONMENT", {**door.ENVIRONMENT, "PATH": door.SEARCH_PATH})

    def write(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(stat.S_IRWXU)

    return write


async def seal(daemon: Running, made: Furniture, *volumes: dict[str, Any], job_id: str = "", **changes: Any) -> str:
    job_id = job_id or make_id()
    given = {"vmID": make_id(), "job_id": job_id, "sp_id": made.pool_id, "images": list(volumes), **changes}
    assert await daemon.rpc("VM.seal", given) is True
    return job_id


def name_only(volume: dict[str, Any]) -> dict[str, Any]:
    return {name: volume[name] for name in ("sd_id", "img_id", "vol_id")}


async def test_the_disks_of_a_guest_are_sealed(stored: Stored, sysprep: Sysprep, tmp_path: Path) -> None:
    daemon, made = stored
    system, data = await make_volume(daemon, made, legal=False), await make_volume(daemon, made, volFormat="RAW")
    sysprep(f'echo "$@" > {tmp_path}/asked; ls {daemon.node.paths.run}/storage/* > {tmp_path}/prepared')
    job_id = await seal(daemon, made, name_only(system), data)
    job = await end(daemon, job_id, "virt")
    assert job == {"id": job_id, "status": "done", "description": "seal_vm", "job_type": "virt"}
    words = (tmp_path / "asked").read_text().split()
    assert words[:5] == ["-v", "-x", "--hostname", "localhost", "--selinux-relabel"]
    disks = [(*words[at : at + 3], Path(words[at + 3]).name) for at in (5, 9)]
    assert disks == [("--format", "qcow2", "-a", system["vol_id"]), ("--format", "raw", "-a", data["vol_id"])]
    for volume, legality in ((system, "ILLEGAL"), (data, "LEGAL")):
        info = await read_volume(daemon, volume)
        assert (info["generation"], info["legality"]) == (1, legality)
        assert volume["img_id"] in (tmp_path / "prepared").read_text()
        assert not os.path.lexists(daemon.node.paths.run / "storage" / volume["sd_id"] / volume["img_id"])
    assert (
        await fail(daemon, "VM.seal", {"vmID": make_id(), "job_id": job_id, "sp_id": made.pool_id, "images": []}) == 100
    )


async def test_whatever_fails_is_number_100_and_changes_nothing(
    stored: Stored, sysprep: Sysprep, tmp_path: Path
) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made)
    sysprep(f"touch {tmp_path}/asked; echo virt-sysprep: error: no operating system >&2; exit 1")
    unknown = {**volume, "img_id": make_id(), "vol_id": make_id()}
    for images, changes, word in (
        ([], {}, "none"),
        ([volume, volume], {}, "twice"),
        ([volume, unknown], {}, unknown["vol_id"]),
        ([{**volume, "sd_id": make_id()}], {}, "domain"),
        ([{**volume, "generation": 7}], {}, "generation"),
        ([volume], {"sp_id": make_id()}, "pool"),
        ([volume], {}, "no operating system"),
    ):
        assert not (tmp_path / "asked").exists()
        job = await end(daemon, await seal(daemon, made, *images, **changes), "virt")
        assert (job["status"], job["error"]["code"]) == ("failed", 100)
        assert word in job["error"]["message"]
    assert (tmp_path / "asked").exists()
    info = await read_volume(daemon, volume)
    assert (info["generation"], info["legality"]) == (0, "LEGAL")
    for bad in ({"sp_id": "x"}, {"images": [{"sd_id": made.domain_id}]}, {"images": "all"}):
        given = {"vmID": make_id(), "job_id": make_id(), "sp_id": made.pool_id, "images": [volume], **bad}
        assert await fail(daemon, "VM.seal", given) == 1000


async def test_a_host_without_the_program_says_what_is_missing(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made)
    for name in ("qemu-img", "setpriv", "sh"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setattr(door, "SEARCH_PATH", str(tmp_path))
    job = await end(daemon, await seal(daemon, made, volume), "virt")
    assert "install guestfs-tools" in job["error"]["message"]


async def test_an_aborted_seal_is_over_at_once_and_may_be_done_again(stored: Stored, sysprep: Sysprep) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made)
    sysprep("sleep 1000")
    job_id = await seal(daemon, made, volume)
    await daemon.wait_until(lambda: daemon.node.storage.runner.get(job_id).message.startswith("running"))
    start_s = time.monotonic()
    await daemon.rpc("Task.stop", {"taskID": job_id})
    job = await end(daemon, job_id, "virt")
    assert (job["status"], "error" in job) == ("aborted", False)
    assert time.monotonic() - start_s < 2
    assert (await read_volume(daemon, volume))["generation"] == 0
    sysprep("")
    body = {"job_id": make_id(), "pool_id": made.pool_id}
    body["images"] = [{"domain_id": volume["sd_id"], "image_id": volume["img_id"], "volume_id": volume["vol_id"]}]
    assert (await daemon.rest("POST", f"/api/v1/vms/{make_id()}/seal", body)).status == 204
    assert (await end(daemon, body["job_id"], "virt"))["status"] == "done"
    assert (await read_volume(daemon, volume))["generation"] == 1
