"""Records of chains that a VM on this host uses while it changes them; what changes is decided by who runs the VM."""

from collections.abc import Sequence

from msgspec.structs import replace

from vdsm.storage.images.operation import Operations
from vdsm.storage.model import VolumeRef
from vdsm.storage.pools.correction import sync_chain
from vdsm.storage.ports import Steps


class LiveChains:
    """No SPM is needed: the host of the VM holds the volumes, and their leases order hosts (facts: rpc §2.15). Each
    write is whole, and doing all again is harmless."""

    def __init__(self, operations: Operations, steps: Steps) -> None:
        self._operations = operations
        self._step = steps

    def sync(self, leaf: VolumeRef, real: Sequence[str]) -> None:
        """Let the records tell the chain that is real, top first; a leaf that is not in it becomes illegal."""
        with self._operations.hold(leaf) as domain:
            sync_chain(domain.images, leaf.image_id, leaf.volume_id, real, self._step)
            self._step("done")

    def set_capacity(self, target: VolumeRef, capacity_bytes: int) -> None:
        """Let a volume's record tell that capacity. SharedVolumeNonWritable (219) for a template."""
        with self._operations.hold(target) as domain:
            record = self._operations.read(domain, target)
            if record.capacity_bytes != capacity_bytes:
                self._step("write capacity")
                changed = replace(record, capacity_bytes=capacity_bytes)
                domain.images.change(target.image_id, target.volume_id, changed)
            self._step("done")
