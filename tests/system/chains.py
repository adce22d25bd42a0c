"""A VM of the real daemon whose guest writes to a disk on storage, and what each witness tells of its disks' chains."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from lab.commands import run
from lab.guests import Console, Writer, read_contents
from lab.scratch import Scratch
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import FORMATS, Pool, Vdsmd, Volume, make_id, poll
from vdsm.core.ids import BLANK_UUID

VM = "http://ovirt.org/vm/1.0"
WRITER = Writer(slots=64, sectors_per_write=16).at_rate(200_000)
SIZE_BYTES = 4 << 20


@dataclass
class Guest:
    """A VM with the writer on its first disk. Chains are lists of volumes, the lowest first."""

    vdsmd: Vdsmd
    pool: Pool
    libvirtd: PrivateLibvirtd
    console: Console
    disks: dict[str, list[Volume]] = field(default_factory=dict)
    """What the disks are to be, by target name."""
    vm_id: str = field(default_factory=make_id)

    def start(self) -> None:
        """Create the VM, and wait for the guest's first writes."""
        self.vdsmd.call("VM.create", vmID=self.vm_id, vmParams={"vmId": self.vm_id, "xml": self.format_xml()})
        self.vdsmd.wait_status(self.vm_id, "Up", "Powering up")
        self.console.wait_for_writes(5)

    def format_xml(self) -> str:
        told, disks = "", ""
        for target, chain in self.disks.items():
            top = chain[-1]
            ids = {"pool": self.pool.pool_id, "domain": self.pool.domain_id, "image": top.image_id}
            words = "".join(
                f"<v:{name}ID>{value}</v:{name}ID>" for name, value in (ids | {"volume": top.volume_id}).items()
            )
            told += f"<v:device devtype='disk' name='{target}'>{words}</v:device>"
            driver = f"<driver name='qemu' type='{FORMATS[top.format]}' cache='none'/>"
            disks += (
                f"<disk type='file' device='disk'>{driver}<source file=''/><target dev='{target}' bus='virtio'/></disk>"
            )
        return f"""<domain type='qemu'><name>vm-{self.vm_id[:8]}</name><uuid>{self.vm_id}</uuid>
            <metadata><v:vm xmlns:v='{VM}'>{told}</v:vm></metadata><memory unit='MiB'>16</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{disks}
            <serial type='unix'><source mode='connect' path='{self.console.path}'/></serial>
            <memballoon model='none'/></devices></domain>"""

    def add_top(self, target: str, *, size_bytes: int = SIZE_BYTES) -> Volume:
        """Make the volume that is to be the disk's next top."""
        top = self.disks[target][-1]
        return self.pool.create_volume(Volume(image_id=top.image_id, parent_id=top.volume_id), size_bytes)

    def wish(self, target: str, top: Volume) -> dict[str, str]:
        """That volume as a member of `snapDrives`."""
        ids = {"domainID": self.pool.domain_id, "imageID": top.image_id}
        return {**ids, "baseVolumeID": self.disks[target][-1].volume_id, "volumeID": top.volume_id}

    def drive(self, target: str) -> dict[str, str]:
        """The disk as verbs name it that take its active volume."""
        place = self.pool.place(self.disks[target][-1])
        return {"poolID": place["storagepoolID"], "domainID": place["storagedomainID"], "device": "disk"} | {
            name: place[name] for name in ("imageID", "volumeID")
        }

    def find_disk(self, target: str) -> Element:
        """What libvirt tells of the disk."""
        domain = ElementTree.fromstring(self.libvirtd.run("virsh", "-q", "dumpxml", self.vm_id))
        [disk] = [disk for disk in domain.iterfind("devices/disk") if disk.find(f"target[@dev='{target}']") is not None]
        return disk

    def list_live(self, target: str) -> list[str]:
        """The chain as libvirt has it."""
        layer: Element | None = self.find_disk(target)
        volumes = []
        while layer is not None and (source := layer.find("source")) is not None:
            volumes.append(Path(source.get("file", "")).name)
            layer = layer.find("backingStore")
        return volumes[::-1]

    def list_files(self, target: str, top: Volume) -> list[str]:
        """The chain as the files have it."""
        path = self.pool.get_mounted_path(top)
        described = run("qemu-img", "info", "-U", "--backing-chain", "--output", "json", path)
        return [Path(layer["filename"]).name for layer in json.loads(described)][::-1]

    def list_records(self, target: str, top: Volume) -> list[str]:
        """The chain as the volumes' metadata has it; each is legal."""
        volumes, volume = [], top
        while True:
            info = self.pool.get_info(volume)
            assert info["legality"] == "LEGAL", info
            volumes.append(volume.volume_id)
            if info["parent"] == BLANK_UUID:
                return volumes[::-1]
            volume = replace(volume, volume_id=info["parent"])

    def get_told(self, target: str) -> str:
        """The volume that the VM's metadata tells of the disk."""
        domain = ElementTree.fromstring(self.libvirtd.run("virsh", "-q", "dumpxml", self.vm_id))
        [told] = domain.findall(f"metadata/{{{VM}}}vm/{{{VM}}}device[@name='{target}']")
        return told.findtext(f"{{{VM}}}volumeID", "")

    def get_values(self) -> dict[str, str]:
        """The scalars of the VM's metadata."""
        domain = ElementTree.fromstring(self.libvirtd.run("virsh", "-q", "dumpxml", self.vm_id))
        return {one.tag.rpartition("}")[2]: one.text or "" for one in domain.iterfind(f"metadata/{{{VM}}}vm/*")}

    def find_disagreement(self) -> str:
        """What one witness tells else than the others, or than the disks are to be; empty when all agree."""
        for target, chain in self.disks.items():
            wanted = [volume.volume_id for volume in chain]
            found = {
                "libvirt": self.list_live(target),
                "files": self.list_files(target, chain[-1]),
                "records": self.list_records(target, chain[-1]),
            }
            for witness, told in found.items():
                if told != wanted:
                    return f"{target}: {witness} tells {told}, not {wanted}"
            if self.get_told(target) != wanted[-1]:
                return f"{target}: the VM's metadata tells {self.get_told(target)}, not {wanted[-1]}"
        return ""

    def is_prepared(self) -> bool:
        """Whether an image of the VM is in use."""
        folder = Path(self.vdsmd.root, "run/vdsm/storage", self.pool.domain_id)
        return any((folder / chain[-1].image_id).is_symlink() for chain in self.disks.values())

    def end(self) -> None:
        """Stop the writer, have it read all back, end the VM, and read its writes from the top of the chain."""
        self.console.stop_writes()
        self.console.wait_until_verified()
        self.vdsmd.call("VM.destroy", vmID=self.vm_id)
        assert not self.is_prepared()
        top = self.disks["vda"][-1]
        contents = read_contents(self.pool.get_mounted_path(top), WRITER, FORMATS[top.format])
        assert contents.list_lost(self.console.writes) == [] and contents.list_torn() == []

    def wait_job(self, job_id: str) -> dict[str, Any]:
        """The job once it has ended."""

        def look() -> dict[str, Any] | None:
            jobs: dict[str, Any] = self.vdsmd.call("Host.getJobs", job_type="virt", job_ids=[job_id])
            return jobs[job_id] if jobs[job_id]["status"] in ("done", "failed", "aborted") else None

        return dict(poll(look, f"job {job_id} has ended"))


@contextmanager
def running(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, disks: int = 2, format: str = "COW"
) -> Iterator[Guest]:
    """A guest that writes, with so many disks of one volume each."""
    with Scratch() as scratch, Console(scratch.path / "console") as console:
        guest = Guest(vdsmd, pool, libvirtd, console)
        for target in ("vda", "vdb", "vdc")[:disks]:
            allocation = "SPARSE" if format == "COW" else "PREALLOCATED"
            volume = pool.create_volume(Volume(format=format, allocation=allocation), SIZE_BYTES)
            guest.disks[target] = [volume]
        program = scratch.path / "program"
        WRITER.create_disk(program, SIZE_BYTES)
        base, path = guest.disks["vda"][0], pool.get_mounted_path(guest.disks["vda"][0])
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", FORMATS[base.format], program, path)
        guest.start()
        yield guest
