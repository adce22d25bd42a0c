"""Records on disk: what is saved is found, what is broken is skipped, and nothing leads out of the folder."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.tasks.errors import InvalidRollback, TaskDirectoryError, TaskLoadFailed, TaskSaveFailed
from vdsm.tasks.format import format_record
from vdsm.tasks.journal import Journal
from vdsm.tasks.model import SPM, JobRecord, Rollback, TaskRecord, TaskState

TASK = "2f4c6f0e-9a55-4d0e-8a51-5b0f3c7d1e22"
ROLLBACK = Rollback(
    "Create volume rollback", "fileVolume", "FileVolume", "createVolumeRollback", ("/r", "sd", "i", "v")
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    folder = tmp_path / "master/tasks"
    folder.mkdir(parents=True)
    return Journal(folder)


@pytest.fixture
def record(journal: Journal) -> TaskRecord:
    queued = TaskRecord(TASK, "createVolume", SPM, journal.location, jobs=(JobRecord("createVolume"),)).queue()
    return replace(queued, message="")


def put(journal: Journal, name: str, record: TaskRecord, *, without: str = "") -> None:
    """Write a form of a task by hand, perhaps with a file missing."""
    folder = journal.path / name
    folder.mkdir()
    for file_name, data in format_record(record).items():
        if not without or not file_name.endswith(without):
            (folder / file_name).write_bytes(data)


def test_each_save_takes_the_place_of_the_one_before(journal: Journal, record: TaskRecord) -> None:
    later = record.begin_job(1).push(ROLLBACK)
    for each in (record, later, later.drop_rollback(0)):
        journal.save(each)
        assert journal.load_all() == [replace(each, message="")]
        assert os.listdir(journal.path) == [TASK]
    assert sorted(os.listdir(journal.path / TASK)) == [f"{TASK}.job.0", f"{TASK}.task"]


def test_a_finished_task_keeps_its_result(journal: Journal, record: TaskRecord) -> None:
    finished = record.begin_job(1).finish("the uuid")
    journal.save(finished)
    assert journal.load(TASK) == finished


def test_others_may_read_whatever_the_umask(journal: Journal, record: TaskRecord) -> None:
    before = os.umask(0o077)
    try:
        journal.save(record)
    finally:
        os.umask(before)
    folder = journal.path / TASK
    assert (folder.stat().st_mode & 0o777, (folder / f"{TASK}.task").stat().st_mode & 0o777) == (0o755, 0o644)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_is_written_belongs_to_the_owner(journal: Journal, record: TaskRecord) -> None:
    Journal(journal.path, owner=(36, 36)).save(record)
    folder = journal.path / TASK
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (folder, *folder.iterdir())} == {(36, 36)}


def test_the_newest_form_that_is_there_is_loaded(journal: Journal, record: TaskRecord) -> None:
    put(journal, f"{TASK}.backup", record)
    assert journal.load(TASK).state is TaskState.QUEUED
    put(journal, f"{TASK}.temp", record.begin_job(1))
    assert journal.load(TASK).state is TaskState.RUNNING
    put(journal, TASK, record.begin_job(1).finish(""))
    assert journal.load(TASK).state is TaskState.FINISHED
    assert [found.task_id for found in journal.load_all()] == [TASK]


def test_a_form_that_is_not_whole_gives_way_to_an_older_one(journal: Journal, record: TaskRecord) -> None:
    put(journal, f"{TASK}.backup", record)
    put(journal, f"{TASK}.temp", record.begin_job(1).push(ROLLBACK), without=".recover.0")
    assert journal.load(TASK).state is TaskState.QUEUED


def test_saving_goes_on_from_whatever_a_crash_left(journal: Journal, record: TaskRecord) -> None:
    put(journal, f"{TASK}.backup", record)
    put(journal, f"{TASK}.temp", record, without=".task")
    journal.save(record.begin_job(1))
    assert os.listdir(journal.path) == [TASK]


def test_removing_removes_every_form(journal: Journal, record: TaskRecord) -> None:
    for suffix in ("", ".temp", ".backup"):
        put(journal, TASK + suffix, record)
    journal.remove(TASK)
    journal.remove(TASK)
    assert os.listdir(journal.path) == []


def test_what_an_interrupted_removal_left_is_cleared_away(journal: Journal, record: TaskRecord) -> None:
    put(journal, TASK, record.push(ROLLBACK), without=".task")
    put(journal, f"{TASK}.temp", record, without=".task")
    assert journal.load_all() == []
    assert os.listdir(journal.path) == []


@pytest.mark.parametrize("written", [b"", b"id = "])
def test_what_an_interrupted_first_save_left_is_cleared_away(
    journal: Journal, record: TaskRecord, written: bytes
) -> None:
    put(journal, f"{TASK}.temp", record)
    (journal.path / f"{TASK}.temp/{TASK}.task").write_bytes(written)
    assert journal.load_all() == []
    assert os.listdir(journal.path) == []


@pytest.mark.parametrize("form", ["", ".backup"])
def test_a_record_that_was_saved_and_cannot_be_read_is_kept(journal: Journal, record: TaskRecord, form: str) -> None:
    put(journal, f"{TASK}{form}", record)
    (journal.path / f"{TASK}{form}/{TASK}.task").write_bytes(b"")
    assert journal.load_all() == []
    assert os.listdir(journal.path) == [f"{TASK}{form}"]


def test_what_is_not_ours_is_neither_loaded_nor_touched(journal: Journal, record: TaskRecord, tmp_path: Path) -> None:
    journal.save(record)
    outside = tmp_path / "outside"
    outside.mkdir()
    other = "11111111-1111-1111-1111-111111111111"
    for name, data in format_record(replace(record, task_id=other)).items():
        (outside / name).write_bytes(data)
    (journal.path / other).symlink_to(outside)
    (journal.path / "file").write_text("x")
    (journal.path / "mine").mkdir()
    (journal.path / "mine/letter").write_text("x")
    (journal.path / "lost+found").mkdir()
    fake = journal.path / "fake"
    fake.mkdir()
    (fake / "fake.task").symlink_to("/etc/hostname")
    pipe = journal.path / "pipe"
    pipe.mkdir()
    os.mkfifo(pipe / "pipe.task")
    before = sorted(os.listdir(journal.path))

    assert [found.task_id for found in journal.load_all()] == [TASK]
    journal.remove(other)
    assert len(list(outside.iterdir())) == 2
    assert sorted(os.listdir(journal.path)) == [name for name in before if name != other]
    assert (journal.path / "mine/letter").exists()


def test_a_link_in_the_place_of_a_task_is_replaced_and_not_followed(
    journal: Journal, record: TaskRecord, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for suffix in ("", ".temp", ".backup"):
        (journal.path / f"{TASK}{suffix}").symlink_to(outside)
    journal.save(record)
    assert (journal.load(TASK), os.listdir(outside)) == (record, [])
    assert not (journal.path / TASK).is_symlink()


def test_a_huge_file_is_refused(journal: Journal, record: TaskRecord) -> None:
    journal.save(record)
    with open(journal.path / TASK / f"{TASK}.task", "ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(TaskLoadFailed, match="too large"):
        journal.load(TASK)


@pytest.mark.parametrize("task_id", ["", "..", "a.temp", "a/b", "../a", "a\n", "x" * 65])
def test_names_that_are_no_ids_are_refused(journal: Journal, record: TaskRecord, task_id: str) -> None:
    with pytest.raises(TaskSaveFailed):
        journal.save(replace(record, task_id=task_id))
    journal.remove(task_id)
    assert os.listdir(journal.path) == []


def test_a_rollback_without_a_written_form_leaves_the_old_record(journal: Journal, record: TaskRecord) -> None:
    journal.save(record)
    with pytest.raises(InvalidRollback):
        journal.save(record.push(replace(ROLLBACK, params=("_eq_",))))
    assert journal.load(TASK) == record


def test_a_folder_that_is_gone_is_named(record: TaskRecord, tmp_path: Path) -> None:
    gone = Journal(tmp_path / "gone")
    with pytest.raises(TaskDirectoryError, match="gone"):
        gone.load_all()
    for failing in (lambda: gone.save(record), lambda: gone.remove(TASK)):
        with pytest.raises(TaskSaveFailed, match="gone"):
            failing()
    with pytest.raises(TaskLoadFailed):
        gone.load(TASK)


def test_a_folder_with_too_many_files_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "crowded"
    folder.mkdir()
    for number in range(1001):
        (folder / f"crowded.recover.{number}").touch()
    with pytest.raises(TaskLoadFailed, match="more than 1000 files"):
        Journal(tmp_path).load("crowded")
