"""Hostile parameters of every verb in every dialect: each is refused in words, or does what it says and no more."""

import asyncio
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.daemon.hostile_clients import DIALECTS, attacking
from tests.daemon.hostile_node import Siege, besieged
from tests.daemon.hostile_values import attacks

T = TypeVar("T")
EXAMPLES = settings.default.max_examples
patient = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Loop:
    """A siege that lasts for many examples, each a run of its loop."""

    def __init__(self, runner: asyncio.Runner, siege: Siege) -> None:
        self._runner = runner
        self.siege = siege

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with self.siege.watching():
            return self._runner.run(work)


@pytest.fixture(scope="module")
def loop(certificates: Path) -> Iterator[Loop]:
    with tempfile.TemporaryDirectory(prefix="vdsm-") as folder, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        Path(folder).chmod(0o755)
        siege = runner.run(stack.enter_async_context(besieged(Path(folder), certificates)))
        try:
            yield Loop(runner, siege)
        finally:
            runner.run(stack.aclose())


@patient
@given(st.lists(st.tuples(attacks(), st.sampled_from(DIALECTS)), min_size=1, max_size=8))
def test_one_after_another(loop, script):
    async def play() -> None:
        async with attacking(loop.siege) as [attacker]:
            for attack, dialect in script:
                loop.siege.check_reply(await attacker.call(attack, dialect), (attack, dialect))
        await loop.siege.check()

    loop.run(play())


@patient
@given(st.lists(st.tuples(attacks(), st.sampled_from(DIALECTS)), min_size=2, max_size=8))
def test_all_at_once(loop, script):
    async def play() -> None:
        async with attacking(loop.siege, len(script)) as attackers:
            calls = [attacker.call(*call) for attacker, call in zip(attackers, script, strict=True)]
            for reply, call in zip(await asyncio.gather(*calls), script, strict=True):
                loop.siege.check_reply(reply, call)
        await loop.siege.check()

    loop.run(play())


@patient
@given(st.lists(st.tuples(attacks(), st.sampled_from(DIALECTS), st.floats(0, 1)), min_size=1, max_size=8))
def test_peers_that_vanish(loop, script):
    async def play() -> None:
        async with attacking(loop.siege) as [attacker]:
            await asyncio.gather(*(attacker.say(*call) for call in script))
        await loop.siege.check()

    loop.run(play())
