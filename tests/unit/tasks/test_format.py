"""The text of records: byte for byte as the facts show it, the same when read back, and nothing smuggled in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vdsm.tasks.errors import InvalidRollback, TaskLoadFailed
from vdsm.tasks.format import decode_text, encode_text, format_record, parse_fields, parse_record
from vdsm.tasks.model import SPM, JobRecord, Policy, Priority, Rollback, TaskKind, TaskRecord, TaskState

TASK = "2f4c6f0e-9a55-4d0e-8a51-5b0f3c7d1e22"
STORE = "/rhev/data-center/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d/mastersd/master/tasks"
HALFBAKED = Rollback(
    "Halfbaked volume rollback", "blockVolume", "BlockVolume", "halfbakedVolumeRollback", ("sd", "vol", "/p/vol")
)
SENTINEL = Rollback(
    "rollback sentinel", "blockVolume", "BlockVolume", "startCreateVolumeRollback", ("sd", "img", "vol")
)
RUNNING = TaskRecord(
    TASK,
    "createVolume",
    SPM,
    STORE,
    state=TaskState.RUNNING,
    jobs=(JobRecord("createVolume", "create a volume"),),
    rollbacks=(SENTINEL, HALFBAKED),
)


def test_the_example_of_the_facts_to_the_byte() -> None:
    files = format_record(RUNNING)
    assert files[f"{TASK}.task"].decode() == (
        f"id = {TASK}\n"
        "name = createVolume\n"
        "tag = spm\n"
        f"store = {STORE}\n"
        "recoveryPolicy = auto\n"
        "persistPolicy = auto\n"
        "cleanPolicy = manual\n"
        "priority = low\n"
        "state = running\n"
        "njobs = 1\n"
        "nrecoveries = 2\n"
        "metadataVersion = 1\n"
    )
    assert files[f"{TASK}.recover.1"].decode() == (
        "name = Halfbaked volume rollback\n"
        "moduleName = blockVolume\n"
        "object = BlockVolume\n"
        "function = halfbakedVolumeRollback\n"
        "params = sd,vol,/p/vol\n"
    )
    assert files[f"{TASK}.job.0"] == b"name = createVolume\nruncmd = create a volume\n"
    assert list(files) == [f"{TASK}.job.0", f"{TASK}.recover.0", f"{TASK}.recover.1", f"{TASK}.task"]
    assert format_record(parse_record(TASK, STORE, files)) == files


def test_the_result_is_written_when_finished_only() -> None:
    finished = replace(RUNNING, state=TaskState.FINISHED, message="1 jobs completed successfully", result="a=b")
    assert format_record(finished)[f"{TASK}.result"] == (
        b"code = 0\nmessage = 1 jobs completed successfully\nresult = a_eq_b\n"
    )
    assert f"{TASK}.result" not in format_record(replace(RUNNING, state=TaskState.FAILED, code=5))


@pytest.mark.parametrize("value", ["has _eq_ in it", "_eq=", "=eq_x_eq_"])
def test_values_that_would_not_come_back_are_left_out(value: str) -> None:
    assert encode_text(value) is None


@given(st.text())
def test_written_text_comes_back_on_one_line(value: str) -> None:
    encoded = encode_text(value)
    if encoded is not None:
        assert "\n" not in encoded and "\r" not in encoded and "=" not in encoded
        assert decode_text(encoded) == value.replace("\r", " ").replace("\n", " ").strip()


@given(st.text(max_size=30))
def test_a_message_cannot_add_a_field(message: str) -> None:
    hostile = replace(RUNNING, state=TaskState.FINISHED, message=f"{message}\nresult = forged\rcode = 7", result="true")
    files = format_record(hostile)
    assert parse_record(TASK, STORE, files).result == "true"
    assert parse_record(TASK, STORE, files).code == 0


# Texts that rollbacks are made of; surrogates stand for bytes that are not UTF-8.
PARAM = st.text(st.characters(exclude_characters=",\n\r", exclude_categories=["Cs"]), max_size=12)
NAME = st.text(st.characters(codec="utf-8"), max_size=12)
ROLLBACK = st.builds(Rollback, PARAM, PARAM, PARAM, PARAM, st.lists(PARAM, max_size=4).map(tuple))
RECORD = st.builds(
    TaskRecord,
    st.just(TASK),
    NAME,
    st.builds(
        TaskKind,
        NAME,
        st.sampled_from(Policy),
        st.sampled_from(Policy),
        st.sampled_from(Policy),
        st.sampled_from(Priority),
    ),
    st.just(STORE),
    st.sampled_from(TaskState),
    st.lists(st.builds(JobRecord, NAME, NAME), max_size=3).map(tuple),
    st.lists(ROLLBACK, max_size=4).map(tuple),
    st.integers(0, 5000),
    NAME,
    NAME,
)


def _kept(text: str) -> str:
    """What a free text becomes on disk: one line, or nothing."""
    encoded = encode_text(text)
    return "" if encoded is None else decode_text(encoded)


@given(RECORD)
def test_what_is_written_is_read_or_refused(record: TaskRecord) -> None:
    try:
        files = format_record(record)
        loaded = parse_record(TASK, STORE, files)
    except InvalidRollback:
        return
    except TaskLoadFailed:
        assert any(not rollback.function for rollback in record.rollbacks)
        return
    for found, written in zip(loaded.rollbacks, record.rollbacks, strict=True):
        # What others split at commas is split here, too.
        assert found == replace(written, params=tuple(",".join(written.params).split(",")) if written.params else ())
    assert loaded.state is record.state
    assert loaded.kind == replace(record.kind, tag=_kept(record.kind.tag))
    assert loaded.jobs == tuple(JobRecord(_kept(j.name), _kept(j.description)) for j in record.jobs)
    if record.state is TaskState.FINISHED:
        assert (loaded.code, loaded.message, loaded.result) == (
            record.code,
            _kept(record.message),
            _kept(record.result),
        )


@given(
    st.dictionaries(st.sampled_from([f"{TASK}{s}" for s in (".task", ".job.0", ".recover.0", ".result")]), st.binary())
)
def test_garbage_is_refused_in_words(files: dict[str, bytes]) -> None:
    with pytest.raises(TaskLoadFailed):
        parse_record(TASK, STORE, files)


@given(st.data())
def test_a_broken_record_is_read_whole_or_refused(data: st.DataObject) -> None:
    files = format_record(RUNNING)
    name = data.draw(st.sampled_from(sorted(files)))
    cut = data.draw(st.integers(0, len(files[name])))
    files[name] = files[name][:cut] + data.draw(st.binary(max_size=3))
    try:
        loaded = parse_record(TASK, STORE, files)
    except TaskLoadFailed:
        return
    assert (loaded.task_id, loaded.store, len(loaded.jobs), len(loaded.rollbacks)) == (TASK, STORE, 1, 2)


@pytest.mark.parametrize("params", [("_eq_",), (" a",), ("a\nb",), ("",), ("\ud800",)])
def test_a_rollback_that_others_would_misread_is_refused(params: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRollback) as refusal:
        format_record(RUNNING.push(replace(HALFBAKED, params=params)))
    assert refusal.value.number == 430


def test_paths_keep_bytes_that_are_not_utf8() -> None:
    record = RUNNING.push(replace(HALFBAKED, params=("/a\udcff=",)))
    files = format_record(record)
    assert b"params = /a\xff_eq_\n" in files[f"{TASK}.recover.2"]
    assert parse_record(TASK, STORE, files).rollbacks == record.rollbacks


def test_the_loader_bears_what_others_may_write() -> None:
    text = "a = 1\nb=2\n  c  =  x y  \nno sign\ntwo = signs = here\n= empty\nq_eq_ = _eq_\r\n"
    assert parse_fields(text) == {"a": "1", "b": "2", "c": "x y", "": "empty", "q=": "="}


def test_unknown_fields_and_policies_do_not_hide_a_task() -> None:
    files = format_record(RUNNING)
    main = files[f"{TASK}.task"].decode().replace("recoveryPolicy = auto", "recoveryPolicy = later\ncolour = blue")
    loaded = parse_record(TASK, "/elsewhere", {**files, f"{TASK}.task": main.encode()})
    assert loaded == replace(RUNNING, store="/elsewhere", message="")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"id = {TASK}", "id = ../../../etc"),
        ("state = running", "state = dancing"),
        ("njobs = 1", "njobs = 2"),
        ("nrecoveries = 2", "nrecoveries = 999999999999"),
        ("nrecoveries = 2", "nrecoveries = -1"),
        ("metadataVersion = 1", "metadataVersion = 2"),
    ],
)
def test_a_record_that_is_not_whole_is_refused(old: str, new: str) -> None:
    files = format_record(RUNNING)
    main = files[f"{TASK}.task"].decode()
    assert old in main
    with pytest.raises(TaskLoadFailed):
        parse_record(TASK, STORE, {**files, f"{TASK}.task": main.replace(old, new).encode()})
