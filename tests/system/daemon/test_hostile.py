"""The real daemon under fire for a minute, an hour in soak: it goes on, its memory is bounded, its log has no trace."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from lab.commands import PartFailed
from tests.daemon.hostile_clients import DIALECTS, Reply, attacking, hang_up, is_unforeseen
from tests.daemon.hostile_node import list_good, list_tree, make_bait
from tests.daemon.hostile_values import VERBS, Attack, Long, Word, list_attacks
from tests.daemon.running import Furniture
from tests.daemon.test_hostile_documents import REFUSED, STARTED
from tests.rounds import SOAK_FACTOR
from tests.system.vdsmd import CallFailed, Pool, Vdsmd, Volume, make_id, poll
from vdsm.api.declare import Verb
from vdsm.wire.tls import TlsFiles, make_client_context

pytestmark = pytest.mark.xdist_group("hostile")

REPAIRS = 3
DURATION_S = 3600 * SOAK_FACTOR if SOAK_FACTOR else 50.0
ROUND_S = 6.0
ATTACKERS = 4
UNTOUCHED = ("host.set_log_level",)  # it would silence the log that is looked at
OF_THE_HOST = ("/etc", "/dev", "/proc", "/sys", "<secret link>", "<bait>", "/root")
"""A VM may be given any path; qemu of these tests runs as root, so none is given that is somebody's."""
LOOK_S = 0.1
DESTROY_LIMIT_S = 150.0
"""A start that is under way and the end after it may take libvirt a minute each; some VMs here have 251 processors."""
FIRE_LIMIT_MIB = 300
"""At any moment: what is half read, worked on and half answered."""
REST_LIMIT_MIB = 150
GROWTH_LIMIT_MIB = 24
"""By how much the daemon at rest may be larger in the last quarter of the rounds than in the first."""
THREADS_LIMIT = 60
FILES_LIMIT = 40
"""At rest: there is one client then."""

LEFT = "is given up here and left to the next SPM"

