"""libguestfs' programs as they are called, and what becomes of their failures; none of them is needed for this."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.blocks import BLOCK, make, read
from vdsm.adapters import run as door
from vdsm.adapters.guestfs import Guestfs, dig
from vdsm.storage.ports import UNWATCHED, GuestToolFailed, Layer, Unwatched

Install = Callable[[str, str], None]
WORD = "ab..cd.."
SIZE = len(WORD) * BLOCK
SAID = """\
libguestfs: trace: launch = -1 (error)
qemu-system-x86_64: warning: host doesn't support requested feature
libguestfs: error: appliance closed the connection unexpectedly
virt-sysprep: error: libguestfs error: guestfs_launch failed
libguestfs: closing guestfs handle 0x1
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts shell scripts where programs are looked for, before all others; what they echo is in the file `asked`."""
    monkeypatch.setattr(door, "SEARCH_PATH", f"{tmp_path}/bin:{door.SEARCH_PATH}")
    monkeypatch.setattr(door, "ENVIRONMENT", {**door.ENVIRONMENT, "PATH": door.SEARCH_PATH})

    def write(name: str, script: str) -> None:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\nexec 3>>{tmp_path}/asked\n{script}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def layers(tmp_path: Path) -> list[Layer]:
    return [make(tmp_path / "system", "qcow2", WORD), make(tmp_path / "data", "raw", WORD)]


@pytest.mark.parametrize(("uses_kvm", "settings"), [(False, "force_tcg"), (True, "")])
def test_sealing_is_asked_as_the_facts_tell(
    tmp_path: Path, install: Install, layers: list[Layer], uses_kvm: bool, settings: str
) -> None:
    install("virt-sysprep", 'echo "$*" "($LIBGUESTFS_BACKEND:$LIBGUESTFS_BACKEND_SETTINGS)" >&3')
    Guestfs(lambda: uses_kvm).seal(layers, UNWATCHED)
    disks = f"--format qcow2 -a {tmp_path}/system --format raw -a {tmp_path}/data"
    asked = f"-v -x --hostname localhost --selinux-relabel {disks} (direct:{settings})\n"
    assert (tmp_path / "asked").read_text() == asked


def test_the_complaint_of_a_program_is_told_and_nothing_else_that_it_says(
    install: Install, layers: list[Layer]
) -> None:
    install("virt-sysprep", f"cat >&2 <<X\n{SAID}X\nexit 3")
    with pytest.raises(GuestToolFailed) as caught:
        Guestfs().seal(layers, UNWATCHED)
    assert str(caught.value) == (
        "virt-sysprep: status 3: libguestfs: error: appliance closed the connection unexpectedly; "
        "virt-sysprep: error: libguestfs error: guestfs_launch failed"
    )
    install("virt-sysprep", "echo odd >&2; exit 4")
    with pytest.raises(GuestToolFailed, match="status 4: odd"):
        Guestfs().seal(layers, UNWATCHED)


def test_a_program_that_is_not_there_is_told_with_its_package(
    tmp_path: Path, layers: list[Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(GuestToolFailed, match="virt-sysprep is missing: install guestfs-tools"):
        Guestfs().seal(layers, UNWATCHED)


def test_what_qemu_uses_is_not_changed(tmp_path: Path, install: Install, layers: list[Layer]) -> None:
    install("virt-sysprep", "echo sealed >&3")
    data, deadline_s = layers[1], time.monotonic() + 10
    with subprocess.Popen(["qemu-io", "-f", "raw", data.path], stdin=subprocess.PIPE) as user:
        try:
            while f":{data.path.stat().st_ino} " not in Path("/proc/locks").read_text():
                assert time.monotonic() < deadline_s
            for change in (dig, lambda layer, watch: Guestfs().seal(layers, watch)):
                with pytest.raises(GuestToolFailed, match="data is in use"):
                    change(data, UNWATCHED)
        finally:
            user.kill()
    assert not (tmp_path / "asked").exists()
    assert dig(data, UNWATCHED)
    Guestfs().seal(layers, UNWATCHED)
    assert (tmp_path / "asked").exists()


def test_a_program_that_does_not_end_is_ended(tmp_path: Path, install: Install, layers: list[Layer]) -> None:
    install("virt-sysprep", "echo $$ >&3; sleep 1000")
    watch, asked = Unwatched(stopping=threading.Event()), tmp_path / "asked"
    threading.Timer(1, watch.stopping.set).start()
    start_s = time.monotonic()
    with pytest.raises(GuestToolFailed, match="virt-sysprep"):
        Guestfs().seal(layers, watch)
    assert time.monotonic() - start_s < 5
    assert not Path("/proc", asked.read_text().strip()).exists()


# Sparsifying.


def fill(path: Path) -> Layer:
    """A raw image whose zeros take space."""
    layer = make(path, "raw", WORD)
    path.write_bytes(path.read_bytes())
    assert path.stat().st_blocks * 512 == SIZE
    return layer


def test_blocks_of_zeros_are_given_back(tmp_path: Path) -> None:
    layer = fill(tmp_path / "raw")
    assert dig(layer, UNWATCHED)
    assert layer.path.stat().st_blocks * 512 == SIZE // 2
    assert read(layer) == WORD
    assert not dig(Layer(layer.path, "qcow2"), UNWATCHED)


def test_virt_sparsify_is_asked_as_the_facts_tell(tmp_path: Path, install: Install) -> None:
    install("virt-sparsify", 'echo "$*" >&3')
    layer = fill(tmp_path / "raw")
    assert Guestfs().sparsify(layer, UNWATCHED)
    assert (tmp_path / "asked").read_text() == f"-v -x --machine-readable --in-place --format raw {layer.path}\n"
    assert layer.path.stat().st_blocks * 512 == SIZE


def test_where_virt_sparsify_does_not_work_blocks_of_zeros_are_given_back(tmp_path: Path, install: Install) -> None:
    install("virt-sparsify", "echo virt-sparsify: error: no kernel >&2; exit 1")
    layer = fill(tmp_path / "raw")
    assert Guestfs().sparsify(layer, UNWATCHED)
    assert layer.path.stat().st_blocks * 512 == SIZE // 2
    assert read(layer) == WORD
    with pytest.raises(GuestToolFailed, match="no kernel"):
        Guestfs().sparsify(make(tmp_path / "cow", "qcow2", WORD), UNWATCHED)
    watch = Unwatched(stopping=threading.Event())
    watch.stopping.set()
    with pytest.raises(GuestToolFailed):
        Guestfs().sparsify(layer, watch)
