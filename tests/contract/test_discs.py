"""Discs of files as guests read them: made by the real programs, read by others."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from vdsm.adapters.discs import DiscFailed, DiscMaker
from vdsm.adapters.files import OwnOwner
from vdsm.adapters.run import CommandFailed, has_program
from vdsm.core.errors import NodeError
from vdsm.virt.ports import Payload

VM_ID, OTHER_ID = "aaaaaaaa-0000-4000-8000-00000000000a", "cccccccc-0000-4000-8000-00000000000c"
FILES = {"openstack/latest/user_data": b"#cloud-config\n", "openstack/latest/meta_data.json": b"{}", "Read Me.txt": b""}
pytestmark = pytest.mark.skipif(not (has_program("mkisofs") and has_program("mcopy")), reason="no mkisofs or mtools")


def tell(*command: str | Path) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture
def maker(tmp_path: Path) -> DiscMaker:
    return DiscMaker(tmp_path / "payload", OwnOwner())


@pytest.mark.parametrize("names", ["-R", "-J"])
async def test_a_cd_has_the_files_under_their_names(maker: DiscMaker, names: str) -> None:
    path = await maker.make(VM_ID, "hdc", Payload(False, "config-2", FILES))
    assert b"Volume id: config-2\n" in tell("isoinfo", "-d", "-i", path)
    listed = tell("isoinfo", names, "-f", "-i", path).decode().splitlines()
    assert {f"/{name}" for name in FILES} <= set(listed)
    assert tell("isoinfo", names, "-x", "/openstack/latest/user_data", "-i", path) == b"#cloud-config\n"


async def test_a_floppy_has_the_files_under_their_names(maker: DiscMaker) -> None:
    path = await maker.make(VM_ID, "fda", Payload(True, "SETTINGS-OF-VM", FILES))
    assert Path(path).stat().st_size == 1440 * 1024
    assert b"SETTINGS-OF" in tell("mlabel", "-s", "-i", path, "::")
    assert tell("mtype", "-i", path, "::openstack/latest/user_data") == b"#cloud-config\n"
    assert b"Read Me.txt" in tell("mdir", "-i", path, "::")


async def test_names_that_programs_might_take_for_options(maker: DiscMaker) -> None:
    files = {"-o": b"a", "--help": b"b", "@x": b"c", "a=b": b"d", "é": b"e"}
    path = await maker.make(VM_ID, "hdc", Payload(False, "-o", files))
    assert {f"/{name}" for name in files} == set(tell("isoinfo", "-R", "-f", "-i", path).decode().splitlines())
    path = await maker.make(VM_ID, "fda", Payload(True, "-v", {"-o": b"a", "--help": b"b", "@x": b"c", "a=b": b"d"}))
    assert tell("mtype", "-i", path, "::-o") == b"a" and tell("mtype", "-i", path, "::a=b") == b"d"


async def test_a_disc_is_replaced_whole_and_nobody_else_reads_it(maker: DiscMaker, tmp_path: Path) -> None:
    os.umask(old := os.umask(0o777))
    try:
        os.umask(0o077)
        first = await maker.make(VM_ID, "hdc", Payload(False, "", {"a": b"1"}))
    finally:
        os.umask(old)
    assert Path(first).stat().st_mode & 0o777 == 0o660
    assert await maker.make(VM_ID, "hdc", Payload(False, "", {"a": b"2"})) == first
    assert tell("isoinfo", "-R", "-x", "/a", "-i", first) == b"2"
    assert [file.name for file in (tmp_path / "payload").iterdir()] == [Path(first).name]


async def test_what_does_not_fit_leaves_nothing(maker: DiscMaker, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        await maker.make(VM_ID, "fda", Payload(True, "", {"a": bytes(2 << 20)}))
    assert list((tmp_path / "payload").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DiscFailed):
        await DiscMaker(tmp_path / "file", OwnOwner()).make(VM_ID, "fda", Payload(True, "", {}))


async def test_discs_go_with_their_vms_and_remains_with_all(maker: DiscMaker, tmp_path: Path) -> None:
    folder = tmp_path / "payload"
    await maker.remove(VM_ID)  # there is no folder yet
    await maker.keep({VM_ID})
    paths = [await maker.make(vm_id, "fda", Payload(True, "", {})) for vm_id in (VM_ID, OTHER_ID)]
    left = folder / f"{VM_ID}-fda.img-killed"
    left.mkdir()
    (left / "secret").touch()
    await maker.keep({VM_ID})
    assert [str(file) for file in folder.iterdir()] == paths[:1]
    await maker.remove(VM_ID)
    assert list(folder.iterdir()) == []


async def test_many_at_once(maker: DiscMaker, tmp_path: Path) -> None:
    payloads = [Payload(number % 2 == 0, "", {"a": b"%d" % number}) for number in range(8)]
    made = await asyncio.gather(*(maker.make(VM_ID, f"hd{number}", one) for number, one in enumerate(payloads)))
    assert len(list((tmp_path / "payload").iterdir())) == len(set(made)) == len(payloads)
    assert issubclass(DiscFailed, NodeError)
