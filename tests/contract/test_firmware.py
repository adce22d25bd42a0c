"""Files of TPMs and NVRAMs: what is written is read again, and nothing leads out of libvirt's folders."""

import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from vdsm.adapters.firmware import LARGEST, FirmwareFiles
from vdsm.virt.ports import FirmwareUnusable

VM_ID = "aaaaaaaa-0000-4000-8000-00000000000a"


@pytest.fixture
def files(tmp_path: Path) -> FirmwareFiles:
    return FirmwareFiles(tmp_path)


def nvrams(root: Path) -> Path:
    return root / "var/lib/libvirt/qemu/nvram"


async def test_an_nvram(files: FirmwareFiles, tmp_path: Path) -> None:
    path = str(nvrams(tmp_path) / "vm.fd")
    assert await files.read("nvram", VM_ID, path) is None
    for data in (b"first" * 1000, b""):
        await files.write("nvram", VM_ID, path, data)
        assert await files.read("nvram", VM_ID, path) == data
    assert [file.name for file in nvrams(tmp_path).iterdir()] == ["vm.fd"]
    assert nvrams(tmp_path).joinpath("vm.fd").stat().st_mode & 0o077 == 0


async def test_a_tpm(files: FirmwareFiles, tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/libvirt/swtpm" / VM_ID
    assert await files.read("tpm", VM_ID, "") is None
    (folder / "tpm2").mkdir(parents=True)
    assert await files.read("tpm", VM_ID, "") is not None
    (folder / "tpm2/tpm2-00.permall").write_bytes(b"secret")
    (folder / ".lock").write_bytes(b"")
    (folder / "link").symlink_to("/etc/shadow")
    os.mkfifo(folder / "pipe")
    data = await files.read("tpm", VM_ID, "")
    assert data is not None and data == await files.read("tpm", VM_ID, "")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:xz") as tar:
        assert tar.getnames() == ["./.lock", "./tpm2", "./tpm2/tpm2-00.permall"]
    other = VM_ID.replace("a", "b")
    await files.write("tpm", other, "", data)
    copy = folder.parent / other
    assert (copy / "tpm2/tpm2-00.permall").read_bytes() == b"secret"
    (copy / "later").write_bytes(b"x")
    await files.write("tpm", other, "", data)
    assert sorted(found.name for found in copy.iterdir()) == [".lock", "tpm2"]
    assert sorted(found.name for found in folder.parent.iterdir()) == sorted([VM_ID, other])


async def test_what_was_left_half_written_goes(files: FirmwareFiles, tmp_path: Path) -> None:
    await files.clear()
    path, folder = nvrams(tmp_path) / "vm.fd", tmp_path / "var/lib/libvirt/swtpm"
    await files.write("nvram", VM_ID, str(path), b"data")
    path.with_name(".vdsm-x1").write_bytes(b"half")
    for name in (VM_ID, ".vdsm-x2"):
        (folder / name / "fresh").mkdir(parents=True)
    await files.clear()
    assert [found.name for found in (*path.parent.iterdir(), *folder.iterdir())] == ["vm.fd", VM_ID]


@pytest.mark.parametrize("path", ["/etc/shadow", "", "vm.fd", "{}/../vm.fd", "{}/sub/vm.fd", "{}/..", "{}"])
async def test_paths_that_lead_elsewhere(files: FirmwareFiles, tmp_path: Path, path: str) -> None:
    nvrams(tmp_path).mkdir(parents=True)
    given = path.format(nvrams(tmp_path))
    with pytest.raises(FirmwareUnusable):
        await files.read("nvram", VM_ID, given)
    with pytest.raises(FirmwareUnusable):
        await files.write("nvram", VM_ID, given, b"x")
    with pytest.raises(FirmwareUnusable):
        await files.read("tpm", "../../etc", "")


async def test_links_and_giants_are_not_read(files: FirmwareFiles, tmp_path: Path) -> None:
    folder = nvrams(tmp_path)
    folder.mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "link.fd").symlink_to(secret)
    (folder / "folder.fd").mkdir()
    os.mkfifo(folder / "pipe.fd")
    with (folder / "large.fd").open("wb") as file:
        file.truncate(LARGEST + 1)
    for name in ("link.fd", "folder.fd", "pipe.fd", "large.fd"):
        with pytest.raises(FirmwareUnusable):
            await files.read("nvram", VM_ID, str(folder / name))
    await files.write("nvram", VM_ID, str(folder / "link.fd"), b"new")
    assert secret.read_bytes() == b"secret" and not (folder / "link.fd").is_symlink()


def pack(*entries: tuple[str, bytes, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), "/etc/passwd"
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        lzma.compress(b"no tar" * 1000),
        lzma.compress(bytes(LARGEST + 1)),
        pack(("../out", tarfile.REGTYPE, b"x")),
        pack(("/tmp/vdsm-out", tarfile.REGTYPE, b"x")),
        pack(("link", tarfile.SYMTYPE, b"")),
        pack(("hard", tarfile.LNKTYPE, b"")),
        pack(("device", tarfile.CHRTYPE, b"")),
        pack(("a", tarfile.REGTYPE, b"x"), ("a", tarfile.REGTYPE, b"y")),
        pack(*((str(number), tarfile.REGTYPE, b"") for number in range(200))),
    ],
    ids=["empty", "none", "no tar", "bomb", "above", "absolute", "link", "hard link", "device", "twice", "many"],
)
async def test_what_no_tpm_keeps_is_not_written(files: FirmwareFiles, tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "var/lib/libvirt/swtpm" / VM_ID
    folder.mkdir(parents=True)
    (folder / "old").write_bytes(b"old")
    with pytest.raises(FirmwareUnusable):
        await files.write("tpm", VM_ID, "", data)
    assert [str(found.relative_to(tmp_path)) for found in tmp_path.rglob("*") if found.is_file()] == [
        str((folder / "old").relative_to(tmp_path))
    ]
    assert not Path("/tmp/vdsm-out").exists()