HEADS = [
    *(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, b"GET /" + b"a" * 100_000, b"POST /RPC2 HTTP/1.1\r\nHost: x\r\n"),
    *(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n<", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    *(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"CONNECT\nhost:x\n"),
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000,
    *(b"SEND\n" + b"a:b\n" * 30_000, b"SEND\ncontent-length:99999999999\n\n", b"SEND\ncontent-length:-1\n\nx\0"),
    *(b"SUBSCRIBE\ndestination:%d\nid:%d\n\n\0" % (n, n) for n in range(3)),
    *(b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 1000, b"\n" * 100_000, b"SEND\n\n" + b"[" * 1_000_000 + b"\0"),
    b"SEND\ndestination:jms.topic.vdsm_requests\nreply-to:x\n\n" + b"[" + b"1," * 400_000 + b"1]\0",
    b"SEND\ndestination:jms.topic.vdsm_requests\nreply-to:x\n\n" + b'{"a":' * 100_000 + b"\0",
    b"SUBSCRIBE\ndestination:>\nid:1\n\n\0" * 2000,
    b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: " + b"9" * 5000 + b"\r\n\r\n",
]
"""What is said on a new connection and never made complete, or never makes sense."""


class Fortress:
    """The daemon as attackers see it, over the unix socket and, every third time, over TLS."""

    def __init__(self, pool: Pool, made: Furniture, outside: Path) -> None:
        self.pool = pool
        self.vdsmd = pool.vdsmd
        self.made = made
        self.outside = outside
        self.process = psutil.Process(self.vdsmd.process.pid)
        self.count = 0
        self._tls = make_client_context(TlsFiles.of_client(self.vdsmd.paths.pki))
        self._opened = 0

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._opened += 1
        if self._opened % 3 == 0:
            return await asyncio.open_connection("localhost", self.vdsmd.port, ssl=self._tls)
        return await asyncio.open_unix_connection(self.vdsmd.paths.socket)

    def get_good(self, verb: Verb) -> dict[str, Any]:
        return list_good(verb, self.made, self.vdsmd.root / "other")

    def resolve(self, word: Word) -> Any:
        return {
            "storage": self.made.folder,
            "link": str(self.outside / "link"),
            "secret link": str(self.outside / "secret"),
            "bait": str(self.outside / "bait"),
        }[word.name]

    def get_memory_mib(self) -> int:
        return int(self.process.memory_info().rss) >> 20

    def rest(self) -> int:
        """Wait until nothing is left of the attackers; the memory that is still taken, in MiB."""
        poll(lambda: self.process.num_fds() < FILES_LIMIT, "connections and files are closed")
        poll(lambda: self.process.num_threads() < THREADS_LIMIT, "idle threads have ended")
        return self.get_memory_mib()


def is_safe(attack: Attack) -> bool:
    """Whether it may be tried on this machine."""
    touches = attack.verb.name == "vm.create" and any(path in repr(attack) for path in OF_THE_HOST)
    return attack.verb.name not in UNTOUCHED and not touches


def list_ammunition() -> dict[str, list[Attack]]:
    """What to try, by verb; documents and long texts beside the values in turn."""
    found: dict[str, list[Attack]] = {}
    for attack in filter(is_safe, list_attacks()):
        found.setdefault(attack.verb.name, []).append(attack)
    documents = [text for text in (*REFUSED.values(), *STARTED.values()) if "etc" not in text]
    found["documents"] = [Attack(VERBS["vm.create"], {"parameters": {"xml": text}}) for text in documents]
    found["long"] = [
        Attack(verb, {parameter.name: Long("0123456789abcdef", 640 * 1024)})
        for verb in VERBS.values()
        for parameter in verb.parameters
        if verb.name not in UNTOUCHED
    ]
    return found


class Battle:
    """All attackers, until time is over."""

    def __init__(self, fortress: Fortress, seed: int) -> None:
        self.fortress = fortress
        self.chance = random.Random(seed)
        self.ammunition = list_ammunition()
        self.kinds = [*self.ammunition, "long", "documents"]
        self.codes: Counter[str] = Counter()
        self.most_mib = 0

    async def fight(self, seconds: float) -> None:
        """One round."""
        end_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(ATTACKERS):
                group.create_task(self._call(end_s))
            group.create_task(self._annoy(end_s))
            group.create_task(self._weigh(end_s))

    async def _weigh(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            self.most_mib = max(self.most_mib, self.fortress.get_memory_mib())
            await asyncio.sleep(LOOK_S)

    def _choose(self) -> Attack:
        return self.chance.choice(self.ammunition[self.chance.choice(self.kinds)])

    async def _call(self, end_s: float) -> None:
        async with attacking(self.fortress) as [attacker]:
            while time.monotonic() < end_s:
                attack, dialect = self._choose(), self.chance.choice(DIALECTS)
                try:
                    reply: Reply = await attacker.call(attack, dialect)
                except (ConnectionError, EOFError) as error:  # thrown out for what it said
                    reply = Reply(0, type(error).__name__, 0)
                    await attacker.close()
                assert not is_unforeseen(reply, dialect), f"{attack!r:.500} over {dialect}: {reply.text}"
                self.codes["done" if reply.code is None else "refused" if reply.code else reply.text] += 1

    async def _annoy(self, end_s: float) -> None:
        """Connections that are not what they should be: some stay for a while, some leave in the middle."""
        async with attacking(self.fortress) as [attacker], AsyncExitStack() as stack:
            while time.monotonic() < end_s:
                with suppress(OSError):
                    if self.chance.random() < 0.3:
                        await attacker.say(self._choose(), self.chance.choice(DIALECTS), self.chance.random())
                    else:
                        _, writer = await self.fortress.open()
                        writer.write(self.chance.choice(HEADS))
                        stack.push_async_callback(hang_up, writer, politely=False)
                self.codes["annoyed"] += 1
                if self.codes["annoyed"] % 40 == 0:
                    await stack.pop_all().aclose()


def repair(fortress: Fortress) -> None:
    """Put things right between two rounds, as their owner would: again when a call of those who left undid it."""
    for _ in range(REPAIRS - 1):
        with suppress(CallFailed):
            return repair_once(fortress)
    return repair_once(fortress)


def repair_once(fortress: Fortress) -> None:
    """Raises CallFailed when something does not get right, or is undone meanwhile by a call that still works."""
    vdsmd, made = fortress.vdsmd, fortress.made
    for vm in vdsmd.call("Host.getVMList"):
        if vm["vmId"] != made.vm_id or vm["status"] == "Down":
            vdsmd.client.call("VM.destroy", {"vmID": vm["vmId"]}, DESTROY_LIMIT_S)
    if made.vm_id not in {vm["vmId"] for vm in vdsmd.call("Host.getVMList")}:
        vdsmd.create_vm(vm_id=made.vm_id, display="vnc")
    fortress.pool.connect_server()
    fortress.pool.restore()
    tasks = poll(lambda: list_done_tasks(vdsmd), "all tasks are done")
    if vdsmd.call("StoragePool.getSpmStatus", storagepoolID=made.pool_id)["spmStatus"] != "SPM":
        fortress.pool.start_spm()
    for task_id in tasks:
        with suppress(CallFailed):
            vdsmd.call("Task.clear", taskID=task_id)
    if made.volume_id not in fortress.pool.list_volumes():
        fortress.pool.create_volume(Volume(made.image_id, made.volume_id))


def list_done_tasks(vdsmd: Vdsmd) -> list[str] | None:
    """All tasks when none works any more."""
    tasks = vdsmd.call("Host.getAllTasks")
    return (
        None
        if any(task["state"] not in ("finished", "recovered", "failed", "aborted") for task in tasks.values())
        else ["", *tasks]
    )


def check_volumes(pool: Pool, log_begin: int) -> None:
    """What is listed has its files, and there are no others, once the calls of those who left have ended.

    A task whose storage was disconnected under it may be left to the next SPM, when the log says so: that one is here.
    """

    def list_wrong() -> set[str]:
        listed = pool.list_volumes()
        found = {path.name for path in pool.path.glob("images/*/*") if path.suffix != ".lease"}
        return found ^ {name for volume in listed for name in (volume, f"{volume}.meta")}

    def look() -> bool:
        with suppress(PartFailed):
            poll(lambda: not list_wrong(), "all calls have ended")
        return not list_wrong()

    if not look() and LEFT in pool.vdsmd.read_log(log_begin):
        pool.stop_spm()
        pool.start_spm()
        look()
    assert list_wrong() == set()
    pool.vdsmd.call("StorageDomain.validate", storagedomainID=pool.domain_id)


@pytest.fixture
def fortress(vdsmd: Vdsmd, pool: Pool) -> Iterator[Fortress]:
    other, outside = vdsmd.root / "other", vdsmd.root / "outside"
    other.mkdir()
    os.chown(other, 36, 36)
    make_bait(outside, pool.folder)
    place = [{"id": make_id(), "connection": str(other)}]
    vdsmd.call("StoragePool.connectStorageServer", storagepoolID="", domainType="LOCALFS", connectionParams=place)
    volume = pool.create_volume(Volume())
    vm_id = vdsmd.create_vm(display="vnc")
    ids = (pool.pool_id, pool.domain_id, volume.image_id, volume.volume_id, vm_id, make_id())
    yield Fortress(pool, Furniture(str(pool.folder), *ids), outside)


@pytest.mark.timeout(DURATION_S * 2 + 120)
def test_the_daemon_under_fire(fortress: Fortress, record_property: Any) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    battle = Battle(fortress, seed)
    outside = list_tree(fortress.outside)
    at_rest_mib: list[int] = []
    began_s = time.monotonic()
    with asyncio.Runner() as runner:
        while time.monotonic() - began_s < DURATION_S:
            log_begin = fortress.vdsmd.log.stat().st_size
            runner.run(battle.fight(ROUND_S))
            assert fortress.vdsmd.process.poll() is None, "the daemon ended"
            repair(fortress)
            check_volumes(fortress.pool, log_begin)
            at_rest_mib.append(fortress.rest())
            assert battle.most_mib < FIRE_LIMIT_MIB, f"{battle.most_mib} MiB of memory (seed {seed})"
    told = f"seed {seed}: {dict(battle.codes)}; at most {battle.most_mib} MiB, at rest {at_rest_mib[:200]}"
    print(told)  # noqa: T201
    record_property("battle", told)
    quarter = max(2, len(at_rest_mib) // 4)
    early, late = (median(part) for part in (at_rest_mib[1:][:quarter], at_rest_mib[-quarter:]))
    assert late < REST_LIMIT_MIB and late - early < GROWTH_LIMIT_MIB, told
    assert list_tree(fortress.outside) == outside
    assert "Traceback" not in fortress.vdsmd.read_log()
