"""What lies on storage may be anything: errors have names, nothing hangs, nothing is written outside of the domain."""

import contextlib
import os
import random
import subprocess
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.fuzzing import fuzz, writing_only_in
from tests.rounds import SOAK_FACTOR
from vdsm.adapters import qcow2
from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage import domain, metadata, naming, recovery
from vdsm.storage.images import chain, image, trust, volume_metadata
from vdsm.storage.leases import xleases
from vdsm.storage.mail import exchange, mailbox
from vdsm.storage.model import Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeRef, VolumeRole
from vdsm.storage.pools import correction, pool
from vdsm.storage.ports import Lockspace
from vdsm.tasks import format, journal
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.storage import FixedClock, World, make_id, make_world_on_disk

NUMBER = random.randrange(1 << 32) if SOAK_FACTOR else 0
"""The same inputs every time in quick runs; others in soak."""
Rounds = Callable[[int, int], int]
MIB = 1 << 20


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "world").mkdir()
    world = make_world_on_disk(tmp_path / "world", QemuImgCommand(), OwnOwner()).start_spm()
    yield world
    world.repository.spm.stop(world.pool_id)


def attempt(*calls: Callable[[], object]) -> None:
    """Each may fail, by name."""
    for call in calls:
        with contextlib.suppress(NodeError):
            call()


def test_metadata_of_domains(tmp_path: Path, rounds: Rounds) -> None:
    (tmp_path / "world").mkdir()
    world = make_world_on_disk(tmp_path / "world", QemuImgCommand(), OwnOwner())
    world.create_pool()
    repository, ids = world.repository, (world.pool_id, 1, world.domain_id, 1)
    file = Path(world.server) / world.domain_id / "dom_md/metadata"
    whole = file.read_bytes()
    unsigned = b"".join(line for line in whole.splitlines(keepends=True) if b"CKSUM" not in line)

    def target(data: bytes) -> None:
        file.write_bytes(data)
        attempt(
            lambda: repository.domains.get(world.domain_id),
            lambda: repository.domains.validate(world.domain_id),
            lambda: repository.domains.list_domains(pool_id=world.pool_id),
            lambda: repository.domains.update(world.domain_id, {"DESCRIPTION": "other"}),
            lambda: repository.pools.connect(*ids),
            lambda: repository.pools.disconnect(world.pool_id),
        )

    under, words = (metadata, domain, pool), (world.pool_id.encode(), b"=", b":", b",", b"Active", b"\r", b"Master")
    with writing_only_in(tmp_path / "world"):
        fuzz(target, [whole, unsigned], under=under, count=rounds(60, 5_000), words=words, number=NUMBER)
    file.write_bytes(whole)
    repository.pools.connect(*ids)


def test_records_of_volumes(spm: World, tmp_path: Path, rounds: Rounds) -> None:
    repository, base = spm.repository, spm.create_base()
    layer = spm.create_layer(base)
    ids = (spm.domain_id, layer.image_id, layer.volume_id)
    path = spm.get_path(layer)
    file, data_file = path.with_name(f"{path.name}.meta"), path.read_bytes()
    whole = file.read_bytes()

    def target(data: bytes) -> None:
        file.write_bytes(data)
        attempt(
            lambda: repository.volumes.get_info(*ids),
            lambda: repository.images.list_volumes(*ids[:2]),
            lambda: repository.inventory.dump(spm.domain_id),
            lambda: repository.images.prepare(spm.pool_id, *ids),
            lambda: repository.images.teardown(*ids[:2]),
            lambda: repository.corrections.reconcile(spm.pool_id, *ids),
            lambda: repository.corrections.change(spm.pool_id, VolumeRef(*ids), description="other"),
            lambda: repository.recovery.sweep(spm.domain_id),
        )
        assert path.read_bytes() == data_file  # whatever its record says

    under = (volume_metadata, chain, image, correction, recovery)
    words = (base.volume_id.encode(), layer.volume_id.encode(), b"../", b"=", b"SHARED", b"FAKE", b"ILLEGAL", b"NONE")
    with writing_only_in(tmp_path / "world"):
        fuzz(target, [whole], under=under, count=rounds(40, 5_000), words=words, number=NUMBER)
    file.write_bytes(whole)
    repository.images.prepare(spm.pool_id, *ids)


