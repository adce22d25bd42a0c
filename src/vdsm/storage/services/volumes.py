"""Answers the verbs on volumes and images; long ones become tasks of the pool."""

import os
from functools import partial
from typing import Literal

from msgspec import UNSET

from vdsm.api import storage_types as api
from vdsm.core.ids import BLANK_UUID
from vdsm.storage import checks, model
from vdsm.storage.errors import InvalidParameterException
from vdsm.storage.lanes import Lanes
from vdsm.storage.ports import ImageFile, Rollbacks, Watch
from vdsm.storage.repository import Repository
from vdsm.storage.services.ports import LongWork

_BLOCK_BYTES = 4096


def format_volume(info: model.VolumeInfo) -> api.VolumeInfo:
    """A volume as `getInfo` tells it (facts: storage §4.4)."""
    metadata = info.metadata
    return api.VolumeInfo(
        volume_id=info.volume_id,
        image_id=metadata.image_id,
        domain_id=metadata.domain_id,
        pool_id="",
        parent_id=metadata.parent_id,
        children=[],
        format=metadata.format,
        allocation=metadata.allocation,
        disk_type=metadata.disk_type,
        role=metadata.role,
        legality=metadata.legality,
        status=info.status,
        description=metadata.description,
        capacity_bytes=metadata.capacity_bytes,
        size_bytes=info.size.apparent_bytes,
        allocated_bytes=info.size.allocated_bytes,
        created_s=metadata.created_s,
        modified_s=0,
        generation=metadata.generation,
        sequence=metadata.sequence,
        lease=UNSET if info.lease is None else _format_lease(info.lease),
    )


def _format_lease(lease: model.VolumeLease) -> api.VolumeLease:
    if lease.version is None:
        return api.VolumeLease(path=str(lease.path), offset=lease.offset_bytes)
    owners = [] if lease.holder is None else [lease.holder]
    return api.VolumeLease(path=str(lease.path), offset=lease.offset_bytes, owners=owners, version=lease.version)


def _format_image(image: ImageFile) -> api.QemuImageInfo:
    bitmaps = [
        api.QemuBitmap(name=one.name, granularity_bytes=one.granularity_bytes, flags=list(one.flags))
        for one in image.bitmaps
    ]
    return api.QemuImageInfo(
        format="qcow2" if image.format == model.VolumeFormat.COW.qemu else "raw",
        capacity_bytes=image.virtual_size_bytes,
        cluster_size_bytes=image.cluster_size_bytes or UNSET,
        backing_file=image.backing_file or UNSET,
        compat=image.compat or UNSET,
        bitmaps=bitmaps or UNSET,
    )


