"""Disk images that carry Python and this project into the lab VM, where reading files one by one is slow.

Over the VM's root file system an import costs a round trip per file; from a read-only disk the kernel caches it.
"""

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from lab.commands import run
from lab.scratch import Scratch

PROJECT = Path(__file__).parents[1]
CACHE = PROJECT / ".cache/lab"
VENV = PROJECT / ".venv"
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
LEFT_OUT = ("pip", "mypy", "mypyc", "ruff", "hypothesis", "piptools", "test", "idlelib", "lib2to3", "*__mypyc.*.so")
SOURCES = ("src", "lab", "demo", "tests", "tools", "examples", "pyproject.toml")
MARGIN_BYTES = 16 << 20
FILE_BYTES = 4096 + 512  # a block more or less, and what a file costs beside its contents


def build_python_image() -> Path:
    """The image with `venv/` and `stdlib/`, made when the requirements or the interpreter changed."""
    key = hashlib.sha256((VENV / "ready").read_bytes() + Path(__file__).read_bytes() + sys.version.encode())
    image = CACHE / f"python-{key.hexdigest()[:16]}.ext4"
    if image.exists():
        return image
    for old in CACHE.glob("python-*.ext4"):
        old.unlink()
    return _build(image, {"venv": VENV, "stdlib": STANDARD_LIBRARY})


def build_project_image() -> Path:
    """The image of this project's sources as they are now; `.venv/` and `.cache/` are empty folders to mount on."""
    return _build(CACHE / "project.ext4", {name: PROJECT / name for name in SOURCES}, (".venv", ".cache"))


def _build(image: Path, contents: dict[str, Path], folders: Iterable[str] = ()) -> Path:
    """An ext4 image of these files and folders, byte code compiled; complete or not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with Scratch(CACHE) as scratch:
        staging, new = scratch.path / "root", scratch.path / "image"
        for target, source in contents.items():
            _copy(source, staging / target)
        for folder in folders:
            (staging / folder).mkdir()
        _compile(staging)
        sizes = [path.lstat().st_size for path in staging.rglob("*")]
        with new.open("xb") as file:
            file.truncate(sum(sizes) + FILE_BYTES * len(sizes) + MARGIN_BYTES)
        options = "^has_journal,^resize_inode"  # it is never written to
        run("mkfs.ext4", "-q", "-m", "0", "-O", options, "-N", str(len(sizes) + 100), "-d", staging, new)
        new.rename(image)
    return image


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", *LEFT_OUT))
    else:
        shutil.copy2(source, target)


def _compile(folder: Path) -> None:
    """Byte code that is valid whatever the times of its sources; files that no Python 3 reads are passed over.

    In one process: the helpers that compileall can have would outlive it when it is ended.
    """
    command = [
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        str(folder),
    ]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False, timeout=600)
