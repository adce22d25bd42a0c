"""From two bulk samples to a VM's figures (facts §3.2, §3.3), pure; when samples are taken is left to `sampling`.

What is not known is absent: rates need two samples, sizes one, and a figure that libvirt leaves out is left out here.
"""

from collections.abc import Iterator, Mapping
from typing import Self

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import asdict

from vdsm.api.vm_types import (
    BalloonInfo,
    GuestMemory,
    VmDiskLimits,
    VmDiskStats,
    VmDiskTune,
    VmNetworkStats,
)
from vdsm.virt.domain import DiskView, DomainView, InterfaceView
from vdsm.virt.ports import VolumeSize

Value = int | str | bool
_FAST_MODELS = frozenset({"e1000", "e1000e", "virtio"})


class Sample(Struct, frozen=True):
    """libvirt's figures of one VM at one moment of the monotonic clock; devices are found by their names."""

    taken_at_s: float
    values: Mapping[str, Value]
    blocks: Mapping[str, str] = field(default_factory=dict)
    """Target name to key prefix, such as `vda` to `block.0`."""
    nets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, taken_at_s: float, values: Mapping[str, Value]) -> Self:
        return cls(taken_at_s, values, dict(_index(values, "block")), dict(_index(values, "net")))

    def number(self, key: str) -> int | None:
        """The figure, or None when libvirt did not tell it."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class Window(Struct, frozen=True):
    """The last two samples of a VM; rates come from both."""

    last: Sample | None = None
    before: Sample | None = None

    def then(self, sample: Sample) -> "Window":
        """The window after one more sample."""
        return Window(sample, self.last)

    @property
    def seconds(self) -> float:
        """Between the two samples; 0 when there are not two."""
        return self.last.taken_at_s - self.before.taken_at_s if self.last and self.before else 0.0

    def delta(self, key: str, before_key: str | None = None) -> int | None:
        """How much a counter grew, or None when unknown or when it fell, which a restarted guest makes it do."""
        if self.last is None or self.before is None:
            return None
        now, then = self.last.number(key), self.before.number(before_key or key)
        return None if now is None or then is None or now < then else now - then

    def rate(self, key: str) -> int | UnsetType:
        """Growth a second, rounded."""
        delta = self.delta(key)
        return UNSET if delta is None or self.seconds <= 0 else round(delta / self.seconds)


class CpuFigures(Struct, frozen=True):
    """Processor time: the guest's and qemu's own in percent of one core, and qemu's in ns."""

    user_percent: float | UnsetType = UNSET
    system_percent: float | UnsetType = UNSET
    usage_ns: int | UnsetType = UNSET


def _index(values: Mapping[str, Value], group: str) -> Iterator[tuple[str, str]]:
    count = values.get(f"{group}.count", 0)
    for number in range(int(count)):
        name = values.get(f"{group}.{number}.name")
        if isinstance(name, str):
            yield name, f"{group}.{number}"


def get_cpu(window: Window) -> CpuFigures:
    """Processor figures; absent before there are two samples."""
    total, user, system = (window.delta(f"cpu.{key}") for key in ("time", "user", "system"))
    if total is None or user is None or system is None or window.seconds <= 0 or window.last is None:
        return CpuFigures()
    scale = 100 / window.seconds / 1e9
    usage_ns = (window.last.number("cpu.user") or 0) + (window.last.number("cpu.system") or 0)
    return CpuFigures(max(0.0, (total - user - system) * scale), (user + system) * scale, usage_ns)


def get_balloon(
    window: Window, view: DomainView, *, minimum_kib: int | None, target_kib: int | None, enabled: bool
) -> BalloonInfo | UnsetType:
    """The balloon, or absent when the VM has none or no sample exists."""
    sample = window.last
    current = None if sample is None else sample.number("balloon.current")
    if not view.has_balloon or current is None:
        return UNSET
    return BalloonInfo(
        maximum_kib=view.memory_kib,
        minimum_kib=view.memory_kib if minimum_kib is None else minimum_kib,
        current_kib=current,
        target_kib=view.memory_kib if target_kib is None else target_kib,
        enabled=enabled,
    )


def get_guest_memory(window: Window) -> GuestMemory | UnsetType:
    """Memory as the guest's balloon driver sees it; absent when there is no such driver."""
    sample = window.last
    total = None if sample is None else sample.number("balloon.available")
    if sample is None or total is None:
        return UNSET
    unused = sample.number("balloon.unused")
    caches = sample.number("balloon.disk_caches") or 0
    major, minor = window.rate("balloon.major_fault"), window.rate("balloon.minor_fault")
    return GuestMemory(
        total_kib=total,
        unused_kib=UNSET if unused is None else unused,
        free_kib=UNSET if unused is None else unused + caches,
        swap_in_per_s=window.rate("balloon.swap_in"),
        swap_out_per_s=window.rate("balloon.swap_out"),
        major_faults_per_s=major,
        minor_faults_per_s=minor,
        faults_per_s=UNSET if major is UNSET or minor is UNSET else major + minor,
    )


