"""What another implementation checks on domains that we made and changed, and where each check is proven.

Here are those on the files of a domain; `test_interoperation_mail` and `test_interoperation_tasks` have others.
"""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.errors import NodeError
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.model import DomainStatus
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.mounts import FakeGluster, MountsInMemory
from vdsm.testing.storage import FixedClock, World, make_id, make_shared_world, make_world_on_disk

PROVEN = {
    "contract/test_interoperation.py": {
        "test_the_text_of_metadata": "18.1-1 18.1-2 18.1-3 18.1-6",
        "test_the_pool_of_an_attached_domain_and_a_key_that_we_do_not_know": "18.1-7 18.1-8 18.7-3",
        "test_one_changed_character": "18.1-9",
        "test_the_files_of_a_local_domain": "18.2-3 18.2-5 18.2-8",
        "test_metadata_is_read_past_all_caches_by_who_owns_disks": "18.2-7",
        "test_the_index_of_external_leases": "18.4-6 18.4-7",
    },
    "contract/test_interoperation_mail.py": {
        "test_another_host_is_answered": "18.5-2",
        "test_another_spm_answers": "18.5-2",
        "test_a_wrong_checksum_is_no_request": "18.5-3",
        "test_an_event_is_followed_within_half_a_second_and_silence_within_two": "18.5-4",
        "test_without_events_on_one_side_or_both_a_request_takes_four_seconds": "18.5-5",
        "test_what_lies_in_the_inbox_is_served_by_the_first_scan_of_each_new_spm": "18.5-6",
    },
    "contract/test_interoperation_tasks.py": {
        "test_a_record_that_is_read_is_written_byte_for_byte": "18.7-2",
        "test_what_another_spm_has_begun_is_undone": "18.7-1",
    },
    "contract/test_spm_killed.py": {"test_the_next_spm_undoes_what_was_begun": "18.7-1"},
    "contract/test_jobs_killed.py": {"test_a_copy_that_is_killed_underway_leaves_its_target_illegal": "18.6-7"},
    "contract/test_storage_repository.py": {
        "test_a_domain_and_its_volumes_byte_for_byte": "18.1-6 18.7-6",
        "test_everything_belongs_to_the_owner_of_disks": "18.2-1",
        "test_base_volumes": "18.6-1 18.6-4",
        "test_layers_and_templates_read_through_their_parents": "18.6-1",
    },
    "contract/test_storage_mounted.py": {
        "test_a_new_domain_has_its_files_and_leases": "18.2-1 18.2-2",
        "test_of_two_domains_that_are_made_at_one_place_at_once_one_is_made": "18.2-3",
        "test_each_kind_is_mounted_as_the_facts_tell": "18.2-4",
        "test_volumes_have_leases_that_go_with_them": "18.2-5 18.2-6",
        "test_of_two_hosts_one_is_the_spm_and_both_know_it": "18.4-9",
    },
    "contract/test_storage_service.py": {
        "test_the_folder_of_a_creating_task_is_as_other_hosts_read_it": "18.7-2",
    },
    "contract/test_image_operations.py": {"test_guests_read_what_they_wrote": "18.6-1 18.6-2 18.6-3"},
    "daemon/test_shared_storage.py": {"test_a_disk_of_gluster_with_its_lease": "18.7-5"},
    "system/hosts/test_shared_domains.py": {
        "test_a_shared_domain_is_as_the_facts_tell": "18.2-1 18.2-2 18.2-5 18.2-6 18.4-1 18.4-2 18.4-4 18.4-6 18.4-8",
        "test_of_two_hosts_one_becomes_spm_and_its_death_lets_the_other": "18.4-9",
        "test_the_tool_looks_at_any_time_and_writes_only_where_nobody_else_may": "18.7-5",
    },
    "system/hosts/test_large_sectors.py": {"test_a_domain_with_large_sectors_lives_as_any_other": "18.4-5"},
    "unit/storage/images/test_jobs.py": {"test_each_job_refuses_another_generation": "18.6-6"},
    "unit/storage/mail/test_mailbox.py": {"test_the_example_of_the_facts": "18.5-1"},
    "unit/storage/pools/test_pool.py": {"test_an_iso_domain_is_in_several_pools": "18.1-7"},
    "unit/storage/test_migration.py": {"test_another_domain_becomes_the_master_and_back": "18.7-4"},
    "unit/storage/test_naming.py": {"test_names_of_the_facts": "18.2-4", "test_normal_forms_of_the_facts": "18.2-4"},
    "unit/storage/test_rollbacks.py": {
        "test_all_entries_that_we_leave_are_known": "18.7-2",
        "test_all_entries_that_are_known_are_understood": "18.7-1",
    },
}
"""Which tests prove which checks (facts: storage §18); those of block storage alone are left out."""
CHECKS = {"1": "1236789", "2": "12345678", "4": "12456789", "5": "123456", "6": "123467", "7": "123456"}
MIB = 1 << 20
NAME = "größer als 日本"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world_on_disk(tmp_path, QemuImgCommand(), OwnOwner())
    world.create_domain()
    world.repository.domains.update(world.domain_id, {"DESCRIPTION": NAME})
    return world


