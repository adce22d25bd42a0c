"""Where this machine's daemon is found and what clients here show it; calling it is left to the clients."""

import os
from pathlib import Path

from msgspec import Struct

from vdsm.core.paths import Paths
from vdsm.settings import load_settings
from vdsm.wire.tls import TlsFiles

_EVERY_ADDRESS = ("", "::", "0.0.0.0")


class LocalDaemon(Struct, frozen=True):
    """The TCP door of one root's daemon, as a client on this machine reaches it."""

    host: str
    port: int
    use_tls: bool


def find_paths(root: Path | None = None) -> Paths:
    """The folders under `root`, by default those under VDSM_ROOT or `/`."""
    return Paths(root or Path(os.environ.get("VDSM_ROOT") or "/"))


def find_local_daemon(paths: Paths) -> LocalDaemon:
    """What the configuration of a root says of its daemon, which need not run. Raises settings.InvalidSetting."""
    settings = load_settings(paths).settings
    host = settings.addresses.management_ip
    return LocalDaemon(
        host="localhost" if host in _EVERY_ADDRESS else host,
        port=settings.addresses.management_port,
        use_tls=settings.vars.ssl,
    )


def choose_certificate(pki: Path) -> TlsFiles:
    """The files that a client on this machine shows: those made for clients, else the daemon's own (facts §1.2).

    A host that a management platform set up has the daemon's only.
    """
    files = TlsFiles.of_client(pki)
    return files if files.key.exists() else TlsFiles.below(pki)
