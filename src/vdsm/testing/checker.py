"""A checker of domains without a process: it tells what a test says; fits `storage.ports.PathChecker`."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from vdsm.storage.ports import PathCheck

WELL = PathCheck(0.001)


class FakeChecker:
    """Finds every path well soon after it is watched; `tell` says what is found later."""

    def __init__(self, first: PathCheck | None = WELL) -> None:
        self.watched: dict[Path, Callable[[PathCheck], None]] = {}
        self._first = first

    def watch(self, path: Path, tell: Callable[[PathCheck], None]) -> None:
        self.watched[path] = tell
        if self._first is not None:
            asyncio.get_running_loop().call_soon(self._tell, path, self._first)

    def forget(self, path: Path) -> None:
        self.watched.pop(path, None)

    async def run(self) -> None:
        """Nothing to do."""
        await asyncio.Event().wait()

    def tell(self, check: PathCheck, path: Path | None = None) -> None:
        """Find this on the path, or on all that are watched."""
        for watched in [path] if path is not None else list(self.watched):
            self.watched[watched](check)

    def _tell(self, path: Path, check: PathCheck) -> None:
        if path in self.watched:
            self.watched[path](check)