class VolumeService:
    """Implements `api.storage.VolumeApi`."""

    def __init__(self, repository: Repository, lanes: Lanes, work: LongWork) -> None:
        self._repository = repository
        self._lanes = lanes
        self._start = work.start_persistent

    async def create(
        self,
        volume_id: str,
        pool_id: str,
        domain_id: str,
        image_id: str,
        size_bytes: int,
        format: str,
        allocation: str,
        disk_type: str,
        description: str,
        parent_image_id: str = BLANK_UUID,
        parent_id: str = BLANK_UUID,
        initial_size_bytes: int | None = None,
        add_bitmaps: bool = False,
        legal: bool = True,
        sequence: int = 0,
        bitmap: str | None = None,
    ) -> str:
        request = model.VolumeRequest(
            pool_id=pool_id,
            domain_id=domain_id,
            image_id=image_id,
            volume_id=volume_id,
            capacity_bytes=size_bytes,
            format=model.VolumeFormat.parse(format),
            allocation=model.Allocation.parse(allocation),
            disk_type=disk_type,
            description=description,
            parent_image_id=parent_image_id,
            parent_id=parent_id,
            initial_size_bytes=initial_size_bytes,
            add_bitmaps=add_bitmaps,
            legal=legal,
            sequence=sequence,
            bitmap=bitmap,
        )
        checks.check_volume_request(request)
        self._repository.pools.require_spm(pool_id)
        create = partial(self._repository.volumes.create, request)
        return await self._start("createVolume", domain_id, lambda rollbacks, _: create(rollbacks))

    async def get_info(self, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> api.VolumeInfo:
        get_info = self._repository.volumes.get_info
        return format_volume(await self._lanes.run(domain_id, get_info, domain_id, image_id, volume_id))

    async def get_size(self, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> api.VolumeSize:
        size = await self._lanes.run(domain_id, self._repository.volumes.get_size, domain_id, image_id, volume_id)
        return api.VolumeSize(size_bytes=size.apparent_bytes, allocated_bytes=size.allocated_bytes)

    async def get_qemu_info(self, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> api.QemuImageInfo:
        look = self._repository.inspection.get_image_info
        return _format_image(await self._lanes.run(domain_id, look, domain_id, image_id, volume_id))

    async def measure(
        self,
        volume_id: str,
        pool_id: str,
        domain_id: str,
        image_id: str,
        format: str,
        backing_chain: bool = True,
        base_id: str | None = None,
    ) -> api.VolumeMeasure:
        found = await self._lanes.run(
            domain_id,
            self._repository.inspection.measure,
            *(domain_id, image_id, volume_id, model.VolumeFormat.parse(format)),
            backing_chain=backing_chain,
            base_id=base_id,
        )
        return api.VolumeMeasure(
            required_bytes=found.required_bytes,
            full_bytes=found.full_bytes,
            bitmaps_bytes=UNSET if found.bitmaps_bytes is None else found.bitmaps_bytes,
        )

    async def verify_untrusted(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> None:
        await self._lanes.run(domain_id, self._repository.inspection.verify, domain_id, image_id, volume_id)

    async def set_description(
        self, volume_id: str, pool_id: str, domain_id: str, image_id: str, description: str
    ) -> None:
        target = model.VolumeRef(domain_id, image_id, volume_id)
        change = self._repository.corrections.change
        await self._lanes.run(domain_id, change, pool_id, target, description=description)

    async def set_legality(self, volume_id: str, pool_id: str, domain_id: str, image_id: str, legality: str) -> None:
        target = model.VolumeRef(domain_id, image_id, volume_id)
        change = self._repository.corrections.change
        await self._lanes.run(domain_id, change, pool_id, target, legality=model.Legality(legality))

    async def refresh(self, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> None:
        await self._lanes.run(domain_id, self._repository.volumes.get_metadata, domain_id, image_id, volume_id)

    async def teardown(self, domain_id: str, image_id: str, volume_id: str) -> None:
        checks.check_real_ids(storagedomainID=domain_id, imageID=image_id, volumeID=volume_id)

    async def copy(
        self,
        volume_id: str,
        pool_id: str,
        domain_id: str,
        image_id: str,
        target_domain_id: str,
        target_image_id: str,
        target_volume_id: str,
        description: str,
        role: str,
        format: str,
        allocation: str,
        zero: bool,
        force: bool,
        discard: bool = False,
    ) -> str:
        source = model.VolumeRef(domain_id, image_id, volume_id)
        target_ids = (domain_id if target_domain_id == BLANK_UUID else target_domain_id, target_image_id)
        size_bytes, kind = model.CAPACITY_UNIT_BYTES, (model.VolumeFormat(format), model.Allocation(allocation))
        request = model.VolumeRequest(
            pool_id, *target_ids, target_volume_id, size_bytes, *kind, description=description
        )
        checks.check_copy(source, request, model.VolumeRole(role))
        self._repository.pools.require_spm(pool_id)
        copy = partial(self._repository.whole_images.copy, source, request, model.VolumeRole(role), force)
        owner = f"{domain_id} {target_ids[0]}"
        return await self._start("copyImage", owner, copy, job=f"copyImage_{target_image_id}")

    async def extend_size(self, pool_id: str, domain_id: str, image_id: str, volume_id: str, size_bytes: int) -> str:
        target = model.VolumeRef(domain_id, image_id, volume_id)
        extend = partial(self._repository.volumes.extend, pool_id, target, size_bytes)
        self._repository.pools.require_spm(pool_id)
        return await self._start("extendVolumeSize", domain_id, lambda rollbacks, _: extend(rollbacks))

    async def delete(
        self,
        volume_id: str,
        pool_id: str,
        domain_id: str,
        image_id: str,
        zero: bool,
        force: bool,
        discard: bool = False,
    ) -> str:
        return await self.start_removal(pool_id, domain_id, image_id, [volume_id], force=force, discard=discard)

    async def start_removal(
        self, pool_id: str, domain_id: str, image_id: str, volume_ids: list[str], *, force: bool, discard: bool
    ) -> str:
        """Start the task that removes volumes in the order given. Files are not zeroed (facts: storage §9.3)."""
        self._repository.pools.require_spm(pool_id)

        ids = (pool_id, domain_id, image_id, volume_ids)
        delete = partial(self._repository.volumes.delete, *ids, force=force, discard=discard)
        return await self._start("deleteVolume", domain_id, lambda rollbacks, _: delete(rollbacks=rollbacks))


class ImageService:
    """Implements `api.storage.ImageApi`, and prepares disk images for virtual machines."""

    def __init__(self, repository: Repository, lanes: Lanes, volumes: VolumeService, work: LongWork) -> None:
        self._repository = repository
        self._lanes = lanes
        self._volumes = volumes
        self._start, self._require_master = work.start_persistent, work.require_master

    async def prepare(
        self, pool_id: str, domain_id: str, image_id: str, volume_id: str, allow_illegal: bool = False
    ) -> api.PreparedImage:
        image = await self.prepare_image(pool_id, domain_id, image_id, volume_id, allow_illegal=allow_illegal)
        path = str(image.path)
        chain = [
            api.VolumeLocation(
                domain_id=volume.domain_id,
                image_id=volume.image_id,
                volume_id=volume.volume_id,
                path=str(volume.path),
                lease_path=str(volume.lease.path) if volume.lease else UNSET,
                lease_offset_bytes=volume.lease.offset_bytes if volume.lease else UNSET,
            )
            for volume in image.chain
        ]
        info, network = api.PathInfo(type="file", path=path), image.network
        if network is not None:
            hosts = [api.NetworkHost(name=server, transport=network.transport) for server in network.servers]
            info = api.PathInfo(type="network", path=network.name, protocol=network.protocol, hosts=hosts)
        return api.PreparedImage(path=path, info=info, chain=chain)

    async def prepare_image(
        self, pool_id: str, domain_id: str, image_id: str, volume_id: str, *, allow_illegal: bool = False
    ) -> model.PreparedImage:
        """`prepare` with the repository's own value."""
        prepare, ids = self._repository.images.prepare, (pool_id, domain_id, image_id, volume_id)
        return await self._lanes.run(domain_id, prepare, *ids, allow_illegal=allow_illegal)

    async def teardown(self, pool_id: str, domain_id: str, image_id: str, volume_id: str | None = None) -> None:
        await self._lanes.run(domain_id, self._repository.images.teardown, domain_id, image_id)

    async def read_start(self, domain_id: str, path: str, length: int) -> bytes:
        """The beginning of a prepared volume."""
        return await self._lanes.run(domain_id, _read_start, path, length)

    async def pad(self, domain_id: str, path: str) -> None:
        """Let a prepared volume end with a whole block."""
        await self._lanes.run(domain_id, _pad, path)

    async def write_start(self, domain_id: str, path: str, content: bytes) -> None:
        """Write to the beginning of a prepared volume, through all caches. Raises InvalidParameterException when it is
        too short for that."""
        await self._lanes.run(domain_id, _write_start, path, content)

    async def find_kind(self, path: str) -> Literal["folder", "file", "missing"]:
        """What a path leads to, which anybody may have named; AccessTimeout where it does not answer."""
        return await self._lanes.run(path, _find_kind, path)

    async def reconcile_chain(self, pool_id: str, domain_id: str, image_id: str, leaf_id: str) -> list[str]:
        reconcile = self._repository.corrections.reconcile
        return await self._lanes.run(domain_id, reconcile, pool_id, domain_id, image_id, leaf_id)

    async def list_volumes(self, image_id: str, pool_id: str, domain_id: str) -> list[str]:
        return await self._lanes.run(domain_id, self._repository.images.list_volumes, domain_id, image_id)

    async def delete(
        self, image_id: str, pool_id: str, domain_id: str, zero: bool, force: bool, discard: bool = False
    ) -> str:
        removals = self._repository.whole_images
        self._repository.pools.require_spm(pool_id)
        self._require_master(domain_id)  # what is set aside does not come back
        template_id = await self._lanes.run(domain_id, removals.set_aside, pool_id, domain_id, image_id)
        finish = partial(removals.finish, pool_id, domain_id, image_id, template_id, discard=discard)
        job = f"{'zero' if zero else 'purge'}Image_{image_id}"
        return await self._start("deleteImage", domain_id, lambda *_: finish(), job=job)

    async def move(
        self,
        image_id: str,
        pool_id: str,
        domain_id: str,
        target_domain_id: str,
        operation: str,
        zero: bool,
        force: bool,
        discard: bool = False,
    ) -> str:
        if operation == "UNKNOWN":
            raise InvalidParameterException("operation", operation)
        self._repository.pools.require_spm(pool_id)
        moved = model.ImageMove(pool_id, domain_id, target_domain_id, image_id)
        owner = f"{domain_id} {target_domain_id}"
        transfer = partial(self._repository.moves.transfer, moved, keep=operation == "COPY", force=force)

        def work(rollbacks: Rollbacks, watch: Watch) -> None:
            transfer(discard=discard, rollbacks=rollbacks, watch=watch)

        return await self._start("moveImage", owner, work, job=f"moveImage_{image_id}")

    async def clone_structure(self, image_id: str, pool_id: str, domain_id: str, target_domain_id: str) -> str:
        self._repository.pools.require_spm(pool_id)
        clone = self._repository.moves.clone_structure
        moved, owner = (
            model.ImageMove(pool_id, domain_id, target_domain_id, image_id),
            f"{domain_id} {target_domain_id}",
        )
        return await self._start("cloneImageStructure", owner, lambda rollbacks, _: clone(moved, rollbacks))

    async def sync_data(self, image_id: str, pool_id: str, domain_id: str, target_domain_id: str, which: str) -> str:
        self._repository.pools.require_spm(pool_id)
        moved = model.ImageMove(pool_id, domain_id, target_domain_id, image_id)
        owner = f"{domain_id} {target_domain_id}"
        sync = partial(self._repository.moves.sync_data, moved, inner=which != "LEAF", leaf=which != "INTERNAL")
        return await self._start("syncImageData", owner, lambda _, watch: sync(watch=watch))

    async def delete_volumes(
        self,
        image_id: str,
        pool_id: str,
        domain_id: str,
        volume_ids: list[str],
        zero: bool = False,
        force: bool = False,
        discard: bool = False,
    ) -> str:
        return await self._volumes.start_removal(pool_id, domain_id, image_id, volume_ids, force=force, discard=discard)


def _read_start(path: str, length: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(length)


def _pad(path: str) -> None:
    size_bytes = os.stat(path).st_size
    os.truncate(path, checks.round_up(size_bytes, _BLOCK_BYTES))


def _write_start(path: str, content: bytes) -> None:
    with open(path, "r+b") as file:
        if file.seek(0, os.SEEK_END) < len(content):
            raise InvalidParameterException("size", f"{path} has no room for {len(content)} bytes")
        file.seek(0)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _find_kind(path: str) -> Literal["folder", "file", "missing"]:
    if os.path.isdir(path):
        return "folder"
    return "file" if os.path.exists(path) else "missing"
