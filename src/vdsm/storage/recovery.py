"""Taking back and finishing what was interrupted: recovery entries (facts: storage §8.5), and a sweep for the rest.

Keeping entries is left to `tasks`. Each function bears being run twice, and acts on nothing outside a known domain.
"""

import logging
from collections.abc import Callable
from pathlib import PurePath

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.errors import NodeError
from vdsm.core.ids import is_uuid
from vdsm.storage import locks
from vdsm.storage.domain import Domains
from vdsm.storage.errors import InvalidMetadata, InvalidParameterException, VolumeDoesNotExist
from vdsm.storage.images.chain import Images
from vdsm.storage.images.removal import remove_empty_image, remove_volume
from vdsm.storage.model import Legality, VolumeFormat, VolumeRole
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import HalfMade, Steps

log = logging.getLogger(__name__)

Params = tuple[str, ...]


class Place(Struct, frozen=True):
    """The image, and mostly the volume, that an entry speaks of."""

    domain_id: str
    image_id: str
    volume_id: str = ""
    renamed_id: str = ""


class _Entry(Struct, frozen=True):
    locate: Callable[[Params], Place]
    act: Callable[[Images, Place, Steps], None]


class Recovery(Struct, eq=False):
    """Runs recovery entries of this and other implementations."""

    _domains: Domains
    _pools: Pools
    _locks: locks.Locks
    _step: Steps

    def recover(self, module: str, object: str, function: str, params: Params) -> None:
        """Run one entry. Raises InvalidParameterException for one that is unknown, malformed or outside a domain.

        A domain that left the connected pool is StorageDomainNotInPool (353): its writer is another host. Running an
        entry again, or after its volume is gone, changes nothing.
        """
        entry, place = _parse(module, object, function, params)
        if entry is None or place is None:
            return
        with self._locks.hold(locks.domain(place.domain_id, shared=True), locks.image(place.domain_id, place.image_id)):
            domain = self._domains.get_with_images(place.domain_id)
            for pool_id in self._pools.list_connected():
                require_writer(self._pools, pool_id, domain)
            self._run(entry, place)

    def undo(self, module: str, object: str, function: str, params: Params) -> None:
        """`recover` for a failed operation that still holds the locks of its volume; a failure here is logged."""
        entry, place = _parse(module, object, function, params)
        if entry is None or place is None:
            return
        try:
            self._run(entry, place)
        except NodeError as error:
            log.warning("%s of %s is left to the next SPM: %s", function, place, error)

    def sweep(self, domain_id: str) -> None:
        """Clean up what killed operations left on a domain.

        Only the one metadata writer may, holding the domain's lock, before it begins anything. Data is removed only
        when it is known for a draft of ours, links only when another image has the data, too.
        """
        images = self._domains.get_with_images(domain_id).images
        images.backend.leftovers.clean_temporaries()
        unknown = {
            half.image_id for half in images.backend.leftovers.list_half_made() if not self._finish(images, half)
        }
        for image_id in images.backend.volumes.list_images():
            if image_id not in unknown and not images.has_own(image_id):
                self._remove_unowned(images, image_id)

    def _remove_unowned(self, images: Images, image_id: str) -> None:
        volumes = images.backend.volumes
        if all(volumes.is_shared(image_id, volume_id) for volume_id in volumes.list_records(image_id)):
            remove_empty_image(images, image_id, self._step)
        else:
            log.error("Image %s has only volumes of other images and is left alone", image_id)

    def _run(self, entry: _Entry, place: Place) -> None:
        entry.act(self._domains.get_with_images(place.domain_id).images, place, self._step)

    def _finish(self, images: Images, half: HalfMade) -> bool:
        """Whether all that is half made is known and gone."""
        # The data goes last: while it is there, the next sweep looks at the parents again.
        if half.drafts and not half.data_without_record:
            for volume_id, record in images.read_all(half.image_id).items():
                if record.image_id == half.image_id and record.role is VolumeRole.INTERNAL:
                    images.evaluate_role(half.image_id, volume_id)
        for volume_id in half.drafts:
            log.warning("Removing half-made volume %s of image %s", volume_id, half.image_id)
            self._step("sweep data")
            images.backend.volumes.remove_record(half.image_id, volume_id)  # there is none, but there may be a lease
            images.backend.data.remove_data(half.image_id, volume_id)
        for volume_id in half.records_without_data:
            if _is_illegal(images, half.image_id, volume_id):
                log.warning("Removing half-deleted volume %s of image %s", volume_id, half.image_id)
                remove_volume(images, half.image_id, volume_id, self._step)
            else:
                log.error("Volume %s of image %s has no data", volume_id, half.image_id)
        for volume_id in half.data_without_record:
            log.error("Data %s of image %s has no record and is left alone", volume_id, half.image_id)
        return not half.data_without_record


def _parse(module: str, object: str, function: str, params: Params) -> tuple[_Entry | None, Place | None]:
    try:
        entry = _ENTRIES[module, object, function]
    except KeyError:
        raise InvalidParameterException("recovery", f"{module}.{object}.{function}") from None
    return entry, entry.locate(params) if entry else None


def _locate_ids(params: Params) -> Place:
    """The first domain, image and volume id in a row; what stands around them may be a path with commas."""
    for index in range(len(params) - 2):
        if all(is_uuid(value) for value in params[index : index + 3]):
            return Place(*params[index : index + 3])
    raise InvalidParameterException("recovery", repr(params)[:200])


