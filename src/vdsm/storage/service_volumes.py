"""Answers the verbs on volumes and images; long ones become tasks of the pool."""

import os

from msgspec import UNSET

from vdsm.api import storage_types as api
from vdsm.core.ids import BLANK_UUID
from vdsm.storage import checks
from vdsm.storage.lanes import Lanes
from vdsm.storage.model import Allocation, PreparedImage, VolumeFormat, VolumeInfo, VolumeLease, VolumeRequest
from vdsm.storage.ports import Rollbacks
from vdsm.storage.repository import Repository
from vdsm.storage.service_ports import LongWork


def format_volume(info: VolumeInfo) -> api.VolumeInfo:
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


def _format_lease(lease: VolumeLease) -> api.VolumeLease:
    if lease.version is None:
        return api.VolumeLease(path=str(lease.path), offset=lease.offset_bytes)
    owners = [] if lease.holder is None else [lease.holder]
    return api.VolumeLease(path=str(lease.path), offset=lease.offset_bytes, owners=owners, version=lease.version)


class VolumeService:
    """Implements `api.storage.VolumeApi`."""

    def __init__(self, repository: Repository, lanes: Lanes, work: LongWork) -> None:
        self._repository = repository
        self._lanes = lanes
        self._work = work

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
        request = VolumeRequest(
            pool_id=pool_id,
            domain_id=domain_id,
            image_id=image_id,
            volume_id=volume_id,
            capacity_bytes=size_bytes,
            format=VolumeFormat.parse(format),
            allocation=Allocation.parse(allocation),
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
        return await self._work.start_persistent(
            "createVolume", lambda rollbacks: self._repository.volumes.create(request, rollbacks)
        )

    async def get_info(self, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> api.VolumeInfo:
        lane = self._lanes.get(domain_id)
        return format_volume(await lane.run(self._repository.volumes.get_info, domain_id, image_id, volume_id))

    async def get_size(self, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> api.VolumeSize:
        size = await self._lanes.get(domain_id).run(self._repository.volumes.get_size, domain_id, image_id, volume_id)
        return api.VolumeSize(size_bytes=size.apparent_bytes, allocated_bytes=size.allocated_bytes)

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

        def remove(rollbacks: Rollbacks) -> None:
            self._repository.volumes.delete(
                pool_id, domain_id, image_id, volume_ids, force=force, discard=discard, rollbacks=rollbacks
            )

        return await self._work.start_persistent("deleteVolume", remove)


class ImageService:
    """Implements `api.storage.ImageApi`, and prepares disk images for virtual machines."""

    def __init__(self, repository: Repository, lanes: Lanes, volumes: VolumeService) -> None:
        self._repository = repository
        self._lanes = lanes
        self._volumes = volumes

    async def prepare(
        self, pool_id: str, domain_id: str, image_id: str, volume_id: str, allow_illegal: bool = False
    ) -> api.PreparedImage:
        image = await self.prepare_image(pool_id, domain_id, image_id, volume_id, allow_illegal=allow_illegal)
        path = str(image.path)
        chain = [
            api.VolumeLocation(domain_id=v.domain_id, image_id=v.image_id, volume_id=v.volume_id, path=str(v.path))
            for v in image.chain
        ]
        return api.PreparedImage(path=path, info=api.PathInfo(type="file", path=path), chain=chain)

    async def prepare_image(
        self, pool_id: str, domain_id: str, image_id: str, volume_id: str, *, allow_illegal: bool = False
    ) -> PreparedImage:
        """`prepare` with the repository's own value."""
        lane = self._lanes.get(domain_id)
        return await lane.run(
            self._repository.images.prepare, pool_id, domain_id, image_id, volume_id, allow_illegal=allow_illegal
        )

    async def teardown(self, pool_id: str, domain_id: str, image_id: str, volume_id: str | None = None) -> None:
        await self._lanes.get(domain_id).run(self._repository.images.teardown, domain_id, image_id)

    async def is_folder(self, path: str) -> bool:
        """Whether a path, which anybody may have named, leads to a folder; AccessTimeout where it does not answer."""
        return await self._lanes.get(path).run(os.path.isdir, path)

    async def list_volumes(self, image_id: str, pool_id: str, domain_id: str) -> list[str]:
        return await self._lanes.get(domain_id).run(self._repository.images.list_volumes, domain_id, image_id)

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
