"""The SPM of two hosts on one domain, or its whole host, ends amid its work; the other takes over, nothing is lost."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from lab.commands import wait_for
from lab.shared_pool import SharedPool
from tests.ledger import Work, check
from tests.system.vdsmd import kill_during
from tests.writes import Watch

P = TypeVar("P", bound=SharedPool)

ENOUGH = 20
"""So many kills meet work of every kind."""


@dataclass(frozen=True)
class Killing(Generic[P]):
    """How the SPM is killed, and what is waited for then."""

    kill: Callable[[P], object]
    longest_life_s: float
    """It lives so long at most after the steps that are left undisturbed."""
    take_over_s: float
    children_end_s: float
    undisturbed: int = 0
    pause_s: float = 0.1
    """Between two tries to take over."""

    def in_rounds(self, pools: tuple[P, P], scratch: Path, count: int) -> P:
        """The first one, the SPM, works and is killed; the other takes over and finds what it should; and so on.

        So many times. Gives the one that is the SPM afterwards.
        """
        spm, other = pools
        work = Work(spm, random.Random())
        for _ in range(count):
            for _ in range(self.undisturbed):
                work.step()
            life_s = work.chance.uniform(0, self.longest_life_s)
            kill_during(spm.vdsmd, life_s, work.run, partial(self.kill, spm))
            self._take_over(spm, other)
            work.pool = other
            check(other, work.ledger, scratch)
            watch = Watch(spm.path)
            spm.come_back()
            assert watch.list_changes() == [], "who came back and is not the SPM has written"
            spm, other = other, spm
        assert count < ENOUGH or work.done.keys() >= {"create", "copy", "refill", "merge", "delete"}, work.done
        return spm

    def _take_over(self, dead: P, other: P) -> None:
        """The other is the SPM when this returns; of the dead one's daemon nothing was left before."""
        wait_for(lambda: not dead.list_children(), "no child of the daemon lives on", self.children_end_s)
        told = f"host {other.host_id} takes over"
        wait_for(lambda: other.try_spm() == 0, told, self.take_over_s, pause_s=self.pause_s)
