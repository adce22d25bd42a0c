"""Disks of real VMs are read over NBD as they were when the backup began; killed daemons leave nothing half done."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.commands import run
from tests.system.guest_disks import write_to_disk
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import CallFailed, Pool, Vdsmd, Volume, kill_during, make_id, poll

SIZE = 4 << 20
PIECE = 1 << 20


def make_config(pool: Pool, volume: Volume, **more: object) -> dict[str, Any]:
    ids = {name: pool.drive(volume)[name] for name in ("domainID", "imageID", "volumeID")}
    disk = {**ids, "checkpoint": "to_checkpoint_id" in more}
    return {"backup_id": make_id(), "disks": [disk], **more}


def write(libvirtd: PrivateLibvirtd, vm_id: str, pattern: int, piece: int) -> None:
    write_to_disk(libvirtd, vm_id, f"-P {pattern} {piece * PIECE} {PIECE}")


def read_served(address: str, target: Path) -> bytes:
    """The whole disk as a client of the backup reads it."""
    assert address.startswith("nbd:unix:")
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", address, target)
    return target.read_bytes()


def list_changed(address: str, checkpoint: str) -> list[int]:
    """The pieces that a client of an incremental backup is told to read."""
    socket, _, export = address.removeprefix("nbd:unix:").partition(":exportname=")
    image = f"driver=nbd,server.type=unix,server.path={socket},export={export}"
    image += f",x-dirty-bitmap=qemu:dirty-bitmap:backup-{export}"
    told = run("qemu-img", "map", "--output=json", "--image-opts", image)
    return sorted(
        piece
        for part in json.loads(told)
        if not part["data"]
        for piece in range(part["start"] // PIECE, (part["start"] + part["length"] - 1) // PIECE + 1)
    )


def list_left(vdsmd: Vdsmd) -> list[str]:
    """Scratch disks and sockets of backups."""
    places = (vdsmd.root / "var/lib/vdsm/storage/transient_disks", vdsmd.root / "run/vdsm/backup")
    return [str(path) for place in places for path in place.rglob("*") if not path.is_dir()]


def test_what_a_backup_serves(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, tmp_path: Path) -> None:
    volume = pool.create_volume(size_bytes=SIZE)
    vm_id = vdsmd.create_vm(devices=[pool.drive(volume)])
    write(libvirtd, vm_id, 1, 0)
    first, second = make_id(), make_id()
    config = make_config(pool, volume, to_checkpoint_id=first, creation_time=5)
    made = vdsmd.call("VM.start_backup", vmID=vm_id, config=config)
    write(libvirtd, vm_id, 2, 0)
    address = made["disks"][volume.image_id]
    assert read_served(address, tmp_path / "full")[: 2 * PIECE] == b"\1" * PIECE + bytes(PIECE)
    assert vdsmd.call("VM.backup_info", vmID=vm_id, backup_id=config["backup_id"], checkpoint_id=first) == made
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.start_backup", vmID=vm_id, config=make_config(pool, volume))
    assert refused.value.code == 1600
    vdsmd.restart()
    assert read_served(address, tmp_path / "full")[:PIECE] == b"\1" * PIECE
    vdsmd.call("VM.stop_backup", vmID=vm_id, backup_id=config["backup_id"])
    vdsmd.call("VM.stop_backup", vmID=vm_id, backup_id=config["backup_id"])
    assert list_left(vdsmd) == []
    write(libvirtd, vm_id, 3, 2)
    config = make_config(pool, volume, from_checkpoint_id=first, to_checkpoint_id=second)
    made = vdsmd.call("VM.start_backup", vmID=vm_id, config=config)
    write(libvirtd, vm_id, 4, 3)
    address = made["disks"][volume.image_id]
    assert list_changed(address, first) == [0, 2]
    data = read_served(address, tmp_path / "later")
    assert [data[piece * PIECE] for piece in range(4)] == [2, 0, 3, 0]
    vdsmd.call("VM.stop_backup", vmID=vm_id, backup_id=config["backup_id"])
    assert vdsmd.call("VM.list_checkpoints", vmID=vm_id) == [first, second]
    xml = vdsmd.call("VM.dump_checkpoint", vmID=vm_id, checkpoint_id=first)["checkpoint"]
    done = vdsmd.call("VM.redefine_checkpoints", vmID=vm_id, checkpoints=[{"id": first, "xml": xml}])
    assert done == {"checkpoint_ids": [first]}
    done = vdsmd.call("VM.delete_checkpoints", vmID=vm_id, checkpoint_ids=[make_id(), first, second])
    assert len(done["checkpoint_ids"]) == 3 and "error" not in done
    config = make_config(pool, volume, from_checkpoint_id=first)
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.start_backup", vmID=vm_id, config=config)
    assert refused.value.code in (1600, 1612) and list_left(vdsmd) == []


@pytest.mark.timeout(600)
def test_a_daemon_that_is_killed_amid_backups(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    volume = pool.create_volume(size_bytes=SIZE)
    vm_id = vdsmd.create_vm(devices=[pool.drive(volume)])
    begun: list[str] = []

    def back_up() -> None:
        while True:
            config = make_config(pool, volume, to_checkpoint_id=make_id())
            begun.append(config["backup_id"])
            vdsmd.call("VM.start_backup", vmID=vm_id, config=config)
            vdsmd.call("VM.stop_backup", vmID=vm_id, backup_id=config["backup_id"])

    for _ in range(rounds(4, 30)):
        kill_during(vdsmd, random.uniform(0, 0.6), back_up)
        vdsmd.start()
        # What libvirt was asked for it does all the same, a moment later.
        poll(lambda: "<ovirt-vm:frozen" not in libvirtd.run("virsh", "-q", "dumpxml", vm_id), "the guest is thawed")
        vdsmd.call("VM.stop_backup", vmID=vm_id, backup_id=begun[-1])
        poll(lambda: list_left(vdsmd) == [], "nothing is left")
        assert libvirtd.run("virsh", "-q", "domstate", vm_id).strip() == "running"
        vdsmd.call("VM.delete_checkpoints", vmID=vm_id, checkpoint_ids=vdsmd.call("VM.list_checkpoints", vmID=vm_id))
