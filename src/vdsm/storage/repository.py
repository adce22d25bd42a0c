"""The image repository as one object: servers, domains, pools, the SPM role, volumes and images, all synchronous.

Every operation is whole: it returns when its effect is on disk, or raises and has changed nothing that anybody sees.
It may be called from several threads. Joining it with the machine is left to `vdsm.repository`.
"""

from collections.abc import Mapping, Sequence

from vdsm.core.clock import Clock
from vdsm.core.paths import Paths
from vdsm.storage.backends.localfs import LocalKind
from vdsm.storage.backends.mounted import TYPES, MountedKind, Outside
from vdsm.storage.domain import Domains, Servers
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.health.settling import Settling
from vdsm.storage.images.external import ExternalCopies
from vdsm.storage.images.image import ImageUse
from vdsm.storage.images.inspection import Inspection
from vdsm.storage.images.inventory import Inventory
from vdsm.storage.images.jobs import DataJobs
from vdsm.storage.images.live import LiveChains
from vdsm.storage.images.merge import Merges
from vdsm.storage.images.moving import Moves
from vdsm.storage.images.nbd import Exports
from vdsm.storage.images.operation import Operations
from vdsm.storage.images.scratch import ScratchDisks
from vdsm.storage.images.streams import Streams
from vdsm.storage.images.volume import Volumes
from vdsm.storage.images.whole_images import WholeImages
from vdsm.storage.layout import Layout
from vdsm.storage.leases.external import LeasesOfDomains
from vdsm.storage.locks import Locks
from vdsm.storage.model import DomainType
from vdsm.storage.pools.correction import Corrections
from vdsm.storage.pools.definitions import Definitions
from vdsm.storage.pools.members import Members
from vdsm.storage.pools.pool import Pools
from vdsm.storage.pools.spm import Spm
from vdsm.storage.pools.upgrade import Upgrades
from vdsm.storage.ports import Kind, Layer, NbdServers, Ownership, QemuImg, Remote, Seal, Sparsify, Steps, Watch
from vdsm.storage.recovery import Recovery


def _no_step(_: str) -> None:
    return


def _sparsify_nothing(_layer: Layer, _watch: Watch) -> bool:
    return False


def _seal_nothing(_layers: Sequence[Layer], _watch: Watch) -> None:
    raise UnsupportedOperation("nothing here seals disks")


class Repository:
    """All of the repository under one root, by noun: `repository.volumes.create(...)`."""

    def __init__(
        self,
        paths: Paths,
        *,
        qemu_img: QemuImg,
        ownership: Ownership,
        clock: Clock,
        shared: Outside | None = None,
        kinds: Mapping[DomainType, Kind] | None = None,
        sparsify: Sparsify = _sparsify_nothing,
        seal: Seal = _seal_nothing,
        remote: Remote | None = None,
        nbd_servers: NbdServers | None = None,
        steps: Steps = _no_step,
        lock_timeout_s: float = 120.0,
        lease_notice_s: float = 100.0,
        lease_life_s: float = 80.0,
    ) -> None:
        """Operations wait `lock_timeout_s` for others. Storage that several hosts share is served when there is a
        `shared`; `kinds` are served instead of all others. A host whose lease was overwritten on storage notices that
        within `lease_notice_s`; one that is not renewed lives for `lease_life_s`."""
        layout = Layout(paths)
        locks = Locks(lock_timeout_s)
        served: dict[DomainType, Kind] = {DomainType.LOCALFS: LocalKind(layout, ownership)}
        if shared is not None:
            served |= {type: MountedKind(type, layout, ownership, shared) for type in TYPES}
        served = served if kinds is None else dict(kinds)
        self.domains = Domains(served, locks)
        self.servers = Servers(served, self.domains)
        self.pools = Pools(self.domains, locks, layout)
        self.settling = Settling(self.pools, self.domains, locks, layout)
        self.upgrades = Upgrades(self.pools, self.domains, locks, steps)
        self.members = Members(self.pools, self.domains, self.upgrades, locks, steps)
        self.inventory = Inventory(self.domains, self.pools, ownership)
        self.recovery = Recovery(self.domains, self.pools, locks, steps)
        end = shared.end if shared else _no_step
        times = (lease_notice_s, lease_life_s, clock)
        self.spm = Spm(self.pools, self.domains, self.recovery, self.upgrades, locks, ownership, steps, end, *times)
        self.definitions = Definitions(self.pools, self.domains, locks, ownership)
        operations = Operations(self.domains, locks, qemu_img, steps)
        self.volumes = Volumes(
            self.domains, self.pools, self.recovery, operations, locks, qemu_img, clock, layout, steps
        )
        leases, hardware_id = (shared.leases, shared.hardware_id) if shared else (None, "")
        self.external_leases = LeasesOfDomains(self.domains, self.pools, locks, leases, clock, hardware_id)
        self.images = ImageUse(self.domains, self.pools, locks, qemu_img, layout)
        self.jobs = DataJobs(self.domains, operations, qemu_img, sparsify, self.images, seal, steps)
        self.whole_images = WholeImages(
            self.domains, self.pools, operations, self.volumes, self.jobs, locks, qemu_img, steps
        )
        self.moves = Moves(
            self.domains,
            self.pools,
            self.recovery,
            self.whole_images,
            self.volumes,
            self.jobs,
            locks,
            layout,
            steps,
        )
        self.streams = Streams(self.domains, self.pools, operations, remote, steps)
        self.external_copies = ExternalCopies(operations, self.external_leases, qemu_img, steps)
        self.merges = Merges(self.pools, operations, qemu_img, steps)
        self.corrections = Corrections(self.pools, operations, qemu_img, steps)
        self.live_chains = LiveChains(operations, steps)
        self.inspection = Inspection(self.domains, locks, operations, qemu_img)
        self.exports = Exports(self.domains, self.pools, operations, locks, qemu_img, nbd_servers, layout)
        self.scratch_disks = ScratchDisks(qemu_img, layout, ownership)
        self.layout = layout