def make_shared(folder: Path) -> World:
    """A world on storage that hosts share; `folder / "disk"` is what the server has."""
    (folder / "disk").mkdir()
    mounts = MountsInMemory({"server:/1": folder / "disk"})
    outside = Outside(mounts, LeasesInMemory(writes_files=True), FakeGluster(), FixedClock(), print)
    return make_shared_world(folder, QemuImgCommand(), outside, OwnOwner())


def get_metadata(world: World) -> Path:
    return Path(world.server) / world.domain_id / "dom_md/metadata"


def seal(lines: list[bytes]) -> bytes:
    """A checksum computed as the facts tell, by this test alone."""
    text = b"".join(sorted(lines)).decode("utf-8").encode("ascii", "xmlcharrefreplace")
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def test_every_check_is_proven_by_a_test_that_is_there() -> None:
    proven = set[str]()
    for file, tests in PROVEN.items():
        text = (Path(__file__).parents[1] / file).read_text()
        assert [name for name in tests if f"def {name}(" not in text] == []
        proven.update(*(checks.split() for checks in tests.values()))
    assert proven == {f"18.{section}-{number}" for section, numbers in CHECKS.items() for number in numbers}


def test_the_text_of_metadata(world: World) -> None:
    data = get_metadata(world).read_bytes()
    assert data.endswith(b"\n") and b"\r" not in data and not data.startswith(b"\xef\xbb\xbf")
    *lines, last = data[:-1].split(b"\n")
    assert last == b"_SHA_CKSUM=" + seal(lines)
    keys = [line.partition(b"=")[0] for line in lines]
    assert keys == sorted(keys)
    assert f"DESCRIPTION={NAME}".encode() in lines and b"POOL_UUID=" in lines
    assert {b"BLOCK_SIZE", b"ALIGNMENT"} <= set(keys) and not {b"LOGBLKSIZE", b"PHYBLKSIZE"} & set(keys)


def test_the_pool_of_an_attached_domain_and_a_key_that_we_do_not_know(world: World) -> None:
    file, repository = get_metadata(world), world.repository
    *lines, _ = file.read_bytes()[:-1].split(b"\n")
    lines = sorted([*lines, b"COLOUR=blue"])
    file.write_bytes(b"\n".join([*lines, b"_SHA_CKSUM=" + seal(lines)]) + b"\n")
    repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    kept = file.read_bytes().splitlines()
    assert b"COLOUR=blue" in kept and f"POOL_UUID={world.pool_id}".encode() in kept
    before = file.read_bytes()
    repository.pools.connect(world.pool_id, 1, world.domain_id, 1, {world.domain_id: DomainStatus.ACTIVE})
    repository.spm.start(world.pool_id)
    repository.spm.stop(world.pool_id)
    assert file.read_bytes() == before


def test_one_changed_character(world: World) -> None:
    file = get_metadata(world)
    file.write_bytes(file.read_bytes().replace(b"ROLE=", b"ROLF="))
    with pytest.raises(NodeError) as refused:
        world.repository.domains.get(world.domain_id)
    assert refused.value.number == 752


def test_the_files_of_a_local_domain(world: World) -> None:
    world.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    volume = world.resume().create_base()
    names = [path.name for path in Path(world.server).rglob("*")]
    assert names.count("dom_md") == 1 and "xleases" not in names
    assert sorted(os.listdir(world.get_path(volume).parent)) == [volume.volume_id, f"{volume.volume_id}.meta"]
    record = world.get_path(volume).with_name(f"{volume.volume_id}.meta").read_bytes()
    assert len(record) <= 512 and record.endswith(b"EOF\n")
    world.repository.spm.stop(world.pool_id)


def test_metadata_is_read_past_all_caches_by_who_owns_disks(world: World) -> None:
    file, user = get_metadata(world), 36 if os.geteuid() == 0 else None
    command = ["dd", f"if={file.name}", "bs=4096", "count=1", "iflag=direct", "status=none"]
    # The folder is entered before the user is another, who may not enter those above it.
    done = subprocess.run(command, cwd=file.parent, user=user, group=user, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (file.read_bytes(), b"")


def test_the_index_of_external_leases(tmp_path: Path) -> None:
    world, ids = make_shared(tmp_path).start_spm(), [make_id() for _ in range(3)]
    for lease_id in ids:
        world.repository.external_leases.create(world.domain_id, lease_id)
    world.repository.external_leases.delete(world.domain_id, ids[1])
    data = (tmp_path / "disk" / world.domain_id / "dom_md/xleases").read_bytes()[MIB:]
    assert data[:58] == bytes.fromhex("12152016003030303100") + world.domain_id.encode().ljust(48, b"\0")
    assert data[70:71] == b"-" and data[511:512] == b"\n"
    records = [data[begin : begin + 64] for begin in range(512, 512 + 3960 * 64, 64)]
    free = bytes(49) + b"0" * 11 + b"\0--\n"
    assert {number for number, record in enumerate(records) if record != free} == {0, 2}
    for number in (0, 2):
        offset = (3 + number) * MIB
        assert records[number] == ids[number].encode().ljust(49, b"\0") + f"{offset:011}".encode() + b"\0--\n"
        assert world.repository.external_leases.get(world.domain_id, ids[number]).offset_bytes == offset
