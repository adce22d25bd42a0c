"""An iSCSI target: the kernel's own (LIO), set up by writing to configfs, which takes milliseconds.

Each portal has a portal group of its own, all with the same LUNs, as storage arrays do it: so one path can fail alone.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from lab.commands import PartFailed, load, run, tell
from lab.direct import measure_size

CONFIG = Path("/sys/kernel/config")
CORE = CONFIG / "target/core"
FABRIC = CONFIG / "target/iscsi"
MODULES = ("target_core_mod", "target_core_file", "target_core_iblock", "iscsi_target_mod")
PORT = 3260
IQN = "iqn.2026-11.org.example:storage"  # the authority needs a dot
MAXIMUM_LUNS = 16_000
_rules = count(1)


@dataclass(frozen=True)
class Chap:
    """Names and passwords: of the initiator, and, if the target shall prove itself too, of the target."""

    user: str
    password: str
    target_user: str = ""
    target_password: str = ""


@dataclass(eq=False)
class Lun:
    """A logical unit. Its serial makes `wwid`, by which multipath names it."""

    number: int
    serial: str
    size_bytes: int
    _backstore: Path
    _in_memory: bool
    _undo: ExitStack

    @property
    def wwid(self) -> str:
        """The identifier that initiators derive: NAA 6, the vendor's number, then the serial's digits."""
        return f"36001405{self.serial.replace('-', '')[:25]}"

    def grow(self, size_bytes: int) -> None:
        """Give the unit a new size, live; initiators see it after a rescan. One on a block device follows that."""
        if not self._in_memory:
            raise PartFailed(f"LUN {self.number} is on a block device: grow that")
        # The write to `control` of a unit in use takes effect at once: the size is not noted elsewhere.
        tell(self._backstore / "control", f"fd_dev_size={size_bytes}")
        self.size_bytes = size_bytes


@dataclass(eq=False)
class Portal:
    """An address where the target listens, with a portal group of its own."""

    address: str
    port: int
    tag: int
    _group: Path

    def close(self) -> None:
        """Fail: connections are closed, and new logins refused, until `open`."""
        tell(self._group / "enable", "0")

    def open(self) -> None:
        """Serve."""
        tell(self._group / "enable", "1")

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Fail while the block runs, and say so to the initiators: connections are closed, logins refused."""
        self.close()
        try:
            yield
        finally:
            self.open()

    @contextmanager
    def silenced(self, interface: str = "lo") -> Iterator[None]:
        """Fail silently while the block runs: packets from and to the address are dropped when they enter here."""
        priority = next(_rules)
        rule = f"filter add dev {interface} ingress prio {priority} protocol ip u32"
        rules = "".join(f"{rule} match ip {side} {self.address}/32 action drop\n" for side in ("src", "dst"))
        ours = "clsact" not in run("tc", "qdisc", "show", "dev", interface)
        if ours:
            run("tc", "qdisc", "add", "dev", interface, "clsact")
        try:
            run("tc", "-batch", "-", input=rules)
            yield
        finally:
            if ours:
                run("tc", "qdisc", "del", "dev", interface, "clsact")
            else:
                run("tc", "filter", "del", "dev", interface, "ingress", "prio", str(priority))


