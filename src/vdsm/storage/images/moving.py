"""Whole images from one domain to another, layer by layer, as the pool's SPM (facts: storage §9.6)."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.ids import BLANK_UUID
from vdsm.core.undo import Undo
from vdsm.storage import checks, locks, model
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import DiscardIsNotSupported, ImageIsNotLegalChain, InvalidParameterException
from vdsm.storage.errors_jobs import ImageDoesNotExistInSD, MoveTemplateImageError
from vdsm.storage.images.chain import order_chain
from vdsm.storage.images.jobs import DataJobs
from vdsm.storage.images.operation import Chain
from vdsm.storage.images.volume import Volumes
from vdsm.storage.images.whole_images import WholeImages, find_used_template, link_users
from vdsm.storage.layout import Layout
from vdsm.storage.locks import Locks, Resource
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import UNWATCHED, Rollbacks, Steps, Unwatched, Watch
from vdsm.storage.recovery import Recovery
from vdsm.storage.rollbacks import FINISHING, RollbacksInMemory, VolumeRollbacks

log = logging.getLogger(__name__)


class _Held(Struct, frozen=True):
    """Both domains, with the images locked: the layers to make anew, base first, and the template below them."""

    move: model.ImageMove
    source: Domain
    target: Domain
    layers: Chain
    template: tuple[str, model.VolumeMetadata] | None

    def make_request(self, volume_id: str, record: model.VolumeMetadata, *, legal: bool) -> model.VolumeRequest:
        in_template = self.template is not None and record.parent_id == self.template[0]
        return model.VolumeRequest(
            self.move.pool_id,
            self.move.target_id,
            self.move.image_id,
            volume_id,
            record.capacity_bytes,
            record.format,
            record.allocation,
            record.disk_type,
            record.description,
            self.template[1].image_id if self.template and in_template else BLANK_UUID,
            record.parent_id,
            legal=legal,
            sequence=record.sequence,
        )


class Moves(Struct, frozen=True):
    """Copies images to another domain, and moves them there. What fails or is killed is taken back by its entries;
    once the source of a move begins to go, they finish the move instead."""

    domains: Domains
    pools: Pools
    recovery: Recovery
    whole_images: WholeImages
    volumes: Volumes
    jobs: DataJobs
    locks: Locks
    layout: Layout
    step: Steps

    def transfer(
        self,
        move: model.ImageMove,
        *,
        keep: bool,
        force: bool = False,
        discard: bool = False,
        rollbacks: Rollbacks | None = None,
        watch: Watch = UNWATCHED,
    ) -> None:
        """Make the image anew on the target, volumes under their ids; without `keep` the source goes when that is done.

        The new image's top becomes legal last. What is in its place goes first when it is illegal or a fake, or with
        `force`. Raises 262 unless all volumes are legal, 265 and 223 for what is in its place, 266 for a template in
        use that would go, 268 for an image that is not there, or whose template the target lacks; a Backup domain gets
        a fake of it. Discard is 349 on files.
        """
        with self._making(move, rollbacks) as entries:
            with self._begin(move, keep=keep) as held:
                if discard and not held.source.backend.traits.supports_discard:
                    raise DiscardIsNotSupported(move.source_id)
                if not keep and find_used_template(held.source.images, move.image_id) is not None:
                    raise MoveTemplateImageError(move.image_id)
                self._recreate(held, entries, legal=False, force=force)
            with self._hold(move, keep=keep, before=held) as held:
                self._fill(held, watch)
            # Users of a template, which a fake stood for, must not change while they are linked.
            is_backup = held.target.metadata.domain_class is model.DomainClass.BACKUP
            whole = locks.domain(move.target_id, shared=not is_backup)
            with self._hold(move, whole, self._writing(move), keep=keep, before=held) as held:
                if is_backup:
                    link_users(held.target.images, move.image_id, held.layers[-1][0], self.step)
                if not keep:
                    self._remove_source(held, entries)
                self.step("done")
        log.info("%s image %s from %s to %s", "Copied" if keep else "Moved", *move.ids)

    def clone_structure(self, move: model.ImageMove, rollbacks: Rollbacks | None = None) -> None:
        """Make the image's volumes anew on the target, legal and empty, for `sync_data`. Raises as `transfer` does."""
        with self._making(move, rollbacks) as entries, self._begin(move, keep=True) as held:
            self._recreate(held, entries, legal=True, force=False)
            for volume_id, record in held.layers:
                if record.role is model.VolumeRole.SHARED:
                    made = held.target.images.read(move.image_id, volume_id)
                    held.target.images.change(move.image_id, volume_id, replace(made, role=model.VolumeRole.SHARED))
            self.step("done")
        log.info("Cloned the structure of image %s from %s to %s", *move.ids)

    def sync_data(self, move: model.ImageMove, *, inner: bool, leaf: bool, watch: Watch = UNWATCHED) -> None:
        """Copy data into volumes that `clone_structure` made: of the leaves, and of what is below them.

        Each volume is one `DataJobs.copy_data`. What was killed is done again by its caller; that is harmless.
        """
        _check(move)
        for domain_id in (move.source_id, move.target_id):
            require_writer(self.pools, move.pool_id, self.domains.get_with_images(domain_id))
        source = self.domains.get_with_images(move.source_id)
        layers = list_layers(source, move.image_id)
        wanted = [one for one in layers if (inner if one[1].role is model.VolumeRole.INTERNAL else leaf)]
        for (volume_id, _), part in zip(wanted, _share(source, move.image_id, wanted, watch), strict=True):
            ends = [
                model.VolumeRef(domain_id, move.image_id, volume_id) for domain_id in (move.source_id, move.target_id)
            ]
            self.jobs.copy_data(*ends, watch=part)

    @contextmanager
    def _making(self, move: model.ImageMove, rollbacks: Rollbacks | None) -> Iterator[Rollbacks]:
        """The entries of the block; without a task that has them, they are run when it fails."""
        _check(move)
        own = RollbacksInMemory()
        with self.locks.hold(locks.new_image(move.target_id, move.image_id)), Undo() as undo:
            undo.push(own.run, self.recovery.recover)
            yield rollbacks or own
            undo.forget()

    def _writing(self, move: model.ImageMove) -> Resource:
        return locks.writing(move.pool_id, shared=True)

    def _begin(self, move: model.ImageMove, *, keep: bool) -> AbstractContextManager[_Held]:
        source = self.domains.get_with_images(move.source_id)
        template = _find_template(source, list_layers(source, move.image_id))
        lock = [] if template is None else [locks.image(move.target_id, template[1].image_id)]
        return self._hold(move, self._writing(move), *lock, keep=keep)

    @contextmanager
    def _hold(self, move: model.ImageMove, *more: Resource, keep: bool, before: _Held | None = None) -> Iterator[_Held]:
        """Both images, which must still be as they were `before`, and both domains, which this host may write.

        They are let go between the steps: each step takes all its locks at once.
        """
        with self.locks.hold(
            locks.domain(move.source_id, shared=True),
            locks.image(move.source_id, move.image_id, shared=keep),
            locks.image(move.target_id, move.image_id),
            *(more if locks.domain(move.target_id) in more else (locks.domain(move.target_id, shared=True), *more)),
        ):
            ends = [self.domains.get_with_images(domain_id) for domain_id in (move.source_id, move.target_id)]
            source, target = [require_writer(self.pools, move.pool_id, domain) for domain in ends]
            layers = list_layers(source, move.image_id)
            for volume_id, record in layers:
                if record.legality is not model.Legality.LEGAL:
                    raise ImageIsNotLegalChain(move.image_id, f"{volume_id} is {record.legality}")
            if before is not None:
                made = [volume_id for volume_id, _ in list_layers(target, move.image_id)]
                if layers != before.layers or made != [volume_id for volume_id, _ in layers]:
                    raise ImageIsNotLegalChain(move.image_id, "it changed meanwhile")
            yield _Held(move, source, target, layers, _find_template(source, layers))

    def _recreate(self, held: _Held, rollbacks: Rollbacks, *, legal: bool, force: bool) -> None:
        requests = [checks.check_volume_request(held.make_request(*one, legal=legal)) for one in held.layers]
        self._provide_template(held, requests[0], rollbacks, made=False)
        self.whole_images.make_room(requests[0], force)
        _name_entries(held.target, held.move.image_id, held.layers[0][0], rollbacks).push_sentinel()
        self._provide_template(held, requests[0], rollbacks, made=True)
        for request in requests:
            self.volumes.create_held(request, rollbacks, on_illegal=True)

    def _provide_template(self, held: _Held, base: model.VolumeRequest, rollbacks: Rollbacks, *, made: bool) -> None:
        """See that the target has the template, or may be given a fake of it, which is then `made`."""
        if held.template is None:
            return
        (template_id, record), images = held.template, held.target.images
        if template_id in images.backend.volumes.list_records(record.image_id):
            return
        if held.target.metadata.domain_class is not model.DomainClass.BACKUP:
            raise ImageDoesNotExistInSD(record.image_id, held.move.target_id)
        if made:
            ids = (record.image_id, template_id)
            place = (base.pool_id, base.domain_id, *ids, record.capacity_bytes)
            request = model.VolumeRequest(
                *place, model.VolumeFormat.COW, model.Allocation.SPARSE, record.disk_type, legal=False
            )
            self.volumes.create_held(checks.check_volume_request(request), rollbacks)
            fake = replace(images.read(*ids), role=model.VolumeRole.SHARED, legality=model.Legality.FAKE)
            self.step("make fake")
            images.change(*ids, fake)

    def _fill(self, held: _Held, watch: Watch) -> None:
        image_id, parts = held.move.image_id, _share(held.source, held.move.image_id, held.layers, watch)
        for (volume_id, record), part in zip(held.layers, parts, strict=True):
            source = model.VolumeRef(held.move.source_id, image_id, volume_id)
            target = model.VolumeRef(held.move.target_id, image_id, volume_id)
            self.jobs.fill_volume(source, target, record.role, as_layer=True, watch=part)

    def _remove_source(self, held: _Held, rollbacks: Rollbacks) -> None:
        image_id, volumes = held.move.image_id, held.source.backend.volumes
        folder, repository = volumes.get_image_path(image_id), self.layout.repository
        entries = [_name_entries(held.source, image_id, volume_id, rollbacks) for volume_id, _ in held.layers]
        self.step("keep the copy")
        removals = [one.make_removal(repository, folder, FINISHING) for one in entries]
        rollbacks.replace_down_to_sentinel(*removals)
        self.step("set aside")
        volumes.set_aside(image_id)
        self.step("purge")
        volumes.purge(image_id)


