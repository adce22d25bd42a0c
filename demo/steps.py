"""The steps of the demo, each a few calls of the daemon's API; their order and cleaning up are left to main."""

import json
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from demo.guest import GuestFiles
from demo.node import Node, NodeFailure

GIB = 1024**3
DISK_GIB = 100
BLANK = str(uuid.UUID(int=0))
UP_DEADLINE_S = 60.0


def _make_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of everything that the demo makes."""

    pool: str = field(default_factory=_make_id)
    domain: str = field(default_factory=_make_id)
    image: str = field(default_factory=_make_id)
    volume: str = field(default_factory=_make_id)
    vm: str = field(default_factory=_make_id)

    @property
    def disk(self) -> dict[str, str]:
        """The volume as the storage verbs name it."""
        return {
            "storagepoolID": self.pool,
            "storagedomainID": self.domain,
            "imageID": self.image,
            "volumeID": self.volume,
        }


def create_storage(node: Node, ids: Ids, folder: Path) -> None:
    """A storage domain in a folder, a pool of it, and the pool connected with this host as its manager."""
    server = [{"id": _make_id(), "connection": str(folder)}]
    pool = {"storagepoolID": ids.pool, "masterSdUUID": ids.domain, "masterVersion": 1}
    node.call(
        "StoragePool.connectStorageServer",
        {"storagepoolID": ids.pool, "domainType": "LOCALFS", "connectionParams": server},
    )
    node.call(
        "StorageDomain.create",
        {
            "storagedomainID": ids.domain,
            "domainType": "LOCALFS",
            "typeArgs": {"remotePath": str(folder)},
            "name": "demo",
            "domainClass": "Data",
            "version": 5,
        },
    )
    lease = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}
    node.call("StoragePool.create", {**pool, **lease, "name": "demo", "domainList": [ids.domain]})
    node.call("StoragePool.connect", {**pool, "hostID": 1, "scsiKey": "unused"})
    node.call_task(
        "StoragePool.spmStart",
        {"storagepoolID": ids.pool, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"},
    )


def create_volume(node: Node, ids: Ids, size_bytes: int) -> None:
    """A thin disk."""
    wishes = {"volFormat": "COW", "preallocate": "SPARSE", "diskType": "DATA", "desc": "demo"}
    origin = {"srcImgUUID": BLANK, "srcVolUUID": BLANK}
    node.call_task("Volume.create", {**ids.disk, **wishes, **origin, "size": str(size_bytes)})


def get_image_size(image: Path) -> int:
    """The size in bytes that a guest sees. Raises NodeFailure when the file is no disk image."""
    command = ("qemu-img", "info", "--output=json", "--force-share", image)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if done.returncode != 0:
        raise NodeFailure(f"IMAGE: {done.stderr.strip()}")
    size: int = json.loads(done.stdout)["virtual-size"]
    return size


def fill_volume(node: Node, ids: Ids, image: Path) -> None:
    """Copy an image into the volume; the image itself is only read."""
    prepared = node.call("Image.prepare", ids.disk)
    if not isinstance(prepared, dict):
        raise NodeFailure("Image.prepare told no path")
    command = ("qemu-img", "convert", "-n", "-O", "qcow2", image, prepared["path"])
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    node.call("Image.teardown", ids.disk)
    if done.returncode != 0:
        raise NodeFailure(f"IMAGE: {done.stderr.strip()}")


def create_vm(node: Node, ids: Ids, name: str, guest: GuestFiles | None) -> None:
    """A VM with the volume as its disk, a VNC display and a serial console; it boots `guest`, or else from its disk."""
    place = {"poolID": ids.pool, "domainID": ids.domain, "imageID": ids.image, "volumeID": ids.volume}
    order = {"bootOrder": 1} if guest is None else {}
    devices = [
        {"type": "disk", "device": "disk", "iface": "virtio", "index": 0, "format": "cow", **order, **place},
        {"type": "graphics", "device": "vnc"},
        {"type": "video", "device": "vga"},
        {"type": "console", "device": "console", "specParams": {"consoleType": "serial"}},
        {"type": "rng", "device": "virtio", "specParams": {"source": "urandom"}, "model": "virtio"},
    ]
    parameters: dict[str, object] = {"vmId": ids.vm, "vmName": name, "devices": devices}
    if guest is None:
        parameters |= {"memSize": 1024, "smp": "2"}
    else:
        arguments = f"{guest.arguments} guest={name}"
        parameters |= {"memSize": 256, "smp": "1", "kernel": str(guest.kernel), "initrd": str(guest.initrd)}
        parameters |= {"kernelArgs": arguments}
    node.call("VM.create", {"vmID": ids.vm, "vmParams": parameters})


def get_vm(node: Node, ids: Ids) -> dict[str, object]:
    """The VM's figures. Raises NodeFailure when it is down."""
    answer = node.call("VM.getStats", {"vmID": ids.vm})
    figures = answer[0] if isinstance(answer, list) else answer
    if not isinstance(figures, dict):
        raise NodeFailure("VM.getStats told no figures")
    if figures["status"] == "Down":
        raise NodeFailure(f"the VM is down: {figures.get('exitMessage')}")
    return figures


def wait_until_up(node: Node, ids: Ids) -> None:
    """Return when the VM runs. Raises NodeFailure."""
    deadline = time.monotonic() + UP_DEADLINE_S
    while get_vm(node, ids)["status"] in ("WaitForLaunch",):
        if time.monotonic() > deadline:
            raise NodeFailure(f"the VM does not start: {get_vm(node, ids)['status']}")
        time.sleep(0.1)


def show_tables(node: Node, ids: Ids) -> None:
    """What vdsm-client tells of host, VM and domain."""
    for words in (
        ("Host", "getStats"),
        ("VM", "getStats", f"vmID={ids.vm}"),
        ("StorageDomain", "getStats", f"storagedomainID={ids.domain}"),
    ):
        print(f"\n$ vdsm-client {' '.join(words)}", flush=True)
        node.run_program("vdsm-client", "--table", *words)
    print(flush=True)


def remove_all(node: Node, ids: Ids) -> None:
    """Destroy the VM and let go of the storage."""
    pool = {"storagepoolID": ids.pool}
    node.call("VM.destroy", {"vmID": ids.vm})
    node.call("StoragePool.spmStop", pool)
    node.call("StoragePool.disconnect", {**pool, "hostID": 1, "scsiKey": "unused"})
