"""Jobs and merges on real files: after each, the images are whole and read block for block as they must."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.contract.blocks import BLOCK, make, read, write
from vdsm.adapters import run as door
from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.storage.errors import (
    CopyImageError,
    ImageIsNotLegalChain,
    ImageVerificationError,
    InvalidParameterException,
    VolumeAccessError,
    VolumeDoesNotExist,
)
from vdsm.storage.model import (
    Allocation,
    DomainClass,
    Legality,
    Subchain,
    VolumeFormat,
    VolumeRef,
    VolumeRequest,
    VolumeRole,
    VolumeStatus,
)
from vdsm.storage.ports import Layer, Unwatched
from vdsm.testing.storage import World, make_id, make_world_on_disk

QEMU_IMG = QemuImgCommand()
RAW, COW, SPARSE, FULL = VolumeFormat.RAW, VolumeFormat.COW, Allocation.SPARSE, Allocation.PREALLOCATED
WORDS = ("abcdefgh", ".B.D....", "..CC..G.")
BLOCKS = len(WORDS[0])
SIZE = BLOCKS * BLOCK


@pytest.fixture
def spm(tmp_path: Path) -> World:
    return make_world_on_disk(tmp_path, QEMU_IMG, OwnOwner()).start_spm()


def get_layer(world: World, volume: VolumeRequest) -> Layer:
    return Layer(world.get_path(volume), volume.format.qemu)


def make_chain(world: World, format: VolumeFormat, depth: int, words: tuple[str, ...] = WORDS) -> list[VolumeRequest]:
    """Volumes in one image, base first, each with its word written into it."""
    chain: list[VolumeRequest] = []
    for word in words[:depth]:
        if chain:
            request = world.request(chain[0].image_id, parent_id=chain[-1].volume_id, capacity_bytes=SIZE)
        else:
            request = world.request(format=format, capacity_bytes=SIZE)
        chain.append(world.create(request))
        write(get_layer(world, chain[-1]), word)
    return chain


def overlay(*words: str) -> str:
    """What layers read as, base first."""
    return "".join(
        next((letter for letter in column if letter != "."), ".") for column in zip(*words[::-1], strict=True)
    )


def ref(world: World, volume: VolumeRequest, generation: int | None = None) -> VolumeRef:
    return VolumeRef(world.domain_id, volume.image_id, volume.volume_id, generation)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("source_format", [RAW, COW])
@pytest.mark.parametrize(("format", "allocation"), list(itertools.product((RAW, COW), (SPARSE, FULL))))
def test_a_chain_becomes_one_volume(
    spm: World, depth: int, source_format: VolumeFormat, format: VolumeFormat, allocation: Allocation
) -> None:
    chain = make_chain(spm, source_format, depth)
    before = [spm.get_path(volume).read_bytes() for volume in chain]
    target = spm.create_base(format=format, allocation=allocation, capacity_bytes=SIZE)
    write(get_layer(spm, target), "xxxxxxxx")  # what an earlier, killed copy left
    for generation in (0, 1):
        spm.repository.jobs.copy_data(ref(spm, chain[-1]), ref(spm, target, generation))
        assert read(get_layer(spm, target)) == overlay(*WORDS[:depth])
    record = spm.get_record(target)
    assert (record.generation, record.legality, record.capacity_bytes) == (2, Legality.LEGAL, SIZE)
    assert [spm.get_path(volume).read_bytes() for volume in chain] == before
    assert QEMU_IMG.inspect(spm.get_path(target)).backing_file is None
    assert (spm.get_path(target).stat().st_blocks * 512 >= SIZE) is (
        allocation is FULL or overlay(*WORDS[:depth]).count(".") == 0
    )


@pytest.mark.parametrize("format", [RAW, COW])
def test_layers_are_copied_one_by_one(spm: World, format: VolumeFormat) -> None:
    """As a disk with its snapshots moves: the same chain elsewhere, layer by layer, bitmaps too."""
    chain = make_chain(spm, format, 3)
    spm.repository.jobs.add_bitmap(ref(spm, chain[-1]), "11111111-0000-4000-8000-000000000000")
    copies = make_chain(spm, format, 3, words=("........",) * 3)
    for source, target in zip(chain, copies, strict=True):
        bitmaps = source is chain[-1]
        spm.repository.jobs.copy_data(ref(spm, source), ref(spm, target, 0), copy_bitmaps=bitmaps)
    for depth, target in enumerate(copies, start=1):
        assert read(get_layer(spm, target)) == overlay(*WORDS[:depth])
    sources, targets = (QEMU_IMG.info(spm.get_path(c[-1]), "qcow2").bitmaps for c in (chain, copies))
    assert sources == targets != ()
    assert [QEMU_IMG.inspect(spm.get_path(one)).backing_file for one in copies] == [
        None,
        copies[0].volume_id,
        copies[1].volume_id,
    ]


@pytest.mark.parametrize("format", [RAW, COW])
def test_a_layer_that_is_copied_again_is_the_sources_alone(spm: World, format: VolumeFormat) -> None:
    base, top = make_chain(spm, format, 2)
    spm.repository.jobs.add_bitmap(ref(spm, top), "11111111-0000-4000-8000-000000000000")
    _, target = make_chain(spm, format, 2, words=(WORDS[0], "xxxxxxxx"))  # what an earlier, killed copy left
    for _ in range(2):
        spm.repository.jobs.copy_data(ref(spm, top), ref(spm, target), copy_bitmaps=True)
        assert read(get_layer(spm, target)) == overlay(*WORDS[:2])


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_volume_is_not_copied_onto_itself_or_what_it_reads(spm: World, depth: int) -> None:
    chain = make_chain(spm, COW, 3)
    before = [spm.get_path(volume).read_bytes() for volume in chain]
    with pytest.raises(InvalidParameterException):
        spm.repository.jobs.copy_data(ref(spm, chain[-1]), ref(spm, chain[depth]))
    assert [spm.get_path(volume).read_bytes() for volume in chain] == before
    assert spm.get_record(chain[depth]).legality is Legality.LEGAL


@pytest.mark.parametrize("format", [RAW, COW])
def test_a_volume_is_not_imported_from_its_own_file(spm: World, tmp_path: Path, format: VolumeFormat) -> None:
    volume, link = make_chain(spm, format, 1)[0], tmp_path / "link"
    link.symlink_to(spm.get_path(volume))
    before = spm.get_path(volume).read_bytes()
    with pytest.raises(InvalidParameterException):
        spm.repository.jobs.import_file(Layer(link, format.qemu), ref(spm, volume))
    assert spm.get_path(volume).read_bytes() == before


@pytest.mark.parametrize("format", [RAW, COW])
def test_a_target_that_leads_elsewhere_is_not_written(spm: World, tmp_path: Path, format: VolumeFormat) -> None:
    source, target = spm.create_base(capacity_bytes=SIZE), spm.create_base(format=format, capacity_bytes=SIZE)
    other, path = tmp_path / "other", spm.get_path(target)
    other.write_bytes(b"precious")
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(VolumeAccessError):
        spm.repository.jobs.copy_data(ref(spm, source), ref(spm, target))
    assert other.read_bytes() == b"precious"
    assert spm.get_record(target).legality is Legality.LEGAL


@pytest.mark.parametrize("format", [RAW, COW])
def test_a_smaller_source_leaves_the_target_as_large_as_it_is(spm: World, format: VolumeFormat) -> None:
    source = make_chain(spm, RAW, 1)[0]
    target = spm.create_base(format=format, capacity_bytes=2 * SIZE)
    spm.repository.jobs.copy_data(ref(spm, source), ref(spm, target))
    assert read(get_layer(spm, target)) == WORDS[0] + "." * BLOCKS
    assert spm.get_record(target).capacity_bytes == 2 * SIZE


@pytest.mark.parametrize("is_used", [False, True])
def test_a_smaller_source_leaves_nothing_of_an_earlier_one(spm: World, is_used: bool) -> None:
    source = make_chain(spm, RAW, 1)[0]
    target = spm.create_base(format=RAW, allocation=FULL, capacity_bytes=2 * SIZE)
    if is_used:
        write(get_layer(spm, target), "x" * 2 * BLOCKS)
    spm.repository.jobs.copy_data(ref(spm, source), ref(spm, target))
    assert read(get_layer(spm, target)) == WORDS[0] + "." * BLOCKS
    assert spm.get_path(target).stat().st_blocks * 512 >= 2 * SIZE


def test_from_one_domain_to_another(spm: World, tmp_path: Path) -> None:
    other = replace(spm, server=str(tmp_path / "server_2"), domain_id=make_id())
    (tmp_path / "server_2").mkdir()
    other.create_domain()
    spm.repository.members.attach(spm.pool_id, other.domain_id)
    spm.repository.members.activate(spm.pool_id, other.domain_id)
    source = make_chain(spm, COW, 2)[-1]
    target = other.create(other.request(source.image_id, source.volume_id, capacity_bytes=SIZE))
    spm.repository.jobs.copy_data(ref(spm, source), ref(other, target))
    assert read(get_layer(other, target)) == overlay(*WORDS[:2])


def test_a_template_on_a_backup_domain_comes_and_goes(spm: World, tmp_path: Path) -> None:
    backup = replace(spm, server=str(tmp_path / "server_2"), domain_id=make_id())
    (tmp_path / "server_2").mkdir()
    backup.create_domain(domain_class=DomainClass.BACKUP)
    spm.repository.members.attach(spm.pool_id, backup.domain_id)
    spm.repository.members.activate(spm.pool_id, backup.domain_id)
    chain, target, images = make_chain(spm, RAW, 3), backup.request(), spm.repository.whole_images
    images.copy(ref(spm, chain[-1]), target, VolumeRole.SHARED, False)
    layer = backup.request(parent_id=target.volume_id, parent_image_id=target.image_id, capacity_bytes=SIZE)
    user, path = backup.create(layer), backup.get_path(target)
    own, linked = path.stat().st_ino, backup.get_path(user).with_name(path.name)
    assert linked.stat().st_ino == own
    ids = (spm.pool_id, backup.domain_id, target.image_id)
    images.finish(*ids, images.set_aside(*ids))
    assert backup.get_record(target).legality is Legality.FAKE
    with pytest.raises(ImageIsNotLegalChain):
        images.copy(ref(backup, user), spm.request(), VolumeRole.LEAF, False)
    images.copy(ref(spm, chain[-1]), target, VolumeRole.SHARED, False)
    for suffix in ("", ".meta"):
        assert Path(f"{path}{suffix}").samefile(f"{linked}{suffix}")
    assert (backup.get_record(target).legality, path.stat().st_nlink) == (Legality.LEGAL, 2)
    assert read(get_layer(backup, user)) == overlay(*WORDS)


@pytest.mark.parametrize(("format", "allocation"), list(itertools.product((RAW, COW), (SPARSE, FULL))))
def test_a_template_is_made_of_a_chain(
    spm: World, tmp_path: Path, format: VolumeFormat, allocation: Allocation
) -> None:
    other = replace(spm, server=str(tmp_path / "server_2"), domain_id=make_id())
    (tmp_path / "server_2").mkdir()
    other.create_domain()
    spm.repository.members.attach(spm.pool_id, other.domain_id)
    spm.repository.members.activate(spm.pool_id, other.domain_id)
    chain = make_chain(spm, RAW, 3)
    before = [spm.get_path(volume).read_bytes() for volume in chain]
    for world in (spm, other):
        target = world.request(format=format, allocation=allocation)
        spm.repository.whole_images.copy(ref(spm, chain[-1]), target, VolumeRole.SHARED, False)
        assert read(get_layer(world, target)) == overlay(*WORDS)
        record = world.get_record(target)
        assert (record.role, record.legality, record.capacity_bytes) == (VolumeRole.SHARED, Legality.LEGAL, SIZE)
        assert world.get_path(target).stat().st_blocks * 512 >= (SIZE if allocation is FULL else 0)
    assert [spm.get_path(volume).read_bytes() for volume in chain] == before


@pytest.mark.parametrize("allocation", [SPARSE, FULL])
def test_a_raw_volume_becomes_larger(spm: World, allocation: Allocation) -> None:
    made = spm.create_base(format=RAW, allocation=allocation, capacity_bytes=SIZE)
    write(get_layer(spm, made), WORDS[0])
    spm.repository.volumes.extend(spm.pool_id, ref(spm, made), 2 * SIZE)
    assert read(get_layer(spm, made)) == WORDS[0] + "." * BLOCKS
    status = spm.get_path(made).stat()
    assert spm.get_record(made).capacity_bytes == status.st_size == 2 * SIZE
    assert (status.st_blocks * 512 >= 2 * SIZE - 4096) is (allocation is FULL)


def test_a_copy_that_is_stopped_leaves_its_source_and_an_illegal_target(spm: World) -> None:
    source = make_chain(spm, RAW, 1, words=("a" * BLOCKS,))[0]
    target = spm.create_base(capacity_bytes=SIZE)
    before, stopping = spm.get_path(source).read_bytes(), threading.Event()
    watch = Unwatched(lambda _: stopping.set(), stopping)
    with pytest.raises(CopyImageError):
        spm.repository.jobs.copy_data(ref(spm, source), ref(spm, target), watch=watch)
    record = spm.get_record(target)
    assert (record.generation, record.legality) == (0, Legality.ILLEGAL)
    assert spm.get_path(source).read_bytes() == before
    spm.repository.jobs.copy_data(ref(spm, source), ref(spm, target))
    assert read(get_layer(spm, target)) == "a" * BLOCKS


def test_copies_of_one_volume_go_on_side_by_side(spm: World) -> None:
    source = make_chain(spm, RAW, 1)[0]
    targets = [spm.create_base(capacity_bytes=SIZE) for _ in range(3)]
    with ThreadPoolExecutor() as threads:
        copies = [threads.submit(spm.repository.jobs.copy_data, ref(spm, source), ref(spm, one)) for one in targets]
        assert [copy.result(60) for copy in copies] == [None] * 3
    assert {read(get_layer(spm, target)) for target in targets} == {WORDS[0]}


def test_data_that_leads_elsewhere_is_not_followed(spm: World, tmp_path: Path) -> None:
    secret = make(tmp_path / "secret", "raw", "secretxx")
    source, target = spm.create_base(capacity_bytes=SIZE), spm.create_base(capacity_bytes=SIZE)
    QEMU_IMG.rebase(spm.get_path(source), str(secret.path), "raw")
    with pytest.raises(ImageIsNotLegalChain):
        spm.repository.jobs.copy_data(ref(spm, source), ref(spm, target))
    assert read(get_layer(spm, target)) == "." * BLOCKS


@pytest.mark.parametrize("version", [4, 5])
def test_a_format_is_amended(tmp_path: Path, version: int) -> None:
    world = make_world_on_disk(tmp_path, QEMU_IMG, OwnOwner()).start_spm(version)
    chain = make_chain(world, COW, 2)
    for generation, compat in enumerate(("0.10", "1.1")):
        world.repository.jobs.amend_volume(ref(world, chain[-1], generation), compat)
        assert QEMU_IMG.inspect(world.get_path(chain[-1])).compat == compat
        assert read(get_layer(world, chain[-1])) == overlay(*WORDS[:2])


def test_bitmaps_come_and_go(spm: World) -> None:
    layer = make_chain(spm, RAW, 2)[-1]
    names = [make_id(), make_id(), make_id()]
    for generation, name in enumerate(names):
        spm.repository.jobs.add_bitmap(ref(spm, layer, generation), name)
    spm.repository.jobs.remove_bitmap(ref(spm, layer, 3), names[1])
    assert [one.name for one in QEMU_IMG.info(spm.get_path(layer), "qcow2").bitmaps] == [names[0], names[2]]
    spm.repository.jobs.clear_bitmaps(ref(spm, layer, 4))
    assert QEMU_IMG.info(spm.get_path(layer), "qcow2").bitmaps == ()
    assert read(get_layer(spm, layer)) == overlay(*WORDS[:2])


# Looking at data.


def test_a_chain_is_measured_as_it_is_copied(spm: World) -> None:
    chain = make_chain(spm, RAW, 3)
    ids = (spm.domain_id, chain[-1].image_id, chain[-1].volume_id)
    measure = spm.repository.inspection.measure
    whole, alone = measure(*ids, COW), measure(*ids, COW, backing_chain=False)
    pair = measure(*ids, COW, base_id=chain[1].volume_id)
    letters = [sum(letter != "." for letter in overlay(*words)) for words in (WORDS, WORDS[2:], WORDS[1:])]
    assert (whole.required_bytes - alone.required_bytes) == (letters[0] - letters[1]) * BLOCK
    assert (pair.required_bytes - alone.required_bytes) == (letters[2] - letters[1]) * BLOCK
    assert measure(*ids, RAW).full_bytes == SIZE
    target = spm.create_base(capacity_bytes=SIZE)
    spm.repository.jobs.copy_data(ref(spm, chain[-1]), ref(spm, target))
    assert spm.get_path(target).stat().st_size <= whole.required_bytes


def test_good_data_passes(spm: World) -> None:
    for volume in (*make_chain(spm, RAW, 3), *make_chain(spm, COW, 2)):
        spm.repository.inspection.verify(spm.domain_id, volume.image_id, volume.volume_id)
        spm.repository.inspection.get_image_info(spm.domain_id, volume.image_id, volume.volume_id)


@pytest.mark.parametrize("format", ["vmdk", "vdi", "vpc", "vhdx", "qed", "parallels", "qcow2"])
def test_other_formats_in_a_raw_volume_are_refused(spm: World, format: str) -> None:
    volume = spm.create_base(format=RAW, capacity_bytes=64 << 20)
    path = spm.get_path(volume)
    door.run(["qemu-img", "create", "-q", "-f", format, path, "1M"], timeout_s=60)
    with pytest.raises(ImageVerificationError):
        spm.repository.inspection.verify(spm.domain_id, volume.image_id, volume.volume_id)


@pytest.mark.parametrize(
    "options",
    [
        "backing_file=/etc/passwd,backing_fmt=raw",
        "backing_file=json:{},backing_fmt=raw",
        "data_file=FOLDER/outside,data_file_raw=on",
        "compat=1.1,size=1P",
    ],
)
def test_hostile_data_is_refused_and_not_followed(spm: World, tmp_path: Path, options: str) -> None:
    """What a header names is a pipe here: whoever opened it would wait for ever."""
    volume = spm.create_base(capacity_bytes=SIZE)
    path, outside = spm.get_path(volume), tmp_path / "outside"
    words = ["create", "-q", "-f", "qcow2", "-u", "-o", options.replace("FOLDER", str(tmp_path)), path]
    door.run(["qemu-img", *words, *(() if "size" in options else ("1M",))], timeout_s=60)
    outside.unlink(missing_ok=True)
    os.mkfifo(outside)
    ids = (spm.domain_id, volume.image_id, volume.volume_id)
    with pytest.raises(ImageVerificationError):
        spm.repository.inspection.verify(*ids)
    target = spm.create_base(capacity_bytes=SIZE)
    if "size" not in options:
        with pytest.raises(ImageIsNotLegalChain):
            spm.repository.jobs.copy_data(ref(spm, volume), ref(spm, target))
        with pytest.raises(ImageIsNotLegalChain):
            spm.repository.inspection.measure(*ids, RAW)


def test_a_header_that_asks_for_too_much_is_refused_in_time(spm: World) -> None:
    volume = spm.create_base(capacity_bytes=SIZE)
    path = spm.get_path(volume)
    for at, data in ((36, b"\x7f\xff\xff\xff"), (56, b"\x7f\xff\xff\xff"), (60, b"\x7f\xff\xff\xff")):
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + data + whole[at + len(data) :])
        with pytest.raises(ImageVerificationError):
            spm.repository.inspection.verify(spm.domain_id, volume.image_id, volume.volume_id)
        path.write_bytes(whole)
    spm.repository.inspection.verify(spm.domain_id, volume.image_id, volume.volume_id)


# Merges.


@pytest.mark.parametrize("format", [RAW, COW])
@pytest.mark.parametrize("allocation", [SPARSE, FULL])
@pytest.mark.parametrize(("depth", "at"), [(2, 1), (3, 1), (3, 2)])
def test_a_cold_merge_from_its_start_to_its_end(
    spm: World, format: VolumeFormat, allocation: Allocation, depth: int, at: int
) -> None:
    """Layer `at` goes into the one below; the base is smaller than what is above it."""
    small = spm.create_base(format=format, allocation=allocation, capacity_bytes=SIZE // 2)
    chain, words = [small], [WORDS[0][: BLOCKS // 2] + "." * (BLOCKS // 2), *WORDS[1:depth]]
    write(get_layer(spm, small), words[0])
    for word in words[1:]:
        parent = chain[-1]
        chain.append(spm.create(spm.request(parent.image_id, parent_id=parent.volume_id, capacity_bytes=SIZE)))
        write(get_layer(spm, chain[-1]), word)
    top, base = chain[at], chain[at - 1]
    bitmap = make_id()
    spm.repository.jobs.add_bitmap(ref(spm, top), bitmap)
    subchain = Subchain(spm.domain_id, base.image_id, top.volume_id, base.volume_id, 0)
    merges = spm.repository.merges
    merges.prepare(spm.pool_id, subchain)
    assert read(get_layer(spm, chain[-1])) == overlay(*words)
    merges.merge(subchain, merge_bitmaps=True)
    for layer, below in ((top, words[: at + 1]), (base, words[: at + 1]), (chain[-1], words)):
        assert read(get_layer(spm, layer)) == overlay(*below)
    merges.finalize(spm.pool_id, subchain)
    spm.delete(top.image_id, top.volume_id)
    left = [volume for volume in chain if volume is not top]
    assert read(get_layer(spm, left[-1])) == overlay(*words)
    assert spm.get_record(base).capacity_bytes == SIZE
    assert spm.get_record(left[-1]).role is VolumeRole.LEAF
    if base.format is COW:
        assert [one.name for one in QEMU_IMG.info(spm.get_path(base), "qcow2").bitmaps] == [bitmap]
    ids = (spm.pool_id, spm.domain_id, base.image_id, left[-1].volume_id)
    spm.repository.images.prepare(*ids)
    assert spm.repository.corrections.reconcile(*ids) == [volume.volume_id for volume in left]


def test_what_a_live_merge_left_is_put_right(spm: World) -> None:
    """qemu wrote into the base and let the leaf name it; the daemon was killed before it could tell the records."""
    chain = make_chain(spm, RAW, 3)
    layers = [get_layer(spm, volume) for volume in chain]
    QEMU_IMG.commit(layers[1], chain[0].volume_id, Unwatched())
    QEMU_IMG.rebase(layers[2].path, chain[0].volume_id, "raw")
    ids = (spm.pool_id, spm.domain_id, chain[0].image_id, chain[2].volume_id)
    assert spm.repository.corrections.reconcile(*ids) == [chain[0].volume_id, chain[2].volume_id]
    spm.delete(chain[1].image_id, chain[1].volume_id)
    spm.repository.images.prepare(*ids)
    assert read(layers[2]) == overlay(*WORDS)


def test_records_follow_what_a_vm_makes_of_its_chain(spm: World) -> None:
    """Without the SPM; and whatever was told already may be told again."""
    chain = make_chain(spm, COW, 4, (*WORDS, "D......."))
    ids = [volume.volume_id for volume in chain]
    live, leaf = spm.repository.live_chains, ref(spm, chain[3], None)
    for _ in range(2):
        live.sync(leaf, [ids[3], ids[1], ids[0]])
        assert spm.get_record(chain[3]).parent_id == ids[1]
        assert spm.get_record(chain[3]).legality is Legality.LEGAL
    for real, legality in (([ids[1], ids[0]], Legality.ILLEGAL), ([ids[3], ids[1], ids[0]], Legality.LEGAL)):
        live.sync(leaf, real)
        assert spm.get_record(chain[3]).legality is legality
    live.set_capacity(ref(spm, chain[1], None), 2 * SIZE)
    assert spm.get_record(chain[1]).capacity_bytes == 2 * SIZE
    with pytest.raises(VolumeDoesNotExist):
        live.sync(ref(spm, replace(chain[3], volume_id=make_id()), None), [ids[0]])
    assert spm.get_record(chain[2]).parent_id == ids[1]


def test_a_volume_that_is_a_link_is_never_opened(spm: World, tmp_path: Path) -> None:
    """Who can write to the storage puts a link to a file of this host in a raw volume's place."""
    source, target = spm.create_base(format=RAW), spm.create_base(format=RAW)
    path, secret = spm.get_path(source), tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(VolumeAccessError, match="a link"):
        spm.repository.jobs.copy_data(ref(spm, source, 0), ref(spm, target, 0))
    assert b"secret" not in spm.get_path(target).read_bytes()
    ids = (spm.domain_id, source.image_id, source.volume_id)
    with pytest.raises(VolumeAccessError, match="it is a link"):
        spm.repository.inspection.get_image_info(*ids)
    assert spm.repository.volumes.get_info(*ids).status is VolumeStatus.INVALID
