"""Saves tasks in processes that are killed, and checks after each what is found: run by `test_journal_killed`.

`journal_killed.py FOLDER steps FORM...` kills at every system call that the interpreter reports, one after another,
where an earlier kill had left those forms of the record;
`journal_killed.py FOLDER random COUNT SEED` kills at that many random instants. Prints how many were killed.
"""

import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from vdsm.tasks.journal import Journal
from vdsm.tasks.model import SPM, JobRecord, Rollback, TaskRecord, TaskState

TASK = "2f4c6f0e-9a55-4d0e-8a51-5b0f3c7d1e22"
WATCHED = ("open", "os.", "shutil.")


def make_record(number: int) -> TaskRecord:
    """A different record for each number, larger and smaller ones in turn; its name tells the number."""
    rollbacks = tuple(
        Rollback(f"rollback {number}", "fileVolume", "FileVolume", "createVolumeRollback", (str(number), str(n)))
        for n in range(number * 7 % 5)
    )
    state = TaskState.FINISHED if number % 3 == 2 else TaskState.RUNNING
    message = "done" if state is TaskState.FINISHED else ""
    return TaskRecord(TASK, str(number), SPM, "", state, (JobRecord("job"),), rollbacks, message=message)


def run_child(work: Callable[[int], None], watch: Callable[[int, int], None]) -> list[int]:
    """Fork; the child works and writes what it has done to a pipe; returns that, in order, once the child is dead."""
    done_read, done_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(done_read)
        try:
            work(done_write)
        finally:
            os._exit(0)
    os.close(done_write)
    watch(pid, done_read)
    os.waitpid(pid, 0)
    chunks = []
    while chunk := os.read(done_read, 65536):
        chunks.append(chunk)
    os.close(done_read)
    return [int(word) for word in b"".join(chunks).split()]


def check_found(journal: Journal, first: int, acknowledged: list[int]) -> int | None:
    """What was acknowledged last is there, or the one that was being saved: whole, never a mixture."""
    last = acknowledged[-1] if acknowledged else first
    found = journal.load_all()
    if last < 0 and not found:
        return None
    assert len(found) == 1, found
    number = int(found[0].name)
    assert number in (last, last + 1), (number, last)
    assert found[0] == replace(make_record(number), store=journal.location), found[0]
    return number


def kill_at_every_step(journal: Journal, left: tuple[str, ...]) -> int:
    """Save, save again and remove, killed at the first step, at the second, and so on until it comes through.

    Each begins where an earlier kill left records 0, 1, ... in the forms `left`, the oldest first.
    """
    killed, first = 0, len(left) - 1
    while True:
        journal.remove(TASK)
        for number in range(len(left)):
            journal.save(make_record(number))
            (journal.path / TASK).rename(journal.path.parent / str(number))
        for number, form in enumerate(left):
            (journal.path.parent / str(number)).rename(journal.path / (TASK + form))

        def work(done: int, step: int = killed) -> None:
            count = 0

            def on_event(event: str, arguments: object) -> None:
                nonlocal count
                if event.startswith(WATCHED):
                    count += 1
                    if count > step:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(on_event)
            for number in range(first + 1, first + 4):
                journal.save(make_record(number))
                os.write(done, b"%d " % number)
            journal.remove(TASK)
            os.write(done, b"9 ")

        acknowledged = run_child(work, lambda pid, done: None)
        if acknowledged[-1:] == [9]:
            assert os.listdir(journal.path) == []
            return killed
        killed += 1
        if acknowledged[-1:] == [first + 3] and not journal.load_all():
            assert os.listdir(journal.path) == [], "a removal was left half done"
            continue
        check_found(journal, first, acknowledged)


def kill_at_random(journal: Journal, count: int, seed: int) -> int:
    """Save on and on from where the last child came to, killed at random instants."""
    chance = random.Random(seed)
    number = -1
    for _ in range(count):

        def work(done: int, begin: int = number) -> None:
            for following in range(begin + 1, begin + 100_000):
                journal.save(make_record(following))
                os.write(done, b"%d " % following)

        def kill_soon(pid: int, done: int) -> None:
            if chance.random() < 0.5:  # else it may be killed before anything was saved
                select.select([done], [], [], 60)
            deadline = time.monotonic() + chance.uniform(0.0, 0.02)
            while time.monotonic() < deadline:
                select.select([], [], [], 0)
            os.kill(pid, signal.SIGKILL)

        found = check_found(journal, number, run_child(work, kill_soon))
        number = -1 if found is None else found
    assert number > 0, "no save ever came through"
    return count


def main() -> None:
    folder, mode, *arguments = sys.argv[1:]
    journal = Journal(Path(folder))
    if mode == "steps":
        killed = kill_at_every_step(journal, tuple(arguments))
    else:
        killed = kill_at_random(journal, int(arguments[0]), int(arguments[1]))
    sys.stdout.write(f"killed {killed}\n")


main()
