"""Files that are there, and files that are not."""

import os
from pathlib import Path

from vdsm.adapters.procfs import MachineFiles


def test_text_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/words").write_text("  a b\n")
    (tmp_path / "proc/number").write_text("42\n")
    (tmp_path / "proc/command").write_bytes(b"qemu\0-name\0x\xff\0")
    files = MachineFiles(tmp_path)
    assert files.read("/proc/words") == "a b"
    assert files.read("/proc/command") == "qemu -name x\ufffd"
    assert (files.read_number("/proc/number"), files.read_number("/proc/words")) == (42, None)
    assert files.list_names("/proc") == ["command", "number", "words"]


def test_absence_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    files = MachineFiles(tmp_path)
    assert files.read("/nothing") is None and files.read("/folder") is None
    assert files.read_number("/nothing") is None and files.link("/folder") is None
    assert files.list_names("/nothing") == []
    assert files.exists("/folder") and not files.exists("/nothing")
    assert files.free_bytes(tmp_path / "nothing") is None


def test_links_tell_their_last_name_even_when_they_lead_nowhere(tmp_path: Path) -> None:
    os.symlink("../../dm-0", tmp_path / "root")
    files = MachineFiles(tmp_path)
    assert files.link("/root") == "dm-0"
    assert files.exists("/root")


def test_the_real_machine() -> None:
    files = MachineFiles()
    assert files.read("/proc/sys/kernel/ostype") == "Linux", "a file that refuses reads into large buffers"
    assert files.list_affinity()


def test_room_on_a_file_system(tmp_path: Path) -> None:
    free = MachineFiles().free_bytes(tmp_path)
    assert free is not None and free >= 0
