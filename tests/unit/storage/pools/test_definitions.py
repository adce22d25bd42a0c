"""VM definitions on the master and on Backup domains."""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.storage.test_locks import waiting
from tests.unit.storage.test_migration import add_second, get_master, on_disk
from vdsm.core.errors import NodeError
from vdsm.storage import durable
from vdsm.storage.errors import (
    InvalidParameterException,
    NoSpaceLeftOnDomain,
    ResourceTimeout,
    SpmStatusError,
    StorageDomainDoesNotExist,
    StoragePoolUnknown,
)
from vdsm.storage.errors_pools import (
    MissingOvfFileFromVm,
    StorageDomainNotActive,
    StorageDomainTypeNotBackup,
    VmPathNotExists,
)
from vdsm.storage.model import DomainClass
from vdsm.storage.pools import master_tree
from vdsm.storage.pools.master_tree import LONGEST_OVF_BYTES
from vdsm.testing.storage import World, make_id

__all__ = ["on_disk"]
VM, OTHER = make_id(), make_id()


def get_vms(world: World) -> Path:
    return get_master(world, world.domain_id) / "vms"


@pytest.fixture
def spm(on_disk: World) -> World:
    for vm_id in on_disk.repository.definitions.list_vms(on_disk.pool_id):
        on_disk.repository.definitions.remove(on_disk.pool_id, vm_id)
    return on_disk


def test_writing_replacing_and_removing(spm: World) -> None:
    definitions, pool_id = spm.repository.definitions, spm.pool_id
    definitions.update(pool_id, {VM: "<é/>", OTHER: ""})
    assert (get_vms(spm) / VM / f"{VM}.ovf").read_bytes() == "<é/>".encode()
    (get_vms(spm) / VM / "old").mkdir()
    (get_vms(spm) / "no id").mkdir()
    (get_vms(spm) / make_id()).touch()
    definitions.update(pool_id, {VM: "<new/>"})
    assert os.listdir(get_vms(spm) / VM) == [f"{VM}.ovf"]
    assert definitions.list_vms(pool_id) == sorted([VM, OTHER])
    assert definitions.read(pool_id, []) == {VM: "<new/>", OTHER: ""}
    assert definitions.read(pool_id, [VM, make_id()]) == {VM: "<new/>"}
    definitions.remove(pool_id, OTHER)
    definitions.remove(pool_id, OTHER)
    assert definitions.list_vms(pool_id) == [VM]


def test_export_to_a_backup_domain(spm: World) -> None:
    backup = add_second(spm, domain_class=DomainClass.BACKUP)
    definitions = spm.repository.definitions
    definitions.update(spm.pool_id, {VM: "<x/>"}, backup)
    assert definitions.read(spm.pool_id, [], backup) == {VM: "<x/>"}
    assert definitions.list_vms(spm.pool_id) == []
    assert definitions.list_vms(spm.pool_id, spm.domain_id) == []
    (get_master(spm, backup) / "vms" / VM / f"{VM}.ovf").unlink()
    (get_master(spm, backup) / "vms" / VM).rmdir()
    (get_master(spm, backup) / "vms").rmdir()
    with pytest.raises(VmPathNotExists):
        definitions.list_vms(spm.pool_id, backup)
    spm.repository.spm.stop(spm.pool_id)
    spm.repository.spm.start(spm.pool_id)  # makes the place anew
    assert definitions.list_vms(spm.pool_id, backup) == []
    spm.repository.members.deactivate(spm.pool_id, backup)
    with pytest.raises(StorageDomainNotActive):
        definitions.update(spm.pool_id, {VM: "<x/>"}, backup)


