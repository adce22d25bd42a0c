"""What is known of one domain's health, and when it has changed (facts: storage §11.2): values and rules, no I/O.

unknown ──both checks well──▶ valid ◀──────▶ invalid        each arrow is told once
   └────────────any check failed────────────────▲
"""

from pathlib import Path

from msgspec import Struct

from vdsm.core.errors import NodeError
from vdsm.storage.model import DomainSpace

OTHER_ERROR = 200
"""The code of failures that are not of the storage family, such as a call that did not end in time."""


class DomainLook(Struct, frozen=True):
    """What the daemon itself saw of a domain: its version and space, and where the checker shall read."""

    version: int
    space: DomainSpace
    checked_path: Path
    is_iso: bool = False
    alerts: tuple[NodeError, ...] = ()


class Check(Struct, frozen=True):
    """When a check ended, and the failure that it ended with."""

    at_s: float
    error: NodeError | None = None


class Health(Struct, frozen=True):
    """A domain's health at one moment: the last read of the checker, the last look of the daemon."""

    begun_s: float
    """When watching began, by the monotonic clock as all times here."""
    delay_s: float = 0.0
    """What the last read took."""
    look: DomainLook | None = None
    """The last one that succeeded."""
    path: Check | None = None
    domain: Check | None = None
    told_valid: bool | None = None
    """What was told last."""

    @property
    def error(self) -> NodeError | None:
        """Why the domain cannot be used: the read's failure goes before the look's."""
        checks = [check.error for check in (self.path, self.domain) if check is not None and check.error is not None]
        return checks[0] if checks else None

    @property
    def code(self) -> int:
        """0, or the number of the storage failure."""
        error = self.error
        return 0 if error is None else max(error.number, OTHER_ERROR)

    @property
    def is_actual(self) -> bool:
        """Whether enough is known to judge: both checks are done, or one failed."""
        return self.error is not None or (self.path is not None and self.domain is not None)

    @property
    def is_valid(self) -> bool:
        return self.error is None

    @property
    def version(self) -> int:
        """The domain's version; -1 before it is known."""
        return -1 if self.look is None else self.look.version

    @property
    def checked_s(self) -> float:
        """When the older of both checks ended last: what is known is no newer than that."""
        times = [check.at_s for check in (self.path, self.domain) if check is not None]
        return min(times, default=self.begun_s)

    @property
    def has_news(self) -> bool:
        """Whether the first verdict, or another one than before, is to be told."""
        return self.is_actual and self.told_valid is not self.is_valid
