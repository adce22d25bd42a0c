"""The text form of a task's record, file by file (facts §8.4); where the files lie is `journal`'s."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from vdsm.tasks.errors import InvalidRollback, TaskLoadFailed
from vdsm.tasks.model import JobRecord, Policy, Priority, Rollback, TaskKind, TaskRecord, TaskState

METADATA_VERSION = "1"
_EQUALS = "_eq_"
_MAX_PARTS = 10_000
Word = TypeVar("Word", Policy, Priority)


def encode_text(text: str) -> str | None:
    """The written form of a name or value; None when a reader would not get the same back, so that it is left out.

    Line breaks become spaces: a value can never add a line of its own.
    """
    line = text.replace("\r", " ").replace("\n", " ").strip()
    encoded = line.replace("=", _EQUALS)
    return encoded if encoded.replace(_EQUALS, "=") == line else None


def decode_text(text: str) -> str:
    """What the writer meant by this name or value."""
    return text.strip().replace(_EQUALS, "=")


def to_bytes(text: str) -> bytes:
    """The bytes of a file; names of files that are not UTF-8 keep their bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def from_bytes(data: bytes) -> str:
    """The text of a file; bytes that are no UTF-8 survive a round trip."""
    return data.decode("utf-8", "surrogateescape")


def format_fields(fields: Iterable[tuple[str, str]]) -> str:
    """One `name = value` line for each field that has a written form."""
    lines = []
    for name, value in fields:
        encoded = encode_text(value)
        if encoded is not None:
            lines.append(f"{name} = {encoded}\n")
    return "".join(lines)


def parse_fields(text: str) -> dict[str, str]:
    """The fields of a file; lines that do not have exactly one equals sign are ignored."""
    fields = {}
    for line in text.replace("\r", "\n").split("\n"):
        parts = line.split("=")
        if len(parts) == 2:
            fields[decode_text(parts[0])] = decode_text(parts[1])
    return fields


def format_record(record: TaskRecord) -> dict[str, bytes]:
    """The files of a record by name, the main one last: where it is whole, all are.

    A rollback that another host would read differently raises InvalidRollback. A comma in a parameter is let through:
    the last one may be a path with commas, and whoever runs the entry joins its pieces.
    """
    stem = record.task_id
    files = {}
    for number, job in enumerate(record.jobs):
        files[f"{stem}.job.{number}"] = format_fields((("name", job.name), ("runcmd", job.description)))
    for number, rollback in enumerate(record.rollbacks):
        files[f"{stem}.recover.{number}"] = format_fields(_rollback_fields(rollback))
    if record.state is TaskState.FINISHED:
        result = (("code", str(record.code)), ("message", record.message), ("result", record.result))
        files[f"{stem}.result"] = format_fields(result)
    files[f"{stem}.task"] = format_fields(_task_fields(record))
    return {name: to_bytes(text) for name, text in files.items()}


def _task_fields(record: TaskRecord) -> tuple[tuple[str, str], ...]:
    return (
        ("id", record.task_id),
        ("name", record.name),
        ("tag", record.kind.tag),
        ("store", record.store),
        ("recoveryPolicy", record.kind.recovery),
        ("persistPolicy", record.kind.persist),
        ("cleanPolicy", record.kind.clean),
        ("priority", record.kind.priority),
        ("state", record.state),
        ("njobs", str(len(record.jobs))),
        ("nrecoveries", str(len(record.rollbacks))),
        ("metadataVersion", METADATA_VERSION),
    )


def _rollback_fields(rollback: Rollback) -> tuple[tuple[str, str], ...]:
    if rollback.params == ("",):
        raise InvalidRollback(reason=f"{rollback.function} has one empty parameter")
    for text in (rollback.name, rollback.module, rollback.object, rollback.function, *rollback.params):
        if encode_text(text) is None or text.strip() != text or from_bytes(to_bytes(text)) != text:
            raise InvalidRollback(reason=f"{rollback.function}: {text!r} has no written form")
        if "\n" in text or "\r" in text:
            raise InvalidRollback(reason=f"{rollback.function}: {text!r} spans several lines")
    return (
        ("name", rollback.name),
        ("moduleName", rollback.module),
        ("object", rollback.object),
        ("function", rollback.function),
        ("params", ",".join(rollback.params)),
    )


def parse_record(task_id: str, store: str, files: Mapping[str, bytes]) -> TaskRecord:
    """The record that these files hold; one that is not whole raises TaskLoadFailed.

    `store` is the folder in which the files were found: what the record says of it is not believed. Policies that are
    absent or unknown count as those of an SPM task.
    """
    fields = _fields_of(task_id, f"{task_id}.task", files)
    if fields.get("id") != task_id or fields.get("metadataVersion") != METADATA_VERSION:
        raise TaskLoadFailed(task_id=task_id, reason="the record is not whole, of another task or of another version")
    try:
        state = TaskState(fields["state"])
    except (KeyError, ValueError):
        raise TaskLoadFailed(task_id=task_id, reason=f"unknown state {fields.get('state')!r}") from None
    jobs = [_fields_of(task_id, f"{task_id}.job.{n}", files) for n in range(_count(task_id, fields, "njobs"))]
    count = _count(task_id, fields, "nrecoveries")
    rollbacks = [_fields_of(task_id, f"{task_id}.recover.{n}", files) for n in range(count)]
    result = parse_fields(from_bytes(files.get(f"{task_id}.result", b"")))
    return TaskRecord(
        task_id=task_id,
        name=fields.get("name", ""),
        kind=TaskKind(
            tag=fields.get("tag", ""),
            persist=_word(fields.get("persistPolicy"), Policy.AUTO),
            clean=_word(fields.get("cleanPolicy"), Policy.MANUAL),
            recovery=_word(fields.get("recoveryPolicy"), Policy.AUTO),
            priority=_word(fields.get("priority"), Priority.LOW),
        ),
        store=store,
        state=state,
        jobs=tuple(JobRecord(job.get("name", ""), job.get("runcmd", "")) for job in jobs),
        rollbacks=tuple(_parse_rollback(task_id, rollback) for rollback in rollbacks),
        code=max(0, _number(result.get("code", "0"))),
        message=result.get("message", ""),
        result=result.get("result", ""),
    )


def _fields_of(task_id: str, name: str, files: Mapping[str, bytes]) -> dict[str, str]:
    try:
        return parse_fields(from_bytes(files[name]))
    except KeyError:
        raise TaskLoadFailed(task_id=task_id, reason=f"{name} is missing") from None


def _count(task_id: str, fields: Mapping[str, str], name: str) -> int:
    count = _number(fields.get(name, "-1"))
    if not 0 <= count <= _MAX_PARTS:
        raise TaskLoadFailed(task_id=task_id, reason=f"{name} is {fields.get(name)!r}")
    return count


def _parse_rollback(task_id: str, fields: Mapping[str, str]) -> Rollback:
    params = fields.get("params", "")
    rollback = Rollback(
        name=fields.get("name", ""),
        module=fields.get("moduleName", ""),
        object=fields.get("object", ""),
        function=fields.get("function", ""),
        params=tuple(params.split(",")) if params else (),
    )
    if not rollback.function:
        raise TaskLoadFailed(task_id=task_id, reason="a rollback names no function")
    return rollback


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return -1


def _word(word: str | None, default: Word) -> Word:
    """The member of the default's kind that the word names; the default for one that is absent or unknown."""
    try:
        return type(default)(word) if word else default
    except ValueError:
        return default
