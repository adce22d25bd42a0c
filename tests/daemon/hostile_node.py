"""A furnished daemon under siege, and what must hold whatever is thrown at it.

It answers, its log is clean, it touches no file but its own, nothing half-made is left.
"""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tests.daemon.hostile_clients import DIALECTS, Reply, is_unforeseen
from tests.daemon.hostile_values import Word
from tests.daemon.running import Furniture, Running, choose_settings, describe_volume, furnish, make_id, running
from vdsm.api.declare import Verb
from vdsm.api.storage_types import DomainArguments
from vdsm.core.ids import BLANK_UUID

T = TypeVar("T")

OWNER = (36, 36)
LONGEST_LINE = 4000
LONGEST_REFUSAL = 8000
LOGGERS = ("vds", "api", "jsonrpc", "http", "storage", "virt", "vdsm")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.chown", "os.truncate", "os.utime"), (0,)),
    **dict.fromkeys(("os.rename", "os.link"), (0, 1)),
    "os.symlink": (1,),
    "shutil.rmtree": (0,),
}
"""Which arguments of what the interpreter tells of are paths that change."""


PLAIN: dict[str, Any] = {
    "size_bytes": 1 << 20,
    "format": "COW",
    "allocation": "SPARSE",
    "disk_type": "DATA",
    "block_size_bytes": 512,
    "level": "INFO",
    "ttl_s": 60,
    "scsi_key": "",
    "scsi_fencing": "false",
    "version": 5,
    "zero": False,
    "force": False,
    "previous_id": -1,
    "previous_lease_version": -1,
    "target_kib": 32768,
    "quota_us": 50_000,
    "period_us": 100_000,
    "disks": [{"name": "hda", "limits": {"total_bytes_per_s": 5}}],
}
"""What parameters of these names may be anywhere."""


_WORTH = ("domain_type", "version", "vm_ids", "block_size_bytes")
"""Parameters that may miss, and are given all the same: without them a call gets less far."""


def list_good(verb: Verb, made: Furniture, other_folder: Path) -> dict[str, Any]:
    """Arguments that the verb would take on that furniture, by our names; what is to be made has new ids."""
    known: dict[str, Any] = {
        "pool_id": made.pool_id,
        "domain_id": made.domain_id,
        "image_id": made.image_id,
        "volume_id": made.volume_id,
        "vm_id": made.vm_id,
        "task_id": made.task_id,
        "master_domain_id": made.domain_id,
        "domain_ids": [made.domain_id],
        "volume_ids": [made.volume_id],
        "vm_ids": [made.vm_id],
        "change": {"vmId": made.vm_id, "disks": [{"name": "hda", "maximum": {"total_bytes_per_s": 5}}]},
        "vms": [{"vm_id": made.vm_id, "ovf": "<Envelope/>"}],
        **dict.fromkeys(("old_domain_id", "new_domain_id"), made.domain_id),
        "domains": {made.domain_id: "Active"},
        "devices": ["device"],
        "device": "device",
        "pattern": "*",
        "case_sensitive": False,
        "connections": [{"id": make_id(), "connection": made.folder}],
        "domain_type": "LOCALFS",
        "arguments": {"remote_path": str(other_folder)},
        "domain_class": "Data",
        "remote_path": made.folder,
        **dict.fromkeys(("name", "message", "password", "description"), "of a test"),
        **dict.fromkeys(("host_id", "master_version"), 1),
        **PLAIN,
        **dict.fromkeys(("renewal_s", "lease_s", "io_timeout_s", "lease_retries", "delay_s", "timeout_s"), 1),
        **_make_fresh(verb.name),
    }
    return {p.name: known[p.name] for p in verb.parameters if p.name in known and (p.required or p.name in _WORTH)}


def _make_fresh(name: str) -> dict[str, Any]:
    fresh = make_id()
    if name == "vm.create":
        parameters = {"vm_id": fresh, "name": f"vm-{fresh[:8]}", "memory_mib": 16, "display": "vnc"}
        return {"vm_id": fresh, "parameters": parameters}
    if name == "volume.create":
        return {"volume_id": fresh, "image_id": make_id()}
    return {"domain.create": {"domain_id": fresh}, "pool.create": {"pool_id": fresh}}.get(name, {})


class Intrusions:
    """Paths that this process changed outside of the folders where it may: the interpreter tells of every attempt.

    Names relative to an open folder are left out: who opened the folder was judged.
    """

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.found: list[str] = []
        self.is_watching = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_watching:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITING
            changed: tuple[object, ...] = (path,) if writes else ()
        elif event in _CHANGES:
            changed = tuple(arguments[place] for place in _CHANGES[event])
        else:
            return
        for path in changed:
            if isinstance(path, (str, bytes, os.PathLike)) and os.path.isabs(path):
                self._judge(event, os.path.realpath(os.path.dirname(os.fsdecode(path))))

    def _judge(self, event: str, folder: str) -> None:
        if not folder.startswith(self.allowed):
            self.found.append(f"{event} in {folder}")


