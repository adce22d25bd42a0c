"""The recovery entries that operations leave behind, exactly as other implementations read them (facts: storage §8.5).

Keeping them across a crash is left to `tasks`, running them to `recovery`.
"""

from collections.abc import Callable
from pathlib import Path

from vdsm.storage.ports import Rollback, Rollbacks, Traits

SENTINEL = "rollback sentinel"
FINISHING = "finish the work"
"""The name of entries that take nothing back: they do what is left of work that goes one way only by now."""
Recover = Callable[[str, str, str, tuple[str, ...]], None]


class RollbacksInMemory:
    """Rollbacks for work that no task stands for: they run when the work fails and are forgotten with the process."""

    def __init__(self) -> None:
        self.entries: list[Rollback] = []

    def push(self, name: str, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        self.entries.append(Rollback(name, module, object, function, params))

    def replace_down_to_sentinel(self, *entries: Rollback) -> None:
        while self.entries and self.entries.pop().name != SENTINEL:
            pass
        self.entries.extend(entries)

    def run(self, recover: Recover) -> None:
        """Run the entries, last recorded first."""
        while self.entries:
            entry = self.entries.pop()
            recover(entry.module, entry.object, entry.function, entry.params)


class VolumeRollbacks:
    """The entries of one operation on one volume, by their meaning."""

    def __init__(self, rollbacks: Rollbacks, traits: Traits, domain_id: str, image_id: str, volume_id: str) -> None:
        self._rollbacks = rollbacks
        self._traits = traits
        self._ids = (domain_id, image_id, volume_id)

    def push_image(self, folder: Path) -> None:
        """Remove the image's folder if it is empty."""
        self._push(Rollback("create image rollback", "sd", "StorageDomain", "create_image_rollback", (str(folder),)))

    def push_share(self, path: Path) -> None:
        """Remove a template's links from this image."""
        self._push(self._make("share volume rollback", "shareVolumeRollback", str(path)))

    def push_sentinel(self) -> None:
        """Mark where this volume's entries begin; no effect."""
        self._push(self.make_sentinel())

    def make_sentinel(self) -> Rollback:
        return self._make(SENTINEL, "startCreateVolumeRollback", *self._ids)

    def push_data(self, path: Path) -> None:
        """Remove the data if it has no record."""
        domain_id, _, volume_id = self._ids
        self._push(self._make("Halfbaked volume rollback", "halfbakedVolumeRollback", domain_id, volume_id, str(path)))

    def push_parent(self, image_id: str, parent_id: str) -> None:
        """Look again whether the parent has children."""
        params = (self._ids[0], image_id, parent_id)
        self._push(Rollback("parent volume rollback", "volume", "Volume", "parentVolumeRollback", params))

    def push_record(self, path: Path) -> None:
        """Remove the record."""
        self._push(self._make("create volume metadata rollback", "createVolumeMetadataRollback", str(path)))

    def push_removal(self, repository: Path, folder: Path) -> None:
        """Remove the volume as a whole, and its image when it was the last."""
        self._push(self.make_removal(repository, folder))

    def replace_by_removal(self, repository: Path, folder: Path) -> None:
        """The volume is whole: from now on one entry takes it back."""
        self._rollbacks.replace_down_to_sentinel(self.make_removal(repository, folder))

    def make_removal(self, repository: Path, folder: Path, name: str = "Create volume rollback") -> Rollback:
        """Remove the volume as a whole, and its image when it was the last."""
        return self._make(name, "createVolumeRollback", str(repository), *self._ids, str(folder))

    def _make(self, name: str, function: str, *params: str) -> Rollback:
        return Rollback(name, self._traits.recovery_module, self._traits.recovery_object, function, params)

    def _push(self, entry: Rollback) -> None:
        self._rollbacks.push(entry.name, entry.module, entry.object, entry.function, entry.params)
