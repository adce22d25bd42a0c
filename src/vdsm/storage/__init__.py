"""The image repository: domains, pools, images and volumes on shared or local storage, usable without the daemon.

Scripts begin with `from vdsm.storage import open_repository`; joining with the outside is left to `vdsm.repository`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdsm.repository import open_repository

__all__ = ["open_repository"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vdsm import repository  # only here: it imports this package

    return getattr(repository, name)