INTRUSIONS = Intrusions()


class Complaints(logging.Handler):
    """Log records that no hostile call may cause: traces, errors, lines of endless length."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not INTRUSIONS.is_watching:
            return  # of other tests
        line = record.getMessage()
        if record.exc_info or record.levelno >= logging.ERROR:
            self.found.append(self.format(record))
        elif record.levelno > logging.DEBUG and len(line) > LONGEST_LINE:
            self.found.append(f"a line of {len(line)} characters: {line[:200]}")


class Siege:
    """A furnished daemon: `check` tells whether it is as it was."""

    def __init__(self, daemon: Running, made: Furniture, outside: Path) -> None:
        self.daemon = daemon
        self.made = made
        self.outside = outside
        self.other_folder = Path(made.folder).with_name("other")
        self.complaints = Complaints()
        self._names = list_tree(outside)
        self._fresh: dict[str, str] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch over files for the block; what tests do for themselves is done outside of it."""
        INTRUSIONS.found.clear()
        INTRUSIONS.is_watching = True
        try:
            yield
        finally:
            INTRUSIONS.is_watching = False

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.daemon.node.port)

    def resolve(self, word: Word) -> Any:
        return {
            "storage": self.made.folder,
            "link": str(self.outside / "link"),
            "secret link": str(self.outside / "secret"),
            "bait": str(self.outside / "bait"),
        }[word.name]

    def get_good(self, verb: Verb) -> dict[str, Any]:
        return list_good(verb, self.made, self.other_folder)

    # What must hold.

    def check_reply(self, reply: Reply, what: object) -> None:
        """A refusal is one that somebody thought of, and says it in a few words."""
        assert not any(is_unforeseen(reply, dialect) for dialect in DIALECTS), f"{what}: {reply.text}"
        if reply.code is not None:
            assert reply.size_bytes < LONGEST_REFUSAL, (
                f"{what}: {reply.size_bytes} bytes of refusal: {reply.text[:300]}"
            )

    async def check(self) -> None:
        """The daemon is there and as it was; what it agreed to make is whole and is removed."""
        assert self.complaints.found == [], "\n".join(self.complaints.found)[:6000]
        assert INTRUSIONS.found == [], INTRUSIONS.found
        assert list_tree(self.outside) == self._names, "something outside changed"
        await self._restore_vms()
        await self._restore_storage()
        self.daemon.told.clear()
        self.reset_levels()

    def reset_levels(self) -> None:
        """Hear everything again, after `setLogLevel`."""
        logging.getLogger().setLevel(logging.INFO)
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.NOTSET)

    async def _restore_vms(self) -> None:
        call, fake = self.daemon.call, self.daemon.machine.fake
        for vm in await call("vms.list_vms"):
            if vm.vm_id != self.made.vm_id:
                await call("vm.destroy", vm_id=vm.vm_id)
        assert fake.domains.keys() <= {self.made.vm_id}, "a domain without a VM"
        status = self.daemon.node.vms._shared.vms.get(self.made.vm_id)
        if status is not None and not status.is_alive:
            await call("vm.destroy", vm_id=self.made.vm_id)
        if status is None or not status.is_alive:
            given = {"vmId": self.made.vm_id, "vmName": "first", "memSize": 64, "display": "vnc"}
            await self.daemon.rpc("VM.create", {"vmID": self.made.vm_id, "vmParams": given})
        vm = self.daemon.node.vms._shared.vms[self.made.vm_id]
        await self.daemon.wait_until(lambda: not vm.is_launching)

    async def _restore_storage(self) -> None:
        made, call = self.made, self.daemon.call
        await self._finish_tasks()
        place = [{"id": make_id(), "connection": made.folder}]
        server = {"storagepoolID": made.pool_id, "domainType": "LOCALFS", "connectionParams": place}
        await self.daemon.rpc("StoragePool.connectStorageServer", server)
        if await call("storage.list_pools") != [made.pool_id]:
            await self._restore_pool()
        if (await call("pool.get_spm_status", pool_id=made.pool_id)).status != "SPM":
            given = {"storagepoolID": made.pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
            await self.daemon.finish(await self.daemon.rpc("StoragePool.spmStart", given))
        await call("domain.validate", domain_id=made.domain_id)
        await self._check_volumes()

    async def _restore_pool(self) -> None:
        """Make what was formatted or destroyed again, and connect the pool."""
        made, call = self.made, self.daemon.call
        if made.domain_id not in await call("storage.list_domains"):
            domain = {"domain_id": made.domain_id, "domain_type": "LOCALFS", "name": "local", "domain_class": "Data"}
            place = DomainArguments(remote_path=made.folder)
            await call("domain.create", **domain, arguments=place, version=5)
        await call("domain.detach", domain_id=made.domain_id, pool_id=BLANK_UUID, force=True)
        master = {"master_domain_id": made.domain_id, "master_version": 1}
        lease = dict.fromkeys(("renewal_s", "lease_s", "io_timeout_s", "lease_retries"))
        pool = {"pool_id": made.pool_id, "host_id": 1, **master}
        await call("pool.reconstruct", **pool, name="pool", domains={made.domain_id: "Active"}, **lease)
        await call("pool.connect", **pool, scsi_key="")

    async def _finish_tasks(self) -> None:
        """Let all tasks end, and forget them."""
        runner = self.daemon.node.storage.runner
        for task in runner.list_tasks():
            await runner.wait(task.task_id)
            await runner.clear(task.task_id)
        self.made = replace(self.made, task_id=make_id())

    async def _check_volumes(self) -> None:
        """Each volume that is listed has its files, and there are no other files."""
        made = self.made
        listed = await self.daemon.call("domain.list_volumes", domain_id=made.domain_id, pool_id=made.pool_id)
        domain = Path(made.folder) / made.domain_id
        found = {path.name for path in domain.glob("images/*/*") if path.suffix != ".lease"}
        assert found == {name for volume in listed for name in (volume, f"{volume}.meta")}
        assert not list((domain / "master/tasks").iterdir())
        special = {path.name for path in (domain / "dom_md").iterdir()}
        assert special == {"metadata", "ids", "leases", "inbox", "outbox"}
        for image in (domain / "images").iterdir():
            for volume in {path.name for path in image.iterdir()} & set(listed) - {made.volume_id}:
                await self._remove_volume(image.name, volume)
        if made.volume_id not in listed:
            await self.daemon.finish(await self.daemon.rpc("Volume.create", describe_volume(made)))
            await self._finish_tasks()

    async def _remove_volume(self, image_id: str, volume_id: str) -> None:
        place = {"domain_id": self.made.domain_id, "pool_id": self.made.pool_id, "image_id": image_id}
        task = await self.daemon.call(
            "volume.delete", **place, volume_id=volume_id, zero=False, force=True, discard=False
        )
        await self.daemon.finish(task)
        await self.daemon.node.storage.runner.clear(task)


def list_tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below, with its mode and when it changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_mtime_ns)
    return found


