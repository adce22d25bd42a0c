"""What a VM should be, as frozen values; how callers of 2011 write it is left to `legacy`, its XML to `domxml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this host puts into a VM's identity (SMBIOS) and machine."""

    uuid: str = ""
    os_name: str = "oVirt Node"
    os_version: str = ""
    """`<version>-<release>`."""
    manufacturer: str = "oVirt"
    arch: str = "x86_64"


@dataclass(frozen=True, slots=True)
class VolumeRef:
    """A disk image on a storage domain: pool, domain, image and volume."""

    pool_id: str
    domain_id: str
    image_id: str
    volume_id: str


class DiskDevice(Enum):
    """What the guest takes a drive for."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"
    LUN = "lun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a device sits: the type and the attributes that libvirt knows for it."""

    type: str
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A drive: its image is a volume or a path; neither means an empty tray. `format` is raw or cow."""

    device: DiskDevice = DiskDevice.DISK
    target: str
    """The name that libvirt and we know it by, such as `vda`."""
    bus: str
    volume: VolumeRef | None = None
    path: str = ""
    is_block: bool = False
    format: str = "raw"
    readonly: bool = False
    shareable: bool = False
    serial: str | None = None
    cache: str = "none"
    discard: bool = False
    error_policy: str = "stop"
    boot_order: int | None = None
    address: Address | None = None
    alias: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network card on an existing bridge; no bridge means an unplugged cable."""

    mac_address: str | None
    model: str
    bridge: str = ""
    link_up: bool = True
    boot_order: int | None = None
    address: Address | None = None
    alias: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics:
    """A display server; nobody gets in before a ticket is set."""

    type: str
    address: str
    keyboard_map: str | None = None
    secure_channels: tuple[str, ...] = ()
    copy_paste: bool = True
    file_transfer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video card; memory in KiB."""

    model: str
    vram_kib: int | None = None
    ram_kib: int | None = None
    vga_memory_kib: int | None = None
    heads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A bus controller."""

    type: str
    index: int | None = None
    model: str | None = None
    ports: int | None = None
    address: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A virtio-serial port that an agent in the guest opens by name; no path lets libvirt choose the socket."""

    name: str
    type: str = "unix"
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The text console: `serial` is a COM port, `virtio` a virtio console; on a socket, or else a pseudo terminal."""

    type: str = "serial"
    socket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rng:
    """A source of randomness for the guest."""

    source: str = "/dev/urandom"
    rate_bytes: int | None = None
    period_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """A watchdog card and what happens when it bites."""

    model: str = "i6300esb"
    action: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaCell:
    """One NUMA node of the guest."""

    index: int
    cpus: str
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaTuning:
    """On which host nodes guest memory lies: of the whole VM, and by guest cell."""

    mode: str
    nodeset: str
    cells: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """Processors: count, shape, model and where they run."""

    count: int = 1
    maximum: int = 1
    cores: int = 1
    threads: int = 1
    model: str = "qemu64"
    """`model,+flag,-flag`, `hostPassthrough` or `hostModel`."""
    pinning: Mapping[str, str] = field(default_factory=dict)
    shares: int | None = None
    io_threads: int = 0
    cells: tuple[NumaCell, ...] = ()
    tuning: NumaTuning | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Guest memory; the guaranteed part is the balloon's lower bound."""

    size_mib: int
    maximum_mib: int | None = None
    slots: int = 16
    guaranteed_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectKernel:
    """A kernel given by the host instead of a boot loader."""

    kernel: str
    initrd: str | None = None
    arguments: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """What a VM should be."""

    vm_id: str
    name: str
    memory: Memory
    cpu: Cpu = Cpu()
    machine: str = "pc"
    boot_devices: tuple[str, ...] = ()
    boot_menu: bool = False
    kernel: DirectKernel | None = None
    acpi: bool = True
    hyperv: bool = False
    time_offset_s: int = 0
    tablet: bool = False
    serial: str | None = None
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    graphics: tuple[Graphics, ...] = ()
    videos: tuple[Video, ...] = ()
    sounds: tuple[str, ...] = ()
    controllers: tuple[Controller, ...] = ()
    channels: tuple[Channel, ...] = ()
    console: Console | None = None
    rng: Rng | None = None
    balloon: str | None = None
    """Model of the memory balloon; None for none."""
    watchdog: Watchdog | None = None
    smartcard: str | None = None
    """`host` or `passthrough`."""
    usb_redirections: int = 0
    custom: Mapping[str, str] = field(default_factory=dict)
    launch_paused: bool = False
