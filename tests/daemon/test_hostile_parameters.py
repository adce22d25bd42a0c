"""Hostile parameters of every verb in every dialect: each is refused in words, or does what it says and no more."""

import asyncio
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.daemon.hostile_clients import DIALECTS, Dialect, attacking, to_json
from tests.daemon.hostile_node import Ground
from tests.daemon.hostile_values import VERBS, Attack, Long, attacks, list_attacks
from tests.daemon.running import make_id
from tests.rounds import SOAK_FACTOR

patient = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
calls = st.tuples(attacks(), st.sampled_from(DIALECTS))
STEP = 1 if SOAK_FACTOR else 101
"""Of the values in turn, quick runs take every so manieth: a prime, so that all verbs and values have theirs."""
CHECKED_AFTER = 40


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_value_in_each_place(ground: Ground, dialect: Dialect) -> None:
    script = list(list_attacks())[DIALECTS.index(dialect) :: STEP]

    async def play() -> None:
        async with attacking(ground.siege) as [attacker]:
            for number, attack in enumerate(script):
                ground.siege.check_reply(await attacker.call(attack, dialect), (attack, dialect))
                ground.siege.reset_levels()
                if number % CHECKED_AFTER == CHECKED_AFTER - 1:
                    await ground.siege.check()
        await ground.siege.check()

    ground.run(play())


@patient
@given(st.lists(calls, min_size=1, max_size=8))
def test_one_after_another(ground, script):
    async def play() -> None:
        async with attacking(ground.siege) as [attacker]:
            for attack, dialect in script:
                ground.siege.check_reply(await attacker.call(attack, dialect), (attack, dialect))
        await ground.siege.check()

    ground.run(play())


@patient
@given(st.lists(calls, min_size=2, max_size=8))
def test_all_at_once(ground, script):
    async def play() -> None:
        async with attacking(ground.siege, len(script)) as attackers:
            running = [attacker.call(*call) for attacker, call in zip(attackers, script, strict=True)]
            for reply, call in zip(await asyncio.gather(*running), script, strict=True):
                ground.siege.check_reply(reply, call)
        await ground.siege.check()

    ground.run(play())


@patient
@given(st.lists(st.tuples(attacks(), st.sampled_from(DIALECTS), st.floats(0, 1)), min_size=1, max_size=8))
def test_peers_that_vanish(ground, script):
    async def play() -> None:
        async with attacking(ground.siege) as [attacker]:
            await asyncio.gather(*(attacker.say(*call) for call in script))
        await ground.siege.check()

    ground.run(play())


LONG = Long("0123456789abcdef", 10 * (1 << 20) // 16)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("verb", "twisted"),
    [
        ("volume.create", {"description": LONG}),
        ("volume.create", {"disk_type": LONG}),
        ("vm.create", {"parameters": {"memory_mib": 16, "name": LONG}}),
        ("vm.set_ticket", {"existing_connection": LONG}),
        ("pool.connect_server", {"connections": [{"id": "x", "connection": LONG}]}),
    ],
)
def test_ten_mebibytes_of_text(ground: Ground, verb: str, twisted: dict[str, object], dialect: Dialect) -> None:
    async def play() -> None:
        async with attacking(ground.siege) as [attacker]:
            ground.siege.check_reply(await attacker.call(Attack(VERBS[verb], twisted), dialect), verb)
        await ground.siege.check()

    ground.run(play())


def test_domains_that_never_were_leave_no_threads(ground: Ground) -> None:
    async def play() -> None:
        async with attacking(ground.siege) as [attacker]:
            for _ in range(600):
                await attacker.call(Attack(VERBS["domain.get_info"], {"domain_id": make_id()}), "jsonrpc")

    ground.run(play())
    assert threading.active_count() < 200


def test_one_folder_is_remembered_once_whatever_it_is_called(ground: Ground) -> None:
    siege = ground.siege
    remembered = siege.daemon.paths.state / "storage.json"

    async def play() -> None:
        async with attacking(siege) as [attacker]:
            for number in range(30):
                spelt = siege.made.folder + "/." * number + "/" * (number % 3)
                twisted = {"connections": [{"id": "x", "connection": spelt}]}
                reply = await attacker.call(Attack(VERBS["pool.connect_server"], twisted), "rest")
                assert reply.result == [{"id": "x", "status": 0}]

    ground.run(play())
    assert remembered.read_text().count(siege.made.folder) == 1


@pytest.mark.parametrize(
    "last_id", ["", "x", "-1", "0-0", "9" * 400, "1-" + "9" * 400, "1-١", "%00", "a" * 8000, "1-1-1", "\x85"]
)
def test_streams_that_begin_nowhere(ground: Ground, last_id: str) -> None:
    async def play() -> bytes:
        reader, writer = await ground.siege.open()
        request = f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {last_id}\r\n\r\n"
        writer.write(request.encode("latin-1", "replace"))
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            first = await reader.readuntil(b"\n\n")
        writer.transport.abort()
        assert head.startswith(b"HTTP/1.1 200 ")
        await ground.siege.check()
        return first

    assert b": " in ground.run(play())


def test_a_batch_of_everything(ground: Ground) -> None:
    """One body with a call of every verb, with nothing given."""

    async def play() -> None:
        reader, writer = await ground.siege.open()
        calls = [{"jsonrpc": "2.0", "id": verb.ovirt, "method": verb.ovirt} for verb in VERBS.values()]
        body = to_json(calls).encode()
        writer.write(b"SUBSCRIBE\ndestination:a\nid:1\n\n\0SEND\ndestination:jms.topic.vdsm_requests\nreply-to:a\n\n")
        writer.write(body + b"\0")
        async with asyncio.timeout(20):
            answer = await reader.readuntil(b"\0")
        writer.transport.abort()
        assert answer.count(b'"jsonrpc":"2.0"') == len(VERBS)
        await ground.siege.check()

    ground.run(play())
