"""Work that is done again and again until it is cancelled; what it is and who cancels it is left to the caller."""

import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from vdsm.core.clock import Clock

log = logging.getLogger(__name__)


async def repeat(action: Callable[[], Awaitable[object]], *, every_s: float, clock: Clock, name: str) -> NoReturn:
    """Do it now and then every so many seconds; one that lasts longer than that is followed at once by the next.

    A failure is logged, and the next turn comes all the same: this is the periodic loop's broad handler.
    """
    due_s = clock.monotonic()
    while True:
        try:
            await action()
        except Exception:
            log.exception("%s failed; next try in %s s", name, every_s)
        due_s = max(due_s + every_s, clock.monotonic())
        await clock.sleep(due_s - clock.monotonic())
