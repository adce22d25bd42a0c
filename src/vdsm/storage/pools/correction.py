"""Correcting records as the pool's SPM, while the caller waits; `jobs.update_volume` needs no SPM, and counts."""

from collections.abc import Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from vdsm.storage import checks, locks
from vdsm.storage.domain import Domain
from vdsm.storage.errors import InvalidParameterException, VolumeAccessError, qemu_failing_as
from vdsm.storage.errors_jobs import UnexpectedVolumeState
from vdsm.storage.images.chain import Images
from vdsm.storage.images.operation import Operations
from vdsm.storage.model import Legality, VolumeFormat, VolumeRef
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import QemuImg, Steps


class Corrections(Struct, eq=False):
    """Changes of records alone: each write is whole, and doing all again is harmless."""

    _pools: Pools
    _operations: Operations
    _qemu_img: QemuImg
    _step: Steps

    def change(
        self, pool_id: str, target: VolumeRef, *, description: str | None = None, legality: Legality | None = None
    ) -> None:
        """Change a volume's description or legality.

        Raises 201, 208, 219 for a template by way of an image that uses it, InvalidParameterException for FAKE.
        """
        if legality is Legality.FAKE:
            raise InvalidParameterException("legality", legality)
        with self._operations.hold(target, locks.writing(pool_id, shared=True)) as domain:
            require_writer(self._pools, pool_id, domain)
            record = self._operations.read(domain, target)
            description = record.description if description is None else description
            changed = replace(record, description=description, legality=legality or record.legality)
            self._step("write record")
            domain.images.change(target.image_id, target.volume_id, changed)

    def reconcile(self, pool_id: str, domain_id: str, image_id: str, leaf_id: str) -> list[str]:
        """Let the records tell the chain that the files have, and return it, base first; not while a VM uses it.

        A leaf that is illegal is not part of it. Raises UnexpectedVolumeState (922) where the files lead elsewhere.
        """
        checks.check_real_ids(leafVolID=leaf_id)
        leaf = VolumeRef(domain_id, image_id, leaf_id)
        with self._operations.hold(leaf, locks.writing(pool_id, shared=True)) as domain:
            require_writer(self._pools, pool_id, domain)
            stored = domain.images.get_chain(image_id, leaf_id)
            real = self._read_chain(domain, image_id, leaf_id)
            if stored[0][1].legality is Legality.ILLEGAL:
                real = real[1:]
            sync_chain(domain.images, image_id, leaf_id, real, self._step)
            return real[::-1]

    def _read_chain(self, domain: Domain, image_id: str, leaf_id: str) -> list[str]:
        """The chain as the files have it, top first; only names of the image's own folder are followed."""
        known = set(domain.backend.volumes.list_records(image_id))
        chain: list[str] = []
        name: str | None = leaf_id
        while name is not None:
            volume_id = name.removeprefix(f"../{image_id}/")
            if volume_id not in known or volume_id in chain:
                raise UnexpectedVolumeState(leaf_id, f"the files lead to {volume_id[:80]!r}")
            chain.append(volume_id)
            record = domain.images.read(image_id, volume_id)
            if record.format is VolumeFormat.RAW:
                break
            with qemu_failing_as(partial(VolumeAccessError, volume_id)):
                name = self._qemu_img.inspect(domain.backend.data.get_path(image_id, volume_id)).backing_file
        return chain


def sync_chain(images: Images, image_id: str, leaf_id: str, real: Sequence[str], step: Steps) -> None:
    """Let the records tell the chain that is real, top first. A leaf that is not in it becomes illegal, one that is in
    it legal; each volume gets the parent that it really has, one write after another."""
    for child_id, parent_id in zip(real, real[1:], strict=False):
        child = images.read(image_id, child_id)
        if child.parent_id != parent_id:
            step("change parent")
            images.change(image_id, child_id, replace(child, parent_id=parent_id))
    leaf = images.read(image_id, leaf_id)
    legality = Legality.LEGAL if leaf_id in real else Legality.ILLEGAL
    if leaf.legality is not legality:
        step("change legality")
        images.change(image_id, leaf_id, replace(leaf, legality=legality))