def test_mailboxes(rounds: Rounds) -> None:
    """Both ends read whatever lies there; a checksum that fits gets further."""
    ids = [str(uuid.UUID(int=number)) for number in (1, 2)]
    request = mailbox.format_extension(mailbox.Extension(*ids, 5120))
    box = mailbox.format_mailbox([request, *[mailbox.EMPTY] * 61, request])
    seeds = [mailbox.format_event(uuid.UUID(int=7)) + box, bytes(4096) + box[:-4] + b"\0\0\0\0", b"\0" * 12288]

    def target(data: bytes) -> None:
        event, inbox = data[: mailbox.MAILBOX_BYTES], data[mailbox.MAILBOX_BYTES :][: mailbox.MAILBOX_BYTES]
        signed = inbox[:-4].ljust(4092, b"\0")
        for one in (inbox, signed + mailbox.compute_checksum(signed).to_bytes(4, "little")):
            mailbox.parse_event(event)
            end, host = exchange.SpmEnd(2), exchange.HostEnd(event)
            host.put(request)
            for letter in end.scan(event.ljust(4096, b"\0") + one):
                with contextlib.suppress(ValueError):  # told in the log, and answered
                    if mailbox.get_code(letter.message) == mailbox.EXTEND:
                        mailbox.parse_extension(letter.message)
                end.answer(letter, letter.message)
            while (unsent := end.get_unsent()) is not None:
                assert len(unsent[1]) == mailbox.MAILBOX_BYTES
                end.mark_sent(*unsent)
            assert set(host.hear(one)) <= {request}
            assert mailbox.has_checksum(host.mailbox)

    words = (request, request[:37], mailbox.CLEAN, mailbox.EMPTY, b"1xtnd", b"\0evt", b"0" * 16)
    fuzz(target, seeds, under=(mailbox, exchange), count=rounds(300, 100_000), words=words, number=NUMBER)


def test_indexes_of_external_leases(tmp_path: Path, rounds: Rounds) -> None:
    """A rebuild makes any index whole."""
    path, domain_id, lease_ids = tmp_path / "xleases", make_id(), [make_id() for _ in range(3)]
    path.touch()
    leases = LeasesInMemory(writes_files=True)
    volume = xleases.LeaseVolume(path, Lockspace(domain_id, path, 512, MIB), leases, FixedClock())
    volume.format()
    for lease_id in lease_ids:
        volume.add(lease_id)
    whole = path.read_bytes()[MIB : MIB + 2048]  # a header and a few records: what is changed

    def target(data: bytes) -> None:
        data = data[:4096].ljust(2048, b"\0")
        with path.open("r+b") as file:
            file.seek(MIB)
            file.write(data)
        for lease_id in lease_ids:
            attempt(*(partial(call, lease_id) for call in (volume.lookup, volume.remove, volume.add)))

    def rebuild(data: bytes) -> None:
        target(data)
        volume.rebuild()
        volume.add(lease_ids[0])
        found = volume.lookup(lease_ids[0])
        assert leases.read_lease_name(found) == (domain_id, lease_ids[0])

    words = (lease_ids[0].encode(), whole[512:576], whole[-64:], b"\0-", b"\0u", bytes.fromhex("12152016"))
    with writing_only_in(tmp_path):
        for run, count in ((target, rounds(30, 10_000)), (rebuild, rounds(4, 300))):
            fuzz(run, [whole], under=(xleases,), count=count, words=words, number=NUMBER)
    assert [one.name for one in tmp_path.iterdir()] == ["xleases"]