def test_refusals(spm: World) -> None:
    definitions, pool_id = spm.repository.definitions, spm.pool_id
    data, iso = add_second(spm), add_second(spm, domain_class=DomainClass.ISO)
    for domain_id in (data, iso):
        with pytest.raises(StorageDomainTypeNotBackup):
            definitions.update(pool_id, {VM: "<x/>"}, domain_id)
        with pytest.raises(StorageDomainTypeNotBackup):
            definitions.read(pool_id, [VM], domain_id)
    with pytest.raises(StorageDomainDoesNotExist):
        definitions.list_vms(pool_id, make_id())
    for hostile in ("..", "../../etc", "", VM.upper(), f"{VM}/..", f"{VM}\n"):
        with pytest.raises(InvalidParameterException):
            definitions.update(pool_id, {VM: "<x/>", hostile: "<x/>"})
        with pytest.raises(InvalidParameterException):
            definitions.remove(pool_id, hostile)
        with pytest.raises(InvalidParameterException):
            definitions.read(pool_id, [hostile])
    for text in ("\ud800", "x" * (LONGEST_OVF_BYTES + 1)):
        with pytest.raises(InvalidParameterException):
            definitions.update(pool_id, {VM: "<x/>", OTHER: text})
    spm.repository.spm.stop(pool_id)
    with pytest.raises(SpmStatusError):
        definitions.update(pool_id, {VM: "<x/>"})
    with pytest.raises(StoragePoolUnknown):
        definitions.list_vms(make_id())
    assert definitions.list_vms(pool_id) == []


@pytest.mark.parametrize("damage", ["missing", "a link", "not UTF-8", "a folder"])
def test_what_cannot_be_read(spm: World, damage: str) -> None:
    spm.repository.definitions.update(spm.pool_id, {VM: "<x/>"})
    file = get_vms(spm) / VM / f"{VM}.ovf"
    file.unlink()
    if damage == "a link":
        file.symlink_to("/etc/passwd")
    elif damage == "not UTF-8":
        file.write_bytes(b"\xff")
    elif damage == "a folder":
        file.mkdir()
    with pytest.raises(MissingOvfFileFromVm):
        spm.repository.definitions.read(spm.pool_id, [])


def test_links_are_not_followed(spm: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (get_vms(spm) / VM).symlink_to(outside)
    spm.repository.definitions.update(spm.pool_id, {VM: "<x/>"})
    assert not (get_vms(spm) / VM).is_symlink()
    spm.repository.definitions.remove(spm.pool_id, VM)
    (get_vms(spm) / VM).symlink_to(outside)
    spm.repository.definitions.remove(spm.pool_id, VM)
    assert list(outside.iterdir()) == []


def test_a_full_domain_keeps_the_old_definition(spm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions = spm.repository.definitions
    definitions.update(spm.pool_id, {VM: "<old/>"})

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", fail)
        with pytest.raises(NoSpaceLeftOnDomain):
            definitions.update(spm.pool_id, {VM: "<new/>"})
    assert definitions.read(spm.pool_id, []) == {VM: "<old/>"}


def test_many_at_once(spm: World) -> None:
    failures: list[NodeError] = []

    def write(text: str) -> None:
        try:
            for _ in range(5):
                spm.repository.definitions.update(spm.pool_id, {VM: text, OTHER: text})
                spm.repository.definitions.remove(spm.pool_id, OTHER)
        except NodeError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(f"<{number}/>" * 1000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    [text] = spm.repository.definitions.read(spm.pool_id, [VM]).values()
    assert text in {f"<{number}/>" * 1000 for number in range(4)}
    assert not [path for path in get_vms(spm).iterdir() if path.name.startswith(".")]


def test_a_definition_that_hangs_holds_up_no_change_of_the_pool(spm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, answers = threading.Event(), threading.Event()
    write = master_tree.write_definition

    def hang(folder: Path, vm_id: str, ovf: str, give: Callable[[Path], None]) -> None:
        hangs.set()
        assert answers.wait(20)
        write(folder, vm_id, ovf, give)

    monkeypatch.setattr(master_tree, "write_definition", hang)
    second = add_second(spm)
    with ThreadPoolExecutor() as threads:
        hung = threads.submit(spm.repository.definitions.update, spm.pool_id, {VM: "<new/>"})
        assert hangs.wait(20)
        with waiting(0.05):
            spm.repository.members.deactivate(spm.pool_id, second)
            with pytest.raises(ResourceTimeout):
                spm.repository.definitions.update(spm.pool_id, {VM: "<other/>"})
        answers.set()
        hung.result(20)
    assert spm.repository.definitions.read(spm.pool_id, [VM]) == {VM: "<new/>"}