def list_layers(domain: Domain, image_id: str) -> Chain:
    """An image's own volumes, parents before their children. Raises 268 for no such image, 262 for a broken one."""
    images = domain.images
    records = images.read_all(image_id)
    if not any(record.image_id == image_id for record in records.values()):
        raise ImageDoesNotExistInSD(image_id, domain.domain_id)
    unread = set(images.backend.volumes.list_records(image_id)) - set(records)
    if unread:
        raise ImageIsNotLegalChain(image_id, f"{', '.join(sorted(unread))} cannot be read")
    own = [volume_id for volume_id in order_chain(records) if records[volume_id].image_id == image_id]
    images.get_chain(image_id, own[-1])  # where a chain is broken, its volumes are the last
    return [(volume_id, records[volume_id]) for volume_id in own]


def _check(move: model.ImageMove) -> None:
    checks.check_real_ids(storagepoolID=move.pool_id, storagedomainID=move.source_id)
    checks.check_real_ids(dstSdUUID=move.target_id, imageID=move.image_id)
    if move.source_id == move.target_id:
        raise InvalidParameterException("dstSdUUID", "is the source's")


def _name_entries(domain: Domain, image_id: str, volume_id: str, rollbacks: Rollbacks) -> VolumeRollbacks:
    return VolumeRollbacks(rollbacks, domain.backend.traits, domain.domain_id, image_id, volume_id)


def _find_template(source: Domain, layers: Chain) -> tuple[str, model.VolumeMetadata] | None:
    base, image_id = layers[0][1], layers[0][1].image_id
    return (base.parent_id, source.images.read(image_id, base.parent_id)) if base.has_parent else None


def _share(source: Domain, image_id: str, layers: Chain, watch: Watch) -> list[Watch]:
    """A watch for the work on each layer, whose progress counts by what the layer takes up."""
    sizes = [source.backend.data.get_size(image_id, volume_id).allocated_bytes + 1 for volume_id, _ in layers]

    def report(before: int, size_bytes: int, percent: float) -> None:
        watch.report_progress((100 * before + percent * size_bytes) / sum(sizes))

    return [Unwatched(partial(report, sum(sizes[:number]), size), watch.stopping) for number, size in enumerate(sizes)]