def _locate_path(params: Params) -> Place:
    """The tail of a path, `<domain>/images/<image>[/<volume>]`; only the names in it are used."""
    path = PurePath(",".join(params))
    parts = path.parts[-4:] if path.parts[-3:-2] == ("images",) else path.parts[-3:]
    domain_id, folder, *names = parts if len(parts) >= 3 else ("", "")
    names = [name.removesuffix(".meta") for name in names]
    if folder != "images" or ".." in path.parts or not all(is_uuid(name) for name in (domain_id, *names)):
        raise InvalidParameterException("recovery", repr(params)[:200])
    return Place(domain_id, *names)


def _locate_volume(params: Params) -> Place:
    place = _locate_path(params)
    if not place.volume_id:
        raise InvalidParameterException("recovery", repr(params)[:200])
    return place


def _locate_renamed(params: Params) -> Place:
    """The names before and after, in one folder: there are as many commas in one path as in the other."""
    before, after = (_locate_volume(part) for part in (params[: len(params) // 2], params[len(params) // 2 :]))
    if replace(after, volume_id=before.volume_id) != before:
        raise InvalidParameterException("recovery", repr(params)[:200])
    return replace(before, renamed_id=after.volume_id)


def _locate_half_baked(params: Params) -> Place:
    has_ids = len(params) >= 3 and is_uuid(params[0]) and is_uuid(params[1])
    place = _locate_volume(params[2:] if has_ids else params)
    if has_ids and (place.domain_id, place.volume_id) != params[:2]:
        raise InvalidParameterException("recovery", repr(params)[:200])
    return place


def _remove_image(images: Images, place: Place, step: Steps) -> None:
    step("undo image")
    images.backend.volumes.remove_image(place.image_id)


def _remove_half_baked(images: Images, place: Place, step: Steps) -> None:
    if place.volume_id not in images.backend.volumes.list_records(place.image_id):
        step("undo data")
        images.backend.volumes.remove_record(place.image_id, place.volume_id)  # there is none, but there may be a lease
        images.backend.data.remove_data(place.image_id, place.volume_id)


def _remove_record(images: Images, place: Place, step: Steps) -> None:
    step("undo record")
    images.backend.volumes.remove_record(place.image_id, place.volume_id)


def _remove_whole(images: Images, place: Place, step: Steps) -> None:
    remove_volume(images, place.image_id, place.volume_id, step)
    remove_empty_image(images, place.image_id, step)


def _unshare(images: Images, place: Place, step: Steps) -> None:
    records = images.read_all(place.image_id)
    record = records.get(place.volume_id)
    is_used = any(other.parent_id == place.volume_id for other in records.values())
    if record is not None and record.image_id != place.image_id and not is_used:
        step("undo share")
        images.backend.volumes.unshare(place.image_id, place.volume_id)


def _rename_back(images: Images, place: Place, step: Steps) -> None:
    volumes, data, image_id = images.backend.volumes, images.backend.data, place.image_id
    old_id, new_id, records = place.volume_id, place.renamed_id, volumes.list_records(image_id)
    was_moved = data.has_data(image_id, new_id)
    if was_moved == data.has_data(image_id, old_id) or not (was_moved or new_id in records):
        return  # there are two volumes, or none; or it has its old name
    step("undo name")
    volumes.create_lease(image_id, old_id)
    if was_moved:
        data.rename_data(image_id, new_id, old_id)
    if new_id in records:
        if old_id not in records:
            volumes.write_record(image_id, old_id, volumes.read_record(image_id, new_id))
        volumes.remove_record(image_id, new_id)


def _evaluate_role(images: Images, place: Place, step: Steps) -> None:
    step("undo parent")
    images.evaluate_role(place.image_id, place.volume_id)


def _sync_capacity(images: Images, place: Place, step: Steps) -> None:
    try:
        record = images.read(place.image_id, place.volume_id)
    except VolumeDoesNotExist:
        return
    size_bytes = images.backend.data.get_size(place.image_id, place.volume_id).apparent_bytes
    if record.format is VolumeFormat.RAW and record.capacity_bytes != size_bytes:
        step("sync capacity")
        images.change(place.image_id, place.volume_id, replace(record, capacity_bytes=size_bytes))


def _is_illegal(images: Images, image_id: str, volume_id: str) -> bool:
    try:
        return images.read(image_id, volume_id).legality is Legality.ILLEGAL
    except (InvalidMetadata, VolumeDoesNotExist):
        return False


_FILE_CLASSES = (("fileVolume", "FileVolume"), ("glusterVolume", "GlusterVolume"))

_ENTRIES: dict[tuple[str, str, str], _Entry | None] = {
    ("sd", "StorageDomain", "create_image_rollback"): _Entry(_locate_path, _remove_image),
    ("volume", "Volume", "parentVolumeRollback"): _Entry(_locate_ids, _evaluate_role),
    ("volume", "Volume", "extendSizeFinalize"): _Entry(_locate_ids, _sync_capacity),
    ("volume", "Volume", "killProcRollback"): None,
}
"""What each entry does; None is for those without an effect (here)."""

for _module, _object in _FILE_CLASSES:
    _ENTRIES |= {
        (_module, _object, "startCreateVolumeRollback"): None,
        (_module, _object, "renameLeaseRollback"): None,
        (_module, _object, "halfbakedVolumeRollback"): _Entry(_locate_half_baked, _remove_half_baked),
        (_module, _object, "createVolumeMetadataRollback"): _Entry(_locate_volume, _remove_record),
        (_module, _object, "createVolumeRollback"): _Entry(_locate_ids, _remove_whole),
        (_module, _object, "shareVolumeRollback"): _Entry(_locate_volume, _unshare),
        (_module, _object, "renameVolumeRollback"): _Entry(_locate_renamed, _rename_back),
    }