def test_files_of_tasks(spm: World, tmp_path: Path, rounds: Rounds) -> None:
    """They are loaded, and what they want taken back is taken back, as the next SPM does; nothing else is touched."""
    repository, made = spm.repository, spm.create_base()
    tasks, task_id, bait = tmp_path / "world/tasks", str(uuid.UUID(int=9)), tmp_path / "bait"
    (tasks / task_id).mkdir(parents=True)
    bait.mkdir()
    (bait / made.volume_id).write_bytes(b"precious")
    golden = Path(__file__).parents[1] / "golden/storage/tasks-create-volume.txt"
    text = golden.read_text().split("=== ")[1].split("\n", 1)[1]
    mount = Path(spm.server)
    for name, value in (
        ("TASK", task_id),
        ("MOUNT", str(mount)),
        ("DOMAIN", spm.domain_id),
        ("IMAGE", make_id()),
        ("BASE", make_id()),
    ):
        text = text.replace(name, value)
    seen = 0

    def target(data: bytes) -> None:
        nonlocal seen
        for file in (tasks / task_id).iterdir():
            file.unlink()
        for part in data.split(b"--- ")[1:]:
            name, _, content = part.partition(b"\n")
            place = tasks / task_id / os.path.basename(os.fsdecode(name.replace(b"\0", b"")))[:200]
            if place.name and not place.is_dir():
                place.write_bytes(content)
        for record in journal.Journal(tasks).load_all():
            seen += 1
            for one in reversed(record.rollbacks):
                entry = (one.module, one.object, one.function, one.params)
                attempt(partial(repository.recovery.recover, *entry), partial(repository.recovery.undo, *entry))
        (tasks / task_id).mkdir(exist_ok=True)

    words = (f"{bait}/{made.volume_id}".encode(), b"../../", b"_eq_", made.image_id.encode(), b"createVolumeRollback")
    under = (format, journal, recovery, naming)
    with writing_only_in(tmp_path / "world"):
        fuzz(target, [text.encode()], under=under, count=rounds(100, 30_000), words=words, number=NUMBER)
    assert seen and (bait / made.volume_id).read_bytes() == b"precious"


def test_headers_of_qcow2(tmp_path: Path, rounds: Rounds) -> None:
    """qemu finds nothing else in a header that we vouch for: no other file, no other size."""
    path, parent_id = tmp_path / "image", make_id()
    look = QemuImgCommand()
    base = VolumeMetadata(
        *(make_id(), make_id(), BLANK_UUID, MIB, VolumeFormat.COW, Allocation.SPARSE, VolumeRole.LEAF),
        *("DATA", "", Legality.LEGAL, 0),
    )
    layer, below = replace(base, parent_id=parent_id), replace(base, format=VolumeFormat.RAW)
    seeds = []
    for options in (f"backing_file={parent_id},backing_fmt=raw", "compat=0.10", "data_file=DATA,cluster_size=512"):
        path.unlink(missing_ok=True)
        words = ["-u", "-o", options.replace("DATA", str(tmp_path / "data")), path, str(MIB)]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], check=True, timeout=60)
        seeds.append(path.read_bytes()[:1024])
    rest = path.read_bytes()[1024:]
    asked = 0

    def target(data: bytes) -> None:
        nonlocal asked
        path.write_bytes(data.ljust(1024, b"\0") + rest)
        try:
            seen = look.inspect(path)
        except NodeError:
            return
        for record, parent in ((layer, below), (base, None)):
            if trust.find_mismatch(seen, record, parent, ("0.10", "1.1")) is None:
                asked += 1
                with contextlib.suppress(NodeError):  # qemu finds more faults than we do
                    found = look.info(path, "qcow2")
                    assert found.backing_file == (parent_id if parent else None)
                    assert found.backing_format in (None, parent and "raw") and not found.has_data_file
                    assert found.virtual_size_bytes == seen.virtual_size_bytes <= record.capacity_bytes

    words = (parent_id.encode(), b"/etc/passwd", b"QFI\xfb", b"json:{", bytes.fromhex("e2792aca00000003"), b"DATA")
    with writing_only_in(tmp_path):
        fuzz(target, seeds, under=(qcow2, trust), count=rounds(300, 30_000), words=words, number=NUMBER)
    assert asked
