"""One operation on a volume's data, by whichever host: what it locks, counts and checks first (facts: storage §10.1).

What the operation does is left to `jobs` and `merge`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from vdsm.storage import checks, locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import ImageIsNotLegalChain, SharedVolumeNonWritable, VolumeAccessError, qemu_failing_as
from vdsm.storage.errors_jobs import GenerationMismatch
from vdsm.storage.images.trust import find_foreign_name
from vdsm.storage.images.volume_metadata import MAXIMUM_GENERATION
from vdsm.storage.model import Legality, VolumeFormat, VolumeMetadata, VolumeRef
from vdsm.storage.ports import Bitmap, Layer, QemuImg, Steps

Chain = list[tuple[str, VolumeMetadata]]


class Operations(Struct, eq=False):
    """Begins and ends operations. They need no SPM: a volume's lease and generation order those of all hosts."""

    _domains: Domains
    _locks: locks.Locks
    _qemu_img: QemuImg
    _step: Steps

    @contextmanager
    def hold(self, target: VolumeRef, *others: locks.Resource) -> Iterator[Domain]:
        """Hold the target's domain shared and its image alone, and the others; gives the domain.

        The target's volume lease (facts: storage §6.3) comes after all locks of this process, as the order of
        namespaces wants it (§1.10): another host that works on the volume is AcquireLockFailure (651).
        """
        with self.hold_all([target], *others) as [domain]:
            yield domain

    @contextmanager
    def hold_all(self, targets: Sequence[VolumeRef], *others: locks.Resource) -> Iterator[list[Domain]]:
        """`hold` for volumes of several images."""
        for target in targets:
            checks.check_real_ids(sd_id=target.domain_id, img_id=target.image_id, vol_id=target.volume_id)
        own = {locks.domain(target.domain_id, shared=True) for target in targets}
        images = (locks.image(target.domain_id, target.image_id) for target in targets)
        with self._locks.hold(*own, *images, *others), ExitStack() as leases:
            yield [leases.enter_context(self.lease(target)) for target in targets]

    @contextmanager
    def lease(self, target: VolumeRef) -> Iterator[Domain]:
        """`hold` for who has the locks already."""
        domain = self._domains.get_with_images(target.domain_id)
        with domain.backend.volumes.hold_lease(target.image_id, target.volume_id):
            yield domain

    @contextmanager
    def reading(self, source: VolumeRef) -> Iterator[tuple[Domain, VolumeMetadata]]:
        """A volume's domain and record, while this host changes neither it nor its image.

        Raises what `open_chain` does, and GenerationMismatch (911).
        """
        checks.check_real_ids(sd_id=source.domain_id, img_id=source.image_id, vol_id=source.volume_id)
        image = locks.image(source.domain_id, source.image_id, shared=True)
        with self._locks.hold(locks.domain(source.domain_id, shared=True), image):
            domain = self._domains.get_with_images(source.domain_id)
            record = self.open_chain(domain, source.image_id, source.volume_id)[0][1]
            check_generation(source, record)
            yield domain, record

    @contextmanager
    def count(self, domain: Domain, target: VolumeRef, *, illegal: bool = False) -> Iterator[VolumeMetadata]:
        """The block is one operation on the target: afterwards its generation is one higher (facts: storage §6.7).

        With `illegal`, the target is so while the block runs, and legal afterwards, in the write that counts. When the
        block fails, or the process ends in it, all stays: the generation tells that the operation did not end.
        """
        record = self.read(domain, target)
        if illegal and record.legality is not Legality.ILLEGAL:
            self._step("make illegal")
            domain.images.change(target.image_id, target.volume_id, replace(record, legality=Legality.ILLEGAL))
        yield record
        self._step("count generation")
        record = domain.images.read(target.image_id, target.volume_id)
        legality = Legality.LEGAL if illegal else record.legality
        generation = get_next_generation(record.generation)
        changed = replace(record, generation=generation, legality=legality)
        domain.images.change(target.image_id, target.volume_id, changed)
        self._step("done")

    def read(self, domain: Domain, target: VolumeRef) -> VolumeMetadata:
        """The record of a volume of the image's own; GenerationMismatch (911), SharedVolumeNonWritable (219)."""
        record = domain.images.read(target.image_id, target.volume_id)
        check_generation(target, record)
        if record.image_id != target.image_id:
            raise SharedVolumeNonWritable(target.volume_id)
        return record

    def open_chain(
        self, domain: Domain, image_id: str, volume_id: str, *, allow_illegal: bool = False, fakes: bool = False
    ) -> Chain:
        """A volume and all below it, top first, ready for qemu: none leads it out of the chain.

        With `fakes` the data of templates is not going to be read. Raises what `Images.get_usable_chain` raises,
        ImageIsNotLegalChain (262) for a header that does not fit.
        """
        chain = domain.images.get_usable_chain(image_id, volume_id, allow_illegal=allow_illegal)
        parents = [record for _, record in chain[1:]]
        for (chained_id, record), parent in zip(chain, [*parents, None], strict=True):
            if record.legality is Legality.FAKE and not fakes:
                raise ImageIsNotLegalChain(image_id, f"{chained_id} is a fake")
            domain.backend.data.get_size(image_id, chained_id)  # it is there, and no link
            if record.format is VolumeFormat.RAW:
                continue  # it is opened as raw, whatever a guest wrote into its beginning
            path = domain.backend.data.get_path(image_id, chained_id)
            with qemu_failing_as(partial(VolumeAccessError, chained_id)):
                fault = find_foreign_name(self._qemu_img.inspect(path), record, parent)
            if fault is not None:
                raise ImageIsNotLegalChain(image_id, f"{chained_id}: {fault}")
        return chain


def check_generation(volume: VolumeRef, record: VolumeMetadata) -> None:
    """Raises GenerationMismatch (911) when the caller saw another one."""
    if volume.generation is not None and volume.generation != record.generation:
        raise GenerationMismatch(volume.generation, record.generation)


def get_next_generation(generation: int) -> int:
    """The generation after one more operation; it wraps (facts: storage §1.8)."""
    return (generation + 1) % (MAXIMUM_GENERATION + 1)


def get_layer(domain: Domain, image_id: str, volume_id: str, record: VolumeMetadata) -> Layer:
    """The volume's file as qemu is to open it; VolumeAccessError (209) for one that is not there, or a link."""
    domain.backend.data.get_size(image_id, volume_id)
    return Layer(domain.backend.data.get_path(image_id, volume_id), record.format.qemu)


def list_bitmaps(qemu_img: QemuImg, layer: Layer) -> tuple[Bitmap, ...]:
    """The bitmaps of one volume, none of a raw one. Raises VolumeAccessError (209)."""
    if layer.format == VolumeFormat.RAW.qemu:
        return ()
    with qemu_failing_as(partial(VolumeAccessError, layer.path.name)):
        return qemu_img.info(layer.path, layer.format).bitmaps
