"""The iSCSI initiator: iscsid with a configuration and a database of its own, sessions, and the devices they bring.

Its netlink is the first network namespace's, so all of this runs there. Hosts in namespaces of their own share it.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.commands import listening, load, run, tell, wait_for
from lab.iscsi import PORT, Chap, IscsiTarget, Portal

FOLDER = Path("/etc/iscsi")  # compiled into both programs
LOCKS = Path("/run/lock/iscsi")
SESSIONS = Path("/sys/class/iscsi_session")
SOCKET = "@ISCSIADM_ABSTRACT_NAMESPACE"
NAME = "iqn.2026-11.org.example:host1"
SETTINGS = """\
node.startup = manual
node.session.timeo.replacement_timeout = {replacement_s}
node.session.err_timeo.abort_timeout = 5
node.session.err_timeo.lu_reset_timeout = 5
node.session.err_timeo.tgt_reset_timeout = 5
node.session.err_timeo.host_reset_timeout = 10
node.session.initial_login_retry_max = 2
node.conn[0].timeo.login_timeout = 10
node.conn[0].timeo.logout_timeout = 5
node.conn[0].timeo.noop_out_interval = {noop_s}
node.conn[0].timeo.noop_out_timeout = {noop_s}
"""
INTERFACE = """\
iface.iscsi_ifacename = {interface}
iface.transport_name = tcp
iface.initiatorname = {initiator_name}
"""


@dataclass(frozen=True)
class Session:
    """A session with one portal of a target."""

    target: IscsiTarget
    portal: Portal
    interface: str
    folder: Path  # in sysfs

    def device(self, lun: int = 0) -> Path:
        """The block device of a LUN, as soon as it is there."""

        def look() -> Path | None:
            for path in self.folder.glob(f"device/target*/*:*:*:{lun}/block/*"):
                device = Path("/dev", path.name)
                if device.exists() and Path("/sys/block", path.name, "queue").exists():  # it comes a moment later
                    return device
            return None

        return wait_for(look, f"LUN {lun} of {self.target.iqn} at {self.portal.address} has a device")

    def rescan(self) -> None:
        """Look for new LUNs and new sizes."""
        (host,) = self.folder.resolve().parents[2].glob("scsi_host/host*")
        for device in self.folder.glob("device/target*/*:*:*:*"):
            tell(device / "rescan", "1")
        tell(host / "scan", "- - -")

    def forget(self, lun: int) -> None:
        """Drop the device of a LUN (the target may have removed it already)."""
        for device in self.folder.glob(f"device/target*/*:*:*:{lun}"):
            tell(device / "delete", "1")

    def read_state(self) -> str:
        """What the kernel says of the session: LOGGED_IN, FAILED, FREE."""
        return (self.folder / "state").read_text().strip()


@dataclass
class Initiator:
    """An iscsid that runs; logs in and out."""

    name: str
    _settings: str

    def discover(self, address: str, port: int = PORT) -> list[tuple[str, str]]:
        """Ask a portal what there is: pairs of address (`127.0.0.2:3260`) and target."""
        said = run("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", f"{address}:{port}")
        return [(line.split()[0].partition(",")[0], line.split()[1]) for line in said.splitlines()]

    @contextmanager
    def interface(self, interface: str, initiator_name: str) -> Iterator[str]:
        """Another initiator name, as if from another host; `session(..., interface=...)` logs in under it."""
        file = FOLDER / "ifaces" / interface
        file.write_text(INTERFACE.format(interface=interface, initiator_name=initiator_name))
        try:
            yield interface
        finally:
            file.unlink()

    @contextmanager
    def session(
        self, target: IscsiTarget, portal: Portal | None = None, interface: str = "default", chap: Chap | None = None
    ) -> Iterator[Session]:
        """A session with a portal, the first one unless named, and devices for all LUNs. Logged out afterwards.

        Raises PartFailed when the target refuses (status 24: wrong password).
        """
        portal = portal or target.portals[0]
        node = ("-m", "node", "-T", target.iqn, "-p", f"{portal.address}:{portal.port}", "-I", interface)
        with ExitStack() as undo:
            undo.enter_context(_recorded(target, portal, interface, chap, self._settings))
            run("iscsiadm", *node, "--login")
            undo.callback(run, "iscsiadm", *node, "--logout")
            session = Session(target, portal, interface, _find_session(target, portal, interface))
            for lun in target.luns:
                session.device(lun.number)
            yield session


@contextmanager
def initiator(name: str = NAME, noop_s: int = 2, replacement_s: int = 5) -> Iterator[Initiator]:
    """Iscsid, with an empty database.

    A silent portal is noticed after twice `noop_s`, and I/O through a broken session fails after `replacement_s` more.
    Afterwards iscsid has ended and its files are gone.
    """
    load("iscsi_tcp")
    with ExitStack() as undo:
        if not LOCKS.exists():
            LOCKS.mkdir(parents=True)
            undo.callback(shutil.rmtree, LOCKS)
        FOLDER.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=700", "lab-iscsi", FOLDER)
        undo.callback(run, "umount", FOLDER)
        settings = SETTINGS.format(noop_s=noop_s, replacement_s=replacement_s)
        (FOLDER / "iscsid.conf").write_text(settings)
        (FOLDER / "initiatorname.iscsi").write_text(f"InitiatorName={name}\n")
        (FOLDER / "ifaces").mkdir()
        (FOLDER / "ifaces/default").write_text(INTERFACE.format(interface="default", initiator_name=name))
        (FOLDER / "nodes").mkdir()
        undo.enter_context(listening("iscsid", "--foreground", "--no-pid-file", socket=SOCKET))
        yield Initiator(name, settings)


@contextmanager
def _recorded(target: IscsiTarget, portal: Portal, interface: str, chap: Chap | None, settings: str) -> Iterator[None]:
    """A record of the node, as `iscsiadm -o new` would write it, without its start and that of an update for CHAP.

    What a record does not tell is not taken from iscsid.conf or from the interface's file, but from what is compiled
    in: so it tells all of that again.
    """
    folder = FOLDER / "nodes" / target.iqn / f"{portal.address},{portal.port},{portal.tag}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"node.name = {target.iqn}",
        f"node.tpgt = {portal.tag}",
        *(FOLDER / "ifaces" / interface).read_text().splitlines(),
        f"node.conn[0].address = {portal.address}",
        f"node.conn[0].port = {portal.port}",
        *settings.splitlines(),
    ]
    if chap:
        lines += [
            "node.session.auth.authmethod = CHAP",
            f"node.session.auth.username = {chap.user}",
            f"node.session.auth.password = {chap.password}",
        ]
        if chap.target_user:
            lines += [
                f"node.session.auth.username_in = {chap.target_user}",
                f"node.session.auth.password_in = {chap.target_password}",
            ]
    file = folder / interface
    file.write_text("\n".join(lines) + "\n")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _find_session(target: IscsiTarget, portal: Portal, interface: str) -> Path:
    found: list[Path] = []

    def look() -> bool:
        for session in SESSIONS.glob("session*"):
            connection = next(session.glob("device/connection*/iscsi_connection/connection*"), None)
            facts = [session / "targetname", session / "ifacename"]
            if connection:
                facts += [connection / "persistent_address", connection / "persistent_port"]
            said = [fact.read_text().strip() for fact in facts]
            if said == [target.iqn, interface, portal.address, str(portal.port)]:
                found.append(session)
        return bool(found)

    wait_for(look, f"a session with {target.iqn} at {portal.address}")
    return found[-1]
