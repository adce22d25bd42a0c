"""One contract for the places where tasks are kept: the journal on disk and the fake in memory."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.tasks.journal import Journal
from vdsm.tasks.model import SPM, JobRecord, Rollback, TaskRecord
from vdsm.tasks.ports import TaskStore
from vdsm.testing.tasks import MemoryTaskStore


@pytest.fixture(params=["journal", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TaskStore:
    return Journal(tmp_path) if request.param == "journal" else MemoryTaskStore()


def make(store: TaskStore, task_id: str) -> TaskRecord:
    record = TaskRecord(task_id, "createVolume", SPM, store.location, jobs=(JobRecord("createVolume"),), message="")
    return record.push(Rollback("n", "fileVolume", "FileVolume", "createVolumeRollback", ("sd", "img", "vol")))


def test_the_last_save_of_each_task_is_found_by_id(store: TaskStore) -> None:
    second, first = make(store, "b"), make(store, "a")
    store.save(second)
    store.save(first)
    store.save(replace(second, name="deleteVolume"))
    assert store.load_all() == [first, replace(second, name="deleteVolume")]


def test_what_is_removed_is_gone_and_may_be_removed_again(store: TaskStore) -> None:
    store.save(make(store, "a"))
    store.remove("a")
    store.remove("a")
    assert store.load_all() == []
    store.save(make(store, "a"))
    assert store.load_all() == [make(store, "a")]
