"""The surface of work on volumes that any host may do, SPM or not; each verb starts a job (facts: storage §10)."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Text, group, ovirt, verb
from vdsm.api.storage_leases import LeaseName
from vdsm.api.storage_types import Generation, Subchain, VolumeLegality, VolumeRole
from vdsm.core.ids import DomainId, ImageId, PoolId, Uuid, VmId, VolumeId


class VolumeEndpoint(Struct, frozen=True, kw_only=True):
    """A volume, and the generation that the caller saw."""

    domain_id: Annotated[DomainId, ovirt("sd_id")]
    image_id: Annotated[ImageId, ovirt("img_id")]
    volume_id: Annotated[VolumeId, ovirt("vol_id")]
    generation: Generation | UnsetType = UNSET


class DataEndpoint(Struct, frozen=True, kw_only=True):
    """One end of a copy: a volume (`div`), or what lies outside of all domains, with the lease of the job on it
    (`external`), which the other end is not."""

    endpoint_type: Literal["div", "external"] = "div"
    domain_id: Annotated[DomainId | UnsetType, ovirt("sd_id")] = UNSET
    image_id: Annotated[ImageId | UnsetType, ovirt("img_id")] = UNSET
    volume_id: Annotated[VolumeId | UnsetType, ovirt("vol_id")] = UNSET
    generation: Generation | UnsetType = UNSET
    prepared: bool = False
    """Whether the caller prepared it and will tear it down."""
    url: Text = UNSET
    """An address of nbd or rbd, as qemu understands it."""
    lease: LeaseName | UnsetType = UNSET
    format: Literal["raw", "qcow2"] = "raw"
    is_sparse: Annotated[bool, ovirt("sparse")] = False
    create: bool = True
    """Whether it is to be made."""
    is_zero: bool = False
    """Whether it reads as zeros now."""


class VolumeAttributes(Struct, frozen=True, kw_only=True):
    """New attributes of a volume, at least one; without a generation the volume's counts on."""

    generation: Generation | UnsetType = UNSET
    description: Text = UNSET
    legality: VolumeLegality | UnsetType = UNSET
    role: Annotated[VolumeRole | UnsetType, ovirt("type")] = UNSET


class Qcow2Attributes(Struct, frozen=True, kw_only=True):
    """New attributes of a qcow2 file."""

    compat: Text = UNSET
    """0.10 or 1.1."""


_Job = Annotated[Uuid, ovirt("job_id"), "chosen by the caller, who finds the job by it"]
_Volume = Annotated[VolumeEndpoint, ovirt("vol_info"), "the volume"]
_Bitmap = Annotated[Uuid, ovirt("bitmap"), "the bitmap's name"]
_FAILS = ("job-exists", "task-not-added", "invalid-parameter")


@group("sdm", "/storage/jobs", invalid="invalid-parameter")
class SdmApi(Protocol):
    """Jobs on volumes. A verb answers when its job is queued; `Host.getJobs` and events tell the rest."""

    @verb("SDM.copy_data", "POST /copy-data", fails=(*_FAILS, "unsupported-storage-operation"))
    async def copy_data(
        self,
        job_id: _Job,
        source: Annotated[DataEndpoint, ovirt("source"), "what is read"],
        target: Annotated[DataEndpoint, ovirt("destination"), "the existing volume that is written"],
        copy_bitmaps: Annotated[bool, ovirt("copy_bitmaps"), "bitmaps too; both ends are COW"] = False,
    ) -> None:
        """Copy a volume's data into another; the target is illegal until the copy is whole."""

    @verb("SDM.update_volume", "POST /update-volume", fails=_FAILS)
    async def update_volume(
        self, job_id: _Job, volume: _Volume, attributes: Annotated[VolumeAttributes, ovirt("vol_attr"), "what changes"]
    ) -> None:
        """Change a volume's attributes; its generation must be the one that the caller saw."""

    @verb("SDM.merge", "POST /merge", fails=_FAILS)
    async def merge(
        self,
        job_id: _Job,
        subchain: Annotated[Subchain, ovirt("subchain_info"), "the two layers"],
        merge_bitmaps: Annotated[bool, ovirt("merge_bitmaps"), "bitmaps too"] = False,
    ) -> None:
        """Write the upper layer's data into the lower one, between prepareMerge and finalizeMerge."""

    @verb("SDM.amend_volume", "POST /amend-volume", fails=_FAILS)
    async def amend_volume(
        self, job_id: _Job, volume: _Volume, attributes: Annotated[Qcow2Attributes, ovirt("qcow2_attr"), "what changes"]
    ) -> None:
        """Change the version of a COW volume's format."""

    @verb("SDM.sparsify_volume", "POST /sparsify-volume", fails=_FAILS)
    async def sparsify_volume(self, job_id: _Job, volume: _Volume) -> None:
        """Give back the space that a disk does not use; no VM may use the disk."""

    @verb("SDM.add_bitmap", "POST /add-bitmap", fails=_FAILS)
    async def add_bitmap(self, job_id: _Job, volume: _Volume, bitmap: _Bitmap) -> None:
        """Begin a bitmap on a COW volume."""

    @verb("SDM.remove_bitmap", "POST /remove-bitmap", fails=_FAILS)
    async def remove_bitmap(self, job_id: _Job, volume: _Volume, bitmap: _Bitmap) -> None:
        """Remove a bitmap; one that is not there is success."""

    @verb("SDM.clear_bitmaps", "POST /clear-bitmaps", fails=_FAILS)
    async def clear_bitmaps(self, job_id: _Job, volume: _Volume) -> None:
        """Remove all bitmaps of a volume."""


@group("vm", "/vms", invalid="invalid-parameter")
class SealApi(Protocol):
    """A job on the disks of a virtual machine that does not run."""

    @verb("VM.seal", "POST /{vm_id}/seal", fails=_FAILS)
    async def seal(
        self,
        vm_id: Annotated[VmId, ovirt("vmID"), "the VM's id; none needs to be known by it"],
        job_id: _Job,
        pool_id: Annotated[PoolId, ovirt("sp_id"), "the pool's id"],
        images: Annotated[list[VolumeEndpoint], ovirt("images"), "all disks of one guest"],
    ) -> None:
        """Take from a guest's disks what is that machine's alone (keys, names, logs), as templates want it.

        A job of type virt: it fails while a VM uses one of the disks, and each counts a generation when it ends well.
        """
