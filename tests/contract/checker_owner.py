"""A process that keeps a checker and is killed, run by `test_checker`: prints the checker's process id at each word."""

import asyncio
import sys
from pathlib import Path

from vdsm.adapters.checker import CheckerProcess
from vdsm.core.clock import SystemClock
from vdsm.storage.ports import PathCheck


async def keep(path: Path) -> None:
    checker = CheckerProcess(0.05, SystemClock())

    def tell(_check: PathCheck) -> None:
        sys.stdout.write(f"{checker.process_id}\n")
        sys.stdout.flush()

    checker.watch(path, tell)
    await checker.run()


if __name__ == "__main__":
    asyncio.run(keep(Path(sys.argv[1])))