def get_memory_used_percent(memory: GuestMemory | UnsetType, size_kib: int) -> int | UnsetType:
    """How much of a VM's memory of that size its guest uses."""
    if memory is UNSET or memory.free_kib is UNSET or size_kib <= 0:
        return UNSET
    return max(0, int(100 - memory.free_kib / size_kib * 100))


def list_disks(window: Window, view: DomainView, sizes: Mapping[str, VolumeSize]) -> dict[str, VmDiskStats] | UnsetType:
    """Every disk's counters by target name; absent before there are two samples (facts §3.3)."""
    if window.last is None or window.before is None:
        return UNSET
    found = {disk.target: _disk(window, window.last, window.before, disk, sizes) for disk in view.disks}
    return {target: stats for target, stats in found.items() if stats is not None} or UNSET


def list_tunes(view: DomainView) -> list[VmDiskTune] | UnsetType:
    """The disks that are limited; absent when none is."""
    limits = {disk: {name: value for name, value in asdict(disk.limits).items() if value} for disk in view.disks}
    found = [
        VmDiskTune(name=disk.target, path=disk.path, limits=VmDiskLimits(**some))
        for disk, some in limits.items()
        if some
    ]
    return found or UNSET


def list_networks(window: Window, view: DomainView) -> dict[str, VmNetworkStats] | UnsetType:
    """Every network card's counters by its name on the host; a card must be in both samples."""
    if window.last is None or window.before is None:
        return UNSET
    sample, before = window.last, window.before
    cards = [card for card in view.interfaces if card.tap in sample.nets and card.tap in before.nets]
    return {card.tap: _network(sample, card) for card in cards} or UNSET


def _disk(
    window: Window, last: Sample, before: Sample, disk: DiskView, sizes: Mapping[str, VolumeSize]
) -> VmDiskStats | None:
    now, then = last.blocks.get(disk.target), before.blocks.get(disk.target)
    if now is None or then is None:
        return None

    def rate(kind: str) -> float:
        grown = window.delta(f"{now}.{kind}.bytes", f"{then}.{kind}.bytes")
        return grown / window.seconds if grown is not None and window.seconds > 0 else 0.0

    def latency(kind: str) -> float:
        requests = window.delta(f"{now}.{kind}.reqs", f"{then}.{kind}.reqs")
        times = window.delta(f"{now}.{kind}.times", f"{then}.{kind}.times")
        return times / requests if requests and times is not None else 0

    size = sizes.get(disk.target)
    # libvirt has other names: what a file occupies is `physical`, where its last byte is `allocation`.
    end = "capacity" if disk.format == "raw" else "allocation"
    return VmDiskStats(
        allocated_bytes=_known(last.number(f"{now}.physical")) if size is None else size.allocated,
        size_bytes=_known(last.number(f"{now}.{end}")) if size is None else size.apparent,
        image_id=UNSET if disk.volume is None else disk.volume.image_id,
        lun_id=UNSET if disk.lun_id is None else disk.lun_id,
        read_bytes_per_s=rate("rd"),
        write_bytes_per_s=rate("wr"),
        read_latency_ns=latency("rd"),
        write_latency_ns=latency("wr"),
        flush_latency_ns=latency("fl"),
        reads=last.number(f"{now}.rd.reqs") or 0,
        writes=last.number(f"{now}.wr.reqs") or 0,
        read_bytes=last.number(f"{now}.rd.bytes") or 0,
        written_bytes=last.number(f"{now}.wr.bytes") or 0,
    )


def _known(number: int | None) -> int | UnsetType:
    return UNSET if number is None else number


def _network(sample: Sample, card: InterfaceView) -> VmNetworkStats:
    prefix = sample.nets[card.tap]

    def total(key: str) -> int:
        return sample.number(f"{prefix}.{key}") or 0

    return VmNetworkStats(
        name=card.tap,
        mac_address=card.mac_address,
        speed_mbps=1000 if card.model in _FAST_MODELS else 100,
        state="unknown",
        received_bytes=total("rx.bytes"),
        sent_bytes=total("tx.bytes"),
        receive_errors=total("rx.errs"),
        send_errors=total("tx.errs"),
        receive_dropped=total("rx.drop"),
        send_dropped=total("tx.drop"),
        sample_time_s=sample.taken_at_s,
    )
