#!/usr/bin/python3
"""The image repository as a library: disk images in, snapshots, disk images out, and no daemon.

    examples/repository.py FOLDER DISK.qcow2 EXPORTED.qcow2

FOLDER is new; a storage domain is made in it, and stays. No root is needed, but qemu-img is, and a file system with
direct I/O. Whatever fails raises an error that tells what and where, and has changed nothing that anybody sees.
"""

import sys
import uuid
from pathlib import Path

from msgspec.structs import replace

from vdsm.storage import open_repository
from vdsm.storage.model import Allocation, DomainType, VolumeFormat, VolumeRef, VolumeRequest
from vdsm.storage.ports import Layer
from vdsm.storage.repository import Repository


def make_id() -> str:
    """Domains, pools, images and volumes are named by UUIDs, which their makers choose."""
    return str(uuid.uuid4())


def make_domain(repository: Repository, folder: Path) -> tuple[str, str]:
    """A domain in an empty folder, and a pool of it whose metadata this process may write; the ids of both."""
    pool_id, domain_id, host_id, version = make_id(), make_id(), 1, 1
    repository.servers.connect(DomainType.LOCALFS, str(folder))
    repository.domains.create(DomainType.LOCALFS, domain_id, "my domain", str(folder))
    repository.pools.create(pool_id, "my pool", domain_id, version, [domain_id])
    repository.pools.connect(pool_id, host_id, domain_id, version)
    repository.spm.start(pool_id)
    return pool_id, domain_id


def import_disk(repository: Repository, pool_id: str, domain_id: str, disk: Path) -> VolumeRequest:
    """A volume in an image of its own, with the data of a qcow2, VMDK, VDI or raw file, or of the first disk in an OVA.

    A file that names other files is refused.
    """
    source, *_ = repository.inspection.find_images(disk).values()
    size_bytes = repository.inspection.get_file_size(source)
    volume = VolumeRequest(
        pool_id,
        domain_id,
        image_id=make_id(),
        volume_id=make_id(),
        capacity_bytes=size_bytes,
        format=VolumeFormat.COW,
        allocation=Allocation.SPARSE,
        description=disk.name,
        legal=False,  # until the data is there, whatever happens meanwhile
    )
    repository.volumes.create(volume)
    repository.jobs.import_file(source, refer_to(volume))
    return volume


def take_snapshot(repository: Repository, volume: VolumeRequest) -> VolumeRequest:
    """A layer above the volume, which stays as it is from now on; what is written later belongs into the layer."""
    layer = replace(volume, volume_id=make_id(), parent_id=volume.volume_id, description="a layer", legal=True)
    repository.volumes.create(layer)
    return layer


def export_disk(repository: Repository, volume: VolumeRequest, path: Path, format: str) -> None:
    """One new file with all that the volume reads as, `raw`, `qcow2`, `vmdk` or `vdi`."""
    repository.inspection.export_file(refer_to(volume), Layer(path, format))


def refer_to(volume: VolumeRequest) -> VolumeRef:
    """The volume as operations on data name it."""
    return VolumeRef(volume.domain_id, volume.image_id, volume.volume_id)


def put_away(repository: Repository, pool_id: str) -> None:
    """Let others be the writer. Ending the process does, too."""
    repository.spm.stop(pool_id)
    repository.pools.disconnect(pool_id)


def main() -> None:
    """All of it, one after another."""
    folder, disk, exported = (Path(word) for word in sys.argv[1:])
    folder.mkdir()
    folder = folder.absolute()
    repository = open_repository(folder / "root")  # where links to what is connected are kept, `/` for a daemon
    (folder / "domain").mkdir()
    pool_id, domain_id = make_domain(repository, folder / "domain")

    base = import_disk(repository, pool_id, domain_id, disk)
    layer = take_snapshot(repository, base)
    # A VM would write into the layer now. Let us only look where it would:
    prepared = repository.images.prepare(pool_id, domain_id, layer.image_id, layer.volume_id)
    for place in prepared.chain:
        info = repository.volumes.get_info(domain_id, place.image_id, place.volume_id)
        print(f"{info.metadata.role:8} {info.size.allocated_bytes >> 10:8} KiB  {place.path}")
    repository.images.teardown(domain_id, layer.image_id)

    export_disk(repository, layer, exported, "qcow2")
    put_away(repository, pool_id)


if __name__ == "__main__":
    main()
