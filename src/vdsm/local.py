"""Where this machine's daemon is found: what a client needs to know of the node's configuration, and nothing more."""

import configparser
import os
from dataclasses import dataclass
from pathlib import Path

from vdsm.core.paths import Paths

_ANY = ("", "::", "0.0.0.0", "*")


@dataclass(frozen=True, slots=True)
class LocalDaemon:
    """The daemon of one root: its TCP door as a client on this machine reaches it, and its folders."""

    paths: Paths
    host: str
    port: int
    use_tls: bool

    @property
    def key_file(self) -> Path:
        """The private key that clients on a node show (facts §1.2)."""
        return self.paths.pki / "keys/vdsmkey.pem"

    @property
    def certificate_file(self) -> Path:
        return self.paths.pki / "certs/vdsmcert.pem"

    @property
    def authority_file(self) -> Path:
        return self.paths.pki / "certs/cacert.pem"


def find_local_daemon(root: Path | None = None) -> LocalDaemon:
    """The daemon under `root`, by default that of VDSM_ROOT or `/`; its configuration is read, it need not run."""
    paths = Paths(root or Path(os.environ.get("VDSM_ROOT") or "/"))
    config = configparser.ConfigParser(interpolation=None)
    config.read(paths.config_file)
    host = config.get("addresses", "management_ip", fallback="::")
    return LocalDaemon(
        paths,
        "localhost" if host in _ANY else host,
        config.getint("addresses", "management_port", fallback=54321),
        config.getboolean("vars", "ssl", fallback=True),
    )
