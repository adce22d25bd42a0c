"""Recovery entries: what we leave behind is what other implementations know, and all that they leave we know."""

from msgspec.structs import astuple, replace

from tests.unit.storage.pools.test_members import add_member
from vdsm.core.ids import is_uuid
from vdsm.storage.model import ImageMove, Subchain, VolumeFormat, VolumeRef, VolumeRequest, VolumeRole
from vdsm.storage.ports import Rollback
from vdsm.storage.recovery import _ENTRIES
from vdsm.storage.rollbacks import RollbacksInMemory
from vdsm.testing.storage import World

MIB = 1 << 20
OF_FILES = {
    "startCreateVolumeRollback": ["id id id"],
    "halfbakedVolumeRollback": ["id id path", "path"],
    "createVolumeMetadataRollback": ["path"],
    "createVolumeRollback": ["path id id id path"],
    "shareVolumeRollback": ["path"],
    "renameVolumeRollback": ["path path"],
    "renameLeaseRollback": ["path number id id"],
}
KNOWN = {
    ("sd", "StorageDomain"): {"create_image_rollback": ["path"]},
    ("volume", "Volume"): {
        "parentVolumeRollback": ["id id id"],
        "extendSizeFinalize": ["id id id"],
        "killProcRollback": ["number number"],
    },
    ("fileVolume", "FileVolume"): OF_FILES,
    ("glusterVolume", "GlusterVolume"): OF_FILES,
}
"""By module and object: each function, and the forms that its parameters may have (facts: storage §8.5)."""
NOT_OURS = {"renameVolumeRollback", "renameLeaseRollback", "killProcRollback"}


class Recorder(RollbacksInMemory):
    """Notes the form of each entry, also of those that are taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str, str], set[str]] = {}

    def push(self, name: str, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        super().push(name, module, object, function, params)
        form = " ".join("id" if is_uuid(one) else "path" if one.startswith("/") else one for one in params)
        self.found.setdefault((module, object, function), set()).add(form)

    def replace_down_to_sentinel(self, *entries: Rollback) -> None:
        super().replace_down_to_sentinel()
        for entry in entries:
            self.push(*astuple(entry))


def work(world: World, entries: Recorder) -> None:
    """Whatever leaves entries."""
    move_to = add_member(world)
    raw = world.request(format=VolumeFormat.RAW)
    top = world.request(raw.image_id, parent_id=raw.volume_id, capacity_bytes=2 * MIB)
    for request in (raw, top):
        world.create(request, entries)
    repository, pool_id = world.repository, world.pool_id
    subchain = Subchain(world.domain_id, raw.image_id, top.volume_id, raw.volume_id, None)
    repository.merges.prepare(pool_id, subchain, entries)
    template = replace(world.request(), capacity_bytes=2 * MIB)
    source = VolumeRef(world.domain_id, top.image_id, top.volume_id)
    repository.whole_images.copy(source, template, VolumeRole.SHARED, False, entries)
    user: VolumeRequest = world.request(parent_id=template.volume_id, parent_image_id=template.image_id)
    world.create(replace(user, capacity_bytes=2 * MIB), entries)
    move = ImageMove(pool_id, world.domain_id, move_to, raw.image_id)
    repository.moves.transfer(move, keep=True, rollbacks=entries)
    grown = world.create_base(format=VolumeFormat.RAW)
    repository.volumes.extend(pool_id, VolumeRef(world.domain_id, grown.image_id, grown.volume_id), 2 * MIB, entries)
    repository.volumes.delete(pool_id, world.domain_id, user.image_id, [user.volume_id], rollbacks=entries)


def test_all_entries_that_we_leave_are_known(spm: World) -> None:
    entries = Recorder()
    work(spm, entries)
    for (module, object, function), forms in entries.found.items():
        assert forms <= set(KNOWN[module, object][function]), f"{function}: {forms}"
    ours = {function for _, _, function in entries.found}
    assert ours == {function for functions in KNOWN.values() for function in functions} - NOT_OURS


def test_all_entries_that_are_known_are_understood() -> None:
    assert _ENTRIES.keys() == {(*names, function) for names, functions in KNOWN.items() for function in functions}
