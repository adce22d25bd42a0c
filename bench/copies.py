"""Figures of copies: a half-empty disk through `SDM.copy_data`, beside qemu-img in the same run, taking turns."""

import os
import subprocess
import time
import uuid
from pathlib import Path

from bench.report import Figure, at_most
from bench.volumes import GIB, Repository, compare
from demo.steps import Ids

SIZE = 4 * GIB
_PIECE = 1 << 20
_RIVAL = ("qemu-img", "convert", "-f", "raw", "-O", "raw", "-t", "none", "-T", "none")


def measure_copy(repository: Repository, scratch: Path, rounds: int = 5) -> Figure:
    """A raw image of 4 GiB, every second MiB of it empty, until the copy is on disk and says so."""
    source = repository.create_volume(repository.few, SIZE)
    path = _get_path(repository, source)
    _fill_half(path)
    target = repository.create_volume(repository.few, SIZE)
    rival = scratch / "rival.img"

    def copy_theirs() -> None:
        rival.unlink(missing_ok=True)
        subprocess.run([*_RIVAL, path, rival], stdin=subprocess.DEVNULL, check=True)

    ours_s, theirs_s = compare(rounds, lambda: _copy(repository, source, target), copy_theirs)
    assert _is_same(path, _get_path(repository, target))
    rival.unlink()
    floor = at_most(1.05, ours_s / theirs_s, "x")
    return Figure("SDM.copy_data of 4 GiB, half empty", ours_s, "s", "qemu-img", theirs_s, *floor)


def _copy(repository: Repository, source: Ids, target: Ids) -> None:
    job_id = str(uuid.uuid4())
    ends = [
        {"endpoint_type": "div", "sd_id": one.domain, "img_id": one.image, "vol_id": one.volume}
        for one in (source, target)
    ]
    repository.client.call("SDM.copy_data", {"job_id": job_id, "source": ends[0], "destination": ends[1]})
    while True:
        job = repository.client.call("Host.getJobs", {"job_ids": [job_id]})[job_id]
        if job["status"] not in ("pending", "running"):
            break
        time.sleep(0.01)
    assert job["status"] == "done", job


def _get_path(repository: Repository, ids: Ids) -> Path:
    return Path(repository.client.call("Image.prepare", ids.disk)["path"])


def _fill_half(path: Path) -> None:
    piece = os.urandom(_PIECE)
    with path.open("r+b") as file:
        for offset in range(0, SIZE, 2 * _PIECE):
            file.seek(offset)
            file.write(offset.to_bytes(8) + piece[8:])  # no two alike
        os.fsync(file.fileno())


def _is_same(left: Path, right: Path) -> bool:
    command = ("qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", left, right)
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0