@dataclass
class IscsiTarget:
    """A target that serves. LUNs and portals may come while it does, and LUNs may go."""

    iqn: str
    chap: Chap | None
    initiators: Sequence[str]
    _undo: ExitStack
    luns: list[Lun] = field(default_factory=list)
    portals: list[Portal] = field(default_factory=list)

    @property
    def _path(self) -> Path:
        return FABRIC / self.iqn

    def add_portal(self, address: str, port: int = PORT) -> Portal:
        """Listen on one more address, in the network namespace of the calling thread."""
        tag = len(self.portals) + 1
        portal = Portal(address, port, tag, self._path / f"tpgt_{tag}")
        with ExitStack() as undo:
            _make(undo, portal._group)
            self._set_up(portal)
            for initiator in self.initiators:
                _make(undo, portal._group / f"acls/{initiator}")
                self._set_passwords(portal._group / f"acls/{initiator}")
            for lun in self.luns:
                undo.callback(self._withdraw, lun, portal)
                self._publish(lun, portal)
            host = f"[{address}]" if ":" in address else address
            _make(undo, portal._group / f"np/{host}:{port}")
            portal.open()
            undo.callback(portal.close)
            self.portals.append(portal)
            undo.callback(self.portals.remove, portal)
            self._undo.push(undo.pop_all())
        return portal

    def add_lun(self, backing: int | Path, sector_bytes: int = 512, serial: str = "") -> Lun:
        """Serve one more LUN: in memory (a size in bytes), with such sectors, or on a block device, with its own."""
        number = min(set(range(MAXIMUM_LUNS)) - {lun.number for lun in self.luns})
        with ExitStack() as undo:
            lun = _make_lun(undo, number, backing, sector_bytes, serial or str(uuid.uuid4()))
            for portal in self.portals:
                undo.callback(self._withdraw, lun, portal)
                self._publish(lun, portal)
            self.luns.append(lun)
            lun._undo = undo.pop_all()
            self._undo.callback(self.remove_lun, lun)
        return lun

    def remove_lun(self, lun: Lun) -> None:
        """Take a LUN away under its users: their I/O fails from here on.

        Not so with number 0: there the kernel then serves an empty unit of its own, and reads give zeros.
        """
        if lun not in self.luns:
            return
        self.luns.remove(lun)
        for portal in self.portals:
            self._withdraw(lun, portal)
        lun._undo.close()

    def _publish(self, lun: Lun, portal: Portal) -> None:
        folder = portal._group / f"lun/lun_{lun.number}"
        folder.mkdir()
        (folder / "store").symlink_to(lun._backstore)
        for initiator in self.initiators:
            mapped = portal._group / f"acls/{initiator}/lun_{lun.number}"
            mapped.mkdir()
            (mapped / "lun").symlink_to(folder)

    def _withdraw(self, lun: Lun, portal: Portal) -> None:
        """Undo `_publish`, as far as it came, if it was not undone already."""
        for initiator in self.initiators:
            _remove(portal._group / f"acls/{initiator}/lun_{lun.number}", "lun")
        _remove(portal._group / f"lun/lun_{lun.number}", "store")

    def _set_up(self, portal: Portal) -> None:
        open_to_all = "0" if self.initiators else "1"
        tell(portal._group / "attrib/generate_node_acls", open_to_all)
        tell(portal._group / "attrib/cache_dynamic_acls", open_to_all)
        tell(portal._group / "attrib/demo_mode_write_protect", "0")
        tell(portal._group / "attrib/authentication", "1" if self.chap else "0")
        self._set_passwords(portal._group)

    def _set_passwords(self, node: Path) -> None:
        if not self.chap:
            return
        tell(node / "auth/userid", self.chap.user)
        tell(node / "auth/password", self.chap.password)
        if self.chap.target_user:
            tell(node / "auth/userid_mutual", self.chap.target_user)
            tell(node / "auth/password_mutual", self.chap.target_password)


@contextmanager
def iscsi_target(
    luns: Sequence[int | Path] = (64 << 20,),
    portals: Sequence[str] = ("127.0.0.2",),
    iqn: str = IQN,
    chap: Chap | None = None,
    initiators: Sequence[str] = (),
    sector_bytes: int = 512,
) -> Iterator[IscsiTarget]:
    """A target with LUNs (sizes in memory, or block devices) and portals, open to all or to the initiators named.

    Afterwards its sessions are closed and it is gone; initiators should have logged out before.
    """
    with ExitStack() as undo:
        _prepare(undo)
        target = IscsiTarget(iqn, chap, initiators, undo)
        _make(undo, target._path)
        for backing in luns:
            target.add_lun(backing, sector_bytes)
        for address in portals:
            target.add_portal(address)
        yield target


def _prepare(undo: ExitStack) -> None:
    load(*MODULES)
    if not os.path.ismount(CONFIG):
        run("mount", "-t", "configfs", "configfs", CONFIG)
        undo.callback(run, "umount", CONFIG)
    if not FABRIC.exists():
        FABRIC.mkdir()
        undo.callback(FABRIC.rmdir)


def _make_lun(undo: ExitStack, number: int, backing: int | Path, sector_bytes: int, serial: str) -> Lun:
    in_memory = isinstance(backing, int)
    backstore = _make_adapter(undo, "fileio" if in_memory else "iblock") / f"lun{number}"
    _make(undo, backstore)
    if isinstance(backing, int):
        size_bytes = backing
        memory = os.memfd_create("lab-lun", os.MFD_CLOEXEC)
        undo.callback(os.close, memory)
        os.ftruncate(memory, size_bytes)
        # Buffered: the target then tells of a cache, as most do. Flushing it costs nothing, in memory.
        file = f"/proc/self/fd/{memory}"
        tell(backstore / "control", f"fd_dev_name={file},fd_dev_size={size_bytes},fd_buffered_io=1")
    else:
        size_bytes = measure_size(backing)
        tell(backstore / "control", f"udev_path={backing}")
    tell(backstore / "enable", "1")
    if in_memory:
        tell(backstore / "attrib/block_size", str(sector_bytes))
        tell(backstore / "attrib/emulate_tpu", "1")  # discards give memory back
    tell(backstore / "wwn/vpd_unit_serial", serial)
    return Lun(number, serial, size_bytes, backstore, in_memory, undo)


def _make_adapter(undo: ExitStack, kind: str) -> Path:
    """A virtual adapter for one LUN: sharing them would need counting."""
    for number in count():
        folder = CORE / f"{kind}_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        undo.callback(folder.rmdir)
        return folder
    raise AssertionError("numbers do not end")


def _make(undo: ExitStack, folder: Path) -> None:
    folder.mkdir()
    undo.callback(folder.rmdir)


def _remove(folder: Path, link: str) -> None:
    with suppress(FileNotFoundError):
        (folder / link).unlink()
    with suppress(FileNotFoundError):
        folder.rmdir()
