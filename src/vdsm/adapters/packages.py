"""The distribution's package database, through dpkg or rpm; which packages matter is left to the asker."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from vdsm.adapters.run import CommandFailed, run_async

_TIMEOUT_S = 30.0
_INSTALLED = "ii"
_DPKG = "${db:Status-Abbrev} ${Package} ${Version}\n"
_RPM = _INSTALLED + " %{NAME} %{VERSION}-%{RELEASE}\n"


class PackageDatabase:
    """Installed versions. `root` is where the databases are looked for, the programs are always this machine's."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    async def list_versions(self, names: Iterable[str]) -> Mapping[str, str]:
        """Those of the packages that are installed, with their full versions; empty without a database that answers."""
        root = self._root
        ok: Collection[int]
        if (root / "var/lib/dpkg/status").exists():
            command = ["dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", f"--showformat={_DPKG}", "--show", *names]
            ok = (0, 1)  # 1: some are not installed
        elif any((root / path).exists() for path in ("usr/lib/sysimage/rpm", "var/lib/rpm")):
            command = ["rpm", "--root", str(root), "--query", "--queryformat", _RPM, *names]
            ok = range(256)  # the number of those not installed
        else:
            return {}
        try:
            done = await run_async(command, timeout_s=_TIMEOUT_S, ok=ok)
        except CommandFailed:
            return {}  # `run` has told of it; a host whose database is broken still has all its other figures
        rows = (line.split() for line in done.text.splitlines())
        return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == _INSTALLED}
