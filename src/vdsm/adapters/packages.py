"""The distribution's package database, through dpkg or rpm; which packages matter is left to the asker."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from vdsm.adapters.run import CommandFailed, run_async

_TIMEOUT_S = 30.0
_INSTALLED = "ii"


class PackageDatabase:
    """Installed versions. `root` is where the databases are looked for, the programs are always this machine's."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    async def list_versions(self, names: Iterable[str]) -> Mapping[str, str]:
        """Those of the packages that are installed, with their full versions; empty without a database that answers."""
        try:
            if (self._root / "var/lib/dpkg/status").exists():
                return await self._ask_dpkg(list(names))
            if any((self._root / path).exists() for path in ("usr/lib/sysimage/rpm", "var/lib/rpm")):
                return await self._ask_rpm(list(names))
        except CommandFailed:
            pass  # `run` has told of it; a host whose database is broken still has all its other figures
        return {}

    async def _ask_dpkg(self, names: list[str]) -> dict[str, str]:
        layout = "${db:Status-Abbrev} ${Package} ${Version}\n"
        command = [
            "dpkg-query",
            f"--admindir={self._root / 'var/lib/dpkg'}",
            f"--showformat={layout}",
            "--show",
            *names,
        ]
        done = await run_async(command, timeout_s=_TIMEOUT_S, ok=(0, 1))  # 1: some are not installed
        rows = (line.split() for line in done.text.splitlines())
        return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == _INSTALLED}

    async def _ask_rpm(self, names: list[str]) -> dict[str, str]:
        command = [
            "rpm",
            "--root",
            str(self._root),
            "--query",
            "--queryformat",
            "%{NAME} %{VERSION}-%{RELEASE}\n",
            *names,
        ]
        done = await run_async(command, timeout_s=_TIMEOUT_S, ok=range(256))  # the number of those not installed
        rows = (line.split() for line in done.text.splitlines())
        return {row[0]: row[1] for row in rows if len(row) == 2}
