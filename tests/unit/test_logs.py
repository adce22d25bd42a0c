"""Log lines: their form, whose request they belong to, that no secret is in them and that nobody waits for them."""

import asyncio
import io
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from vdsm.core.context import Request, set_request
from vdsm.core.errors import InvalidArgument
from vdsm.core.masking import mask
from vdsm.logs import LogOutput, open_logs

log = logging.getLogger("storage.test_logs")


@contextmanager
def logging_to(stream: io.StringIO, **options: object) -> Iterator[LogOutput]:
    output = open_logs(stream=stream, **options)  # type: ignore[arg-type]
    try:
        yield output
    finally:
        output.close()


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_the_form_of_a_line() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        log.warning("disk %s is slow", "a")
        log.error("bad")
    first, second = lines_of(stream)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}[+-]\d{4} WARN  \(MainThread\) \[storage\.test_logs\] "
        r"disk a is slow \(test_logs:\d+\)",
        first,
    )
    assert " ERROR (MainThread) " in second


async def test_each_line_names_the_flow_of_its_request() -> None:
    stream = io.StringIO()

    async def work(flow_id: str) -> None:
        set_request(Request(flow_id=flow_id))
        log.info("work")

    with logging_to(stream):
        await asyncio.gather(asyncio.create_task(work("one")), asyncio.create_task(work("two\nforged")))
        log.info("own")
    told = lines_of(stream)
    assert "work flow_id=one (" in told[0]
    assert "work flow_id=two forged (" in told[1]
    assert "flow_id" not in told[2]


def test_a_message_is_one_line() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        log.info("name %s", "x\n2030-01-01 ERROR forged\r")
    assert len(lines_of(stream)) == 1


def test_a_message_is_of_bounded_length() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        log.info("given %s", "x" * 1_000_000)
    [line] = lines_of(stream)
    assert len(line) < 25_000 and "characters more" in line


def test_a_traceback_is_kept() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("failed")
    assert lines_of(stream)[-1] == "ValueError: broken"


class Ticket(msgspec.Struct):
    password: str
    ttl_s: int


def test_secrets_are_masked_at_any_depth_and_nothing_is_changed() -> None:
    params = {
        "conList": [{"user": "u", "password": "hunter2"}],
        "_X_tpmdata": {"a": "hunter2"},
        "t": Ticket("hunter2", 5),
    }
    masked = mask(params)
    assert masked == {
        "conList": [{"user": "u", "password": "********"}],
        "_X_tpmdata": "********",
        "t": {"password": "********", "ttl_s": 5},
    }
    assert params["conList"] == [{"user": "u", "password": "hunter2"}]


def test_files_for_guests_are_secrets_in_both_forms() -> None:
    dictionary = {"sysprepInf": "hunter2", "specParams": {"vmPayload": {"file": {"user_data": "hunter2"}}}}
    xml = """<vm><v:file path="a'b">hunter2</v:file><file path='c'>hunter2</file><file>kept</file></vm>"""
    assert mask(dictionary) == {"sysprepInf": "********", "specParams": {"vmPayload": "********"}}
    assert mask(xml) == xml.replace("hunter2", "********")


def test_no_secret_reaches_the_log() -> None:
    stream = io.StringIO()
    with logging_to(stream, level="DEBUG"):
        log.debug("one %s two %r", [{"Passwd": "hunter2"}], (Ticket("hunter2", 1),))
        log.debug("only %(x)s and %(password)s", {"x": 1, "password": "hunter2"})
        log.debug({"password": "hunter2"})
    assert len(lines_of(stream)) == 3
    assert "hunter2" not in stream.getvalue()


def test_masking_survives_deep_nesting() -> None:
    value: object = "x"
    for _ in range(10_000):
        value = [value]
    assert "..." in str(mask(value))


@pytest.mark.parametrize("levels", ["storage", "DEBUG", "storage=", "storage=LOUD", "storage=-1", "storage=²"])
def test_a_level_that_is_none_is_refused(levels: str) -> None:
    with pytest.raises(InvalidArgument):
        open_logs(levels=(levels,))


def test_single_loggers_have_their_own_level() -> None:
    stream = io.StringIO()
    with logging_to(stream, level="ERROR", levels=("storage.test_logs.loud=debug", " storage.test_logs.mute = Crit")):
        log.info("quiet")
        logging.getLogger("storage.test_logs.loud").debug("loud")
        logging.getLogger("storage.test_logs.mute").error("mute")
    assert [("loud" in line) for line in lines_of(stream)] == [True]


class SlowStream(io.StringIO):
    """A disk that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.busy.set()
        self.released.wait(30)
        return super().write(text)


def test_a_slow_disk_costs_the_less_important_lines_only() -> None:
    stream = SlowStream()
    with logging_to(stream, level="DEBUG", queue_records=100) as output:
        log.info("first")
        assert stream.busy.wait(30)
        for _ in range(200):
            log.debug("chatter")
        for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            for _ in range(200):
                log.log(level, "line")
        assert output.dropped_count == 1000 - 100
        stream.released.set()
    text = stream.getvalue()
    counts = [text.count(word) for word in (" DEBUG ", " INFO ", " WARN ", " ERROR ", " CRIT ")]
    assert counts == [60, 1 + 10, 10, 10, 10]
    assert "[900 log lines were dropped before this one]" in text


def test_the_file_is_readable_and_may_be_rotated(tmp_path: Path) -> None:
    file = tmp_path / "vdsm.log"
    before = os.umask(0o077)
    try:
        output = open_logs(file=file)
        log.info("one")
        output.close()
        file.rename(tmp_path / "vdsm.log.1")
        output = open_logs(file=file)
        log.info("two")
        output.close()
    finally:
        os.umask(before)
    assert "two" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "vdsm.log"
    output = open_logs(file=file)
    file.rename(tmp_path / "vdsm.log.1")
    log.info("after")
    output.close()
    assert "after" in file.read_text()


def test_closing_restores_what_was() -> None:
    before = (logging.getLogger().handlers[:], logging.getLogger().level)
    with logging_to(io.StringIO(), level="DEBUG"):
        assert logging.getLogger().handlers != before[0]
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
