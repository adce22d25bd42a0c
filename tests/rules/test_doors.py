"""Only the named doors catch everything, start processes or are untyped."""

import pytest

from tests.rules import doors, house
from tests.rules.source import list_modules, sample

CHECKS = [doors.check_broad_handlers, doors.check_processes, doors.check_any]
TRY = "try:\n    work()\n"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sources_keep_to(check):
    assert check(list_modules()) == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (TRY + "except Exception:\n    pass", "catches Exception"),
        (TRY + "except (OSError, Exception) as error:\n    log(error)", "catches Exception"),
        (TRY + "except BaseException as error:\n    raise Wrapped from error", "catches BaseException"),
        (TRY + "except* Exception:\n    pass", "catches Exception"),
        (TRY + "except:\n    raise", "bare except"),
        ("with contextlib.suppress(OSError, Exception):\n    work()", "suppresses Exception"),
    ],
)
def test_a_broad_handler_is_told(text, hint):
    [problem] = doors.check_broad_handlers(sample(vdsm__virt__service=text))
    assert hint in problem


def test_broad_handlers_are_legal_at_doors_and_for_cleaning_up():
    door = next(iter(house.BROAD_DOORS)).removeprefix("src/").removesuffix(".py").replace("/", "__")
    assert doors.check_broad_handlers(sample(**{door: TRY + "except Exception:\n    pass"})) == []
    assert doors.check_broad_handlers(sample(a=TRY + "except BaseException:\n    tidy()\n    raise")) == []
    assert doors.check_broad_handlers(sample(a=TRY + "except OSError:\n    pass")) == []


def test_a_bare_handler_is_illegal_even_at_a_door():
    door = next(iter(house.BROAD_DOORS)).removeprefix("src/").removesuffix(".py").replace("/", "__")
    assert len(doors.check_broad_handlers(sample(**{door: TRY + "except:\n    pass"}))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import subprocess",
        "from subprocess import run",
        "from multiprocessing import Process",
        "import os\nos.fork()",
        "from os import fork",
        "import os\nos.execvp('x', ['x'])",
        "import asyncio\nasyncio.create_subprocess_exec('x')",
        "from asyncio import create_subprocess_shell",
        "loop.subprocess_exec(factory, 'x')",
        "from concurrent.futures import ProcessPoolExecutor",
    ],
)
def test_starting_a_process_is_told(text):
    assert len(doors.check_processes(sample(vdsm__storage__images=text))) == 1
    assert doors.check_processes(sample(vdsm__adapters__run=text)) == []


def test_using_the_door_is_no_process():
    assert doors.check_processes(sample(a="from vdsm.adapters.run import run\nimport os\nos.environ.get('x')")) == []


def test_any_is_told():
    text = "from typing import Any\ndef f(x: dict[str, Any]) -> None: ..."
    assert len(doors.check_any(sample(vdsm__virt__service=text))) == 1
    assert doors.check_any(sample(vdsm__wire__rest=text)) == []
    assert len(doors.check_any(sample(a="import typing\nx: typing.Any = 1"))) == 1
