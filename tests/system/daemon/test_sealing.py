"""Disks of a guest are sealed and sparsified by libguestfs' own programs, which boot a VM for that."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.commands import run, wait_for
from tests.system.chains import running
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import FORMATS, Pool, Vdsmd, Volume, make_id

MISSING = [name for name in ("virt-sysprep", "virt-sparsify", "mkfs.ext4", "debugfs") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(not any(Path("/boot").glob("vmlinu*")), reason="no kernel in /boot, which they boot"),
    pytest.mark.timeout(900),
]
MIB = 1 << 20
SIZE = 64 * MIB
PATIENCE_S = 400.0
"""It takes half a minute on a machine that does nothing else."""
SCRATCH, LEFT = Path("/tmp"), "libguestfs*"
"""Where a program that was killed leaves folders with a socket."""
MACHINE_ID = "76647376312d6c61622d677565737421"
FILES = {
    "bin/sh": "",
    "etc/debian_version": "12.0\n",
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/fstab": "LABEL=system / ext4 defaults 0 0\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/hostname": "precious\n",
    "etc/machine-id": f"{MACHINE_ID}\n",
    "etc/ssh/ssh_host_rsa_key": "secret",
    "root/.bash_history": "history",
    "srv/kept": "kept",
    "usr/lib/x": "",
    "var/log/messages": "said",
}


def make_system(folder: Path) -> Path:
    """A small file system that is taken for an installed Debian."""
    tree, disk = folder / "tree", folder / "disk"
    for name, content in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    (tree / "junk").write_bytes(os.urandom(20 * MIB))
    with disk.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", "-L", "system", "-d", tree, disk)
    run("debugfs", "-w", "-R", "rm /junk", disk)  # its blocks keep what is in them
    return disk


def put(pool: Pool, disk: Path, format: str) -> Volume:
    volume = pool.create_volume(Volume(format=format), SIZE)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", FORMATS[format], disk, pool.get_data_path(volume))
    return volume


def look(pool: Pool, volume: Volume, folder: Path) -> Callable[[str], str]:
    """Reads files of a guest's disk; what is not there reads as nothing."""
    raw = folder / "look"
    run("qemu-img", "convert", "-f", FORMATS[volume.format], "-O", "raw", pool.get_data_path(volume), raw)
    return lambda name: run("debugfs", "-R", f"cat /{name}", raw)


def seal(pool: Pool, *volumes: Volume) -> str:
    job_id = make_id()
    images = [{"sd_id": pool.domain_id, "img_id": one.image_id, "vol_id": one.volume_id} for one in volumes]
    pool.vdsmd.call("VM.seal", vmID=make_id(), job_id=job_id, sp_id=pool.pool_id, images=images)
    return job_id


def wait_job(vdsmd: Vdsmd, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = vdsmd.call("Host.getJobs", job_ids=[job_id])[job_id]
        return job if job["status"] in ("done", "failed", "aborted") else None

    return wait_for(ended, "the job ends", PATIENCE_S, 0.5)


def find_users(path: Path) -> list[int]:
    """The emulators that have a file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_user = any(link.resolve() == path for link in (process / "fd").iterdir())
        except OSError:  # it has ended
            continue
        if is_user and "qemu" in (process / "comm").read_text():
            found.append(int(process.name))
    return found


def test_a_guest_is_sealed_although_the_first_daemon_was_killed_amid_it(
    vdsmd: Vdsmd, pool: Pool, tmp_path: Path
) -> None:
    base = put(pool, make_system(tmp_path), "RAW")
    top, data = Volume(base.image_id, parent_id=base.volume_id), Volume(format="RAW")
    pool.create_volume(top, SIZE)
    pool.create_volume(data)
    path = pool.get_data_path(top).resolve()
    before = hashlib.sha256(pool.get_data_path(base).read_bytes()).hexdigest()
    known = set(SCRATCH.glob(LEFT))
    seal(pool, top, data)
    wait_for(lambda: bool(find_users(path)), "the program's VM has the disk", PATIENCE_S)
    vdsmd.kill()
    wait_for(lambda: not find_users(path), "the program's VM ends with the daemon", 20)
    for folder in set(SCRATCH.glob(LEFT)) - known:
        shutil.rmtree(folder)
    assert look(pool, top, tmp_path)("etc/ssh/ssh_host_rsa_key") == "secret"
    vdsmd.start()
    pool.connect_server()
    pool.connect()
    assert pool.get_info(top)["generation"] == 0

    job = wait_job(vdsmd, seal(pool, top, data))
    assert job["status"] == "done", job
    assert [pool.get_info(one)["generation"] for one in (base, top, data)] == [0, 1, 1]
    assert {pool.get_info(one)["legality"] for one in (base, top, data)} == {"LEGAL"}
    assert hashlib.sha256(pool.get_data_path(base).read_bytes()).hexdigest() == before
    run("qemu-img", "check", "-q", path)
    inside = look(pool, top, tmp_path)
    assert inside("etc/hostname").strip() == "localhost"
    assert inside("etc/machine-id").strip() != MACHINE_ID
    gone = ("etc/ssh/ssh_host_rsa_key", "root/.bash_history", "var/log/messages")
    assert {inside(name) for name in gone} == {""}
    assert inside("srv/kept") == "kept"


def test_disks_of_a_vm_that_runs_are_not_sealed(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd) as guest:
        used = guest.disks["vda"][-1]
        job = wait_job(vdsmd, seal(pool, used, pool.create_volume()))
        assert (job["status"], job["error"]["code"]) == ("failed", 100)
        assert "is in use" in job["error"]["message"]
        assert pool.get_info(used)["generation"] == 0
        guest.end()


def test_what_no_file_system_inside_uses_is_given_back(vdsmd: Vdsmd, pool: Pool, tmp_path: Path) -> None:
    volume = put(pool, make_system(tmp_path), "COW")
    path = pool.get_data_path(volume)
    before = path.stat().st_blocks * 512
    described = {"sd_id": pool.domain_id, "img_id": volume.image_id, "vol_id": volume.volume_id, "generation": 0}
    vdsmd.call("SDM.sparsify_volume", job_id=(job_id := make_id()), vol_info=described)
    job = wait_job(vdsmd, job_id)
    assert job["status"] == "done", job
    assert path.stat().st_blocks * 512 <= before - 19 * MIB
    assert pool.get_info(volume)["generation"] == 1
    assert look(pool, volume, tmp_path)("srv/kept") == "kept"
