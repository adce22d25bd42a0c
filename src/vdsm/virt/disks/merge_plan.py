"""What a live merge is and how it is noted (facts §2.15), pure; `merges` sees to it that it comes to its end.

COMMIT ──all is in the base──▶ CLEANUP ──chain without the top, on storage too──▶ over
   ▲────────────────────────────┘ the disk did not pivot
"""

import asyncio
from collections.abc import Iterable
from enum import Enum
from itertools import takewhile
from typing import Literal

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from vdsm.api.vm_types import BlockJob
from vdsm.core.ids import is_uuid
from vdsm.virt.disks.drives import Drive
from vdsm.virt.metadata import VOLUME_KEYS, VmMetadata, VolumeRef
from vdsm.virt.ports import BlockJobFigures

KEY = "jobs"
"""Where a VM's metadata has the notes."""


class CannotMerge(ValueError):
    """These layers cannot be merged; the text says why."""


class MergeRecord(Struct, frozen=True, kw_only=True):
    """A merge under way, in oVirt's words."""

    id: str
    drive: str
    disk: dict[str, str]
    """The four ids of the disk's volume when it began."""
    base: str
    top: str
    bandwidth: int = 0
    state: Literal["INIT", "EXTEND", "COMMIT", "CLEANUP"] = "COMMIT"
    extend: dict[str, float] | None = None
    """Of base volumes that are enlarged before: these are oVirt's alone."""
    pivot: bool | None = None
    """False once the disk is asked to pivot."""

    @property
    def volume(self) -> VolumeRef:
        return VolumeRef(*(self.disk.get(key, "") for key in VOLUME_KEYS))

    @property
    def is_active(self) -> bool:
        """Whether the guest writes to the top."""
        return self.top == self.disk.get("volumeID")


class Merge(Struct, eq=False):
    """A merge that goes on, and how far it is."""

    record: MergeRecord
    figures: BlockJobFigures | None = None
    is_followed: bool = False
    """Whether libvirt has nothing at hand any more that another daemon asked for."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something befell it."""

    def describe(self) -> BlockJob:
        figures = self.figures or BlockJobFigures(0, 0, self.record.bandwidth)
        return BlockJob(
            job_id=self.record.id,
            disk=self.record.drive,
            image_id=self.record.volume.image_id,
            bandwidth_mib=self.record.bandwidth,
            done_bytes=figures.done_bytes,
            end_bytes=figures.end_bytes,
        )


class Course(Enum):
    """What is to be done for a merge now."""

    WAIT = "wait"
    CLEAN_UP = "clean up"
    """All is in the base: let the disk, if the guest writes to the top, and the records follow."""
    FINISH = "finish"
    """The disk is without the top: let the records tell so."""
    GIVE_UP = "give up"
    """It ended without success: the chain is what it was."""


def choose_course(record: MergeRecord, drive: Drive | None, figures: BlockJobFigures | None) -> Course:
    """What comes next, from libvirt's XML of the disk and its job, if it has one."""
    if drive is None:
        return Course.GIVE_UP
    if record.top not in drive.chain:
        return Course.FINISH
    if figures is None:
        return Course.GIVE_UP
    is_ready = drive.disk.is_mirrored and figures.done_bytes == figures.end_bytes
    return Course.CLEAN_UP if record.is_active and is_ready else Course.WAIT


def plan_merge(drive: Drive, base_id: str, top_id: str, merges: Iterable[Merge]) -> tuple[str, str]:
    """The nodes of base and top in qemu; raises CannotMerge."""
    if any(merge.record.volume.image_id == drive.volume.image_id for merge in merges):
        raise CannotMerge("another merge of this image goes on")
    if drive.disk.mirror:
        raise CannotMerge(f"{drive.target} has a mirror already")
    chain = drive.chain
    for volume_id in (top_id, base_id):
        if volume_id not in chain:
            raise CannotMerge(f"volume {volume_id} is not in the chain of {drive.target}")
    top, base = chain.index(top_id), chain.index(base_id)
    if base <= top:
        raise CannotMerge(f"volume {base_id} is not below {top_id}")
    layers = drive.disk.layers
    return f"{drive.target}[{layers[base].index}]", f"{drive.target}[{layers[top].index}]"


def list_chain(drive: Drive) -> list[str]:
    """The volumes of the disk's image, top first."""
    return list(takewhile(bool, drive.chain))


def find_records(metadata: VmMetadata) -> dict[str, MergeRecord]:
    """The notes in a VM's metadata, as far as they can be read."""
    try:
        found = msgspec.json.decode(str(metadata.values.get(KEY, "{}")), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return {}
    records = {}
    for job_id, raw in found.items():
        try:
            record = msgspec.json.decode(raw, type=MergeRecord)
        except (msgspec.DecodeError, RecursionError):
            continue
        if record.id == job_id and all(
            map(is_uuid, (job_id, record.base, record.top, *map(str, record.disk.values())))
        ):
            records[job_id] = record
    return records


def note(metadata: VmMetadata, merges: Iterable[Merge]) -> VmMetadata:
    """Metadata that tells of these merges and no others."""
    records = {merge.record.id: merge.record for merge in merges}
    return metadata.changed(**{KEY: msgspec.json.encode(records).decode() if records else None})


def move(record: MergeRecord, state: Literal["COMMIT", "CLEANUP"], pivot: bool | None = None) -> MergeRecord:
    """The record in that phase."""
    return replace(record, state=state, pivot=pivot)
