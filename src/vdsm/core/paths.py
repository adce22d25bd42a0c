"""Where things live: every path of the node hangs from one root, so that two daemons run side by side."""

from pathlib import Path

from msgspec import Struct


class Paths(Struct, frozen=True):
    """The node's folders under `root` (default `/`, `--root` or VDSM_ROOT)."""

    root: Path = Path("/")

    @property
    def config_file(self) -> Path:
        return self.root / "etc/vdsm/vdsm.conf"

    @property
    def config(self) -> Path:
        return self.root / "etc/vdsm"

    @property
    def pki(self) -> Path:
        return self.root / "etc/pki/vdsm"

    @property
    def run(self) -> Path:
        return self.root / "run/vdsm"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/vdsm"

    @property
    def log(self) -> Path:
        return self.root / "var/log/vdsm"

    @property
    def repository(self) -> Path:
        return self.root / "rhev/data-center"

    @property
    def socket(self) -> Path:
        """The unix socket for local clients (mode 0660)."""
        return self.run / "vdsmd.sock"
