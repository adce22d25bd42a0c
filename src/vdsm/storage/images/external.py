"""Copies between a volume and what lies outside of all domains, as a job whose state a lease keeps (facts: §10.2)."""

import re
from functools import partial

from msgspec import Struct

from vdsm.storage import checks
from vdsm.storage.errors import CopyImageError, InvalidParameterException, UnsupportedOperation, qemu_failing_as
from vdsm.storage.images.formatting import format_data
from vdsm.storage.images.operation import Operations
from vdsm.storage.leases.external import LeasesOfDomains
from vdsm.storage.model import ExternalPlace, VolumeRef, VolumeRole
from vdsm.storage.ports import UNWATCHED, QemuImg, Steps, Watch

_ADDRESS = re.compile(r"(nbd|nbd\+unix|rbd):[^\s\0]+")
"""What qemu opens without looking at a file of this host."""


class ExternalCopies(Struct, eq=False):
    """The lease is held while the copy goes on, and tells how it ended; a kill leaves it pending, to be fenced."""

    _operations: Operations
    _leases: LeasesOfDomains
    _qemu_img: QemuImg
    _step: Steps

    def fetch(self, job_id: str, source: ExternalPlace, target: VolumeRef, *, watch: Watch = UNWATCHED) -> None:
        """Copy into a volume without a parent, which is illegal until that is whole. Raises 261, 911, 912, 2009."""
        _check(source, trusted=source.format == "raw")
        with self._leases.work(*source.lease, job_id, source.generation), self._operations.hold(target) as domain:
            record, ids = self._operations.read(domain, target), (target.image_id, target.volume_id)
            domain.images.get_usable_chain(*ids, allow_illegal=True)
            if record.has_parent or record.role is VolumeRole.SHARED:
                raise UnsupportedOperation(f"{target.volume_id} has a parent, or is a template")
            path, kind = domain.backend.data.get_path(*ids), record.format.qemu
            with self._operations.count(domain, target, illegal=True):
                self._step("format data")
                format_data(domain, self._qemu_img, *ids, record, None)
                self._step("copy data")
                with qemu_failing_as(partial(CopyImageError, target.volume_id)):
                    self._qemu_img.transfer(source.url, source.format, str(path), kind, ("-n",), watch)
                domain.backend.data.settle_data(*ids)

    def send(self, job_id: str, source: VolumeRef, target: ExternalPlace, *, watch: Watch = UNWATCHED) -> None:
        """Copy all that a volume reads as to a place outside. Raises 261, 912, 2009, and as `Operations.reading`."""
        _check(target, trusted=target.format == "raw" or target.create)
        checks.check_real_ids(sd_id=source.domain_id, img_id=source.image_id, vol_id=source.volume_id)
        options: tuple[str, ...] = () if target.create else ("-n", "--target-is-zero") if target.is_zero else ("-n",)
        if target.format == "raw" and not target.is_sparse:
            options += ("-W",)
        with (
            self._leases.work(*target.lease, job_id, target.generation),
            self._operations.reading(source) as (domain, record),
        ):
            path, kind = domain.backend.data.get_path(source.image_id, source.volume_id), record.format.qemu
            with qemu_failing_as(partial(CopyImageError, source.volume_id)):
                self._qemu_img.transfer(str(path), kind, target.url, target.format, options, watch)


def _check(place: ExternalPlace, *, trusted: bool) -> None:
    if not trusted:
        raise UnsupportedOperation("the header of an image outside of all domains may name files of this host")
    if not _ADDRESS.fullmatch(place.url):
        raise InvalidParameterException("url", f"{place.url[:80]!r} is no address of nbd or rbd")