def make_bait(outside: Path, storage: Path) -> None:
    """What hostile paths lead to."""
    (outside / "folder").mkdir(parents=True)
    (outside / "bait").write_text("secret")
    (outside / "link").symlink_to(storage)
    (outside / "secret").symlink_to("/etc")


@asynccontextmanager
async def besieged(parent: Path, certificates: Path) -> AsyncIterator[Siege]:
    """A furnished daemon below parent, with bait beside it, and everybody watching."""
    root, storage, outside = parent / "root", parent / "storage", parent / "outside"
    for folder in (root, storage, parent / "other"):
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, *OWNER)
    make_bait(outside, storage)
    settings = choose_settings(ssl=False)
    if os.geteuid() == 0:
        settings = replace(settings, storage=replace(settings.storage, owner_uid=OWNER[0], owner_gid=OWNER[1]))
    level = logging.getLogger().level
    async with running(root, certificates, settings=settings) as daemon:
        await daemon.node.vms.wait_ready()
        siege = Siege(daemon, await furnish(daemon, storage), outside)
        place = [{"id": make_id(), "connection": str(siege.other_folder)}]
        server = {"storagepoolID": "", "domainType": "LOCALFS", "connectionParams": place}
        await daemon.rpc("StoragePool.connectStorageServer", server)
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: siege.complaints.found.append(repr(context))
        )
        logging.getLogger().addHandler(siege.complaints)
        INTRUSIONS.allowed = tuple(str(folder.resolve()) for folder in (root, storage, parent / "other"))
        INTRUSIONS.allowed += ("/dev", "/proc")
        try:
            yield siege
        finally:
            logging.getLogger().removeHandler(siege.complaints)
            siege.reset_levels()
            logging.getLogger().setLevel(level)


class Ground:
    """A siege that lasts for many examples, each a run of its loop."""

    def __init__(self, runner: asyncio.Runner, siege: Siege) -> None:
        self._runner = runner
        self.siege = siege

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the work on the daemon's loop and watch over files meanwhile."""
        with self.siege.watching():
            return self._runner.run(work)


@contextmanager
def ground_of(certificates: Path) -> Iterator[Ground]:
    """A besieged daemon of its own."""
    with tempfile.TemporaryDirectory(prefix="vdsm-") as folder, asyncio.Runner() as runner:
        Path(folder).chmod(0o755)
        stack = AsyncExitStack()
        siege = runner.run(stack.enter_async_context(besieged(Path(folder), certificates)))
        try:
            yield Ground(runner, siege)
        finally:
            runner.run(stack.aclose())
