"""When a host takes part in the mailbox: with the connected pool and the SPM role, on masters that others see, too."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.clock import SystemClock
from vdsm.core.errors import NotReady
from vdsm.core.paths import Paths
from vdsm.storage.backends.localfs import LocalKind
from vdsm.storage.errors import StorageDomainDoesNotExist, UnsupportedOperation
from vdsm.storage.layout import Layout
from vdsm.storage.mail.delivery import Pace
from vdsm.storage.mail.files import MailFiles
from vdsm.storage.mail.mailbox import MAILBOX_BYTES, Extension, format_extension, split_mailbox
from vdsm.storage.mail.service import MailService, refuse_extension
from vdsm.storage.model import DomainType
from vdsm.storage.ports import Backend
from vdsm.storage.repository import Repository
from vdsm.testing.storage import World, make_id

PATIENCE_S = 60.0
HOST_ID = 3


class SharedKind(LocalKind):
    """Folders that other hosts see, too."""

    type = DomainType.NFS

    def open_domain(self, domain_id: str, path: Path) -> Backend:
        backend = super().open_domain(domain_id, path)
        return replace(backend, traits=replace(backend.traits, type=self.type))


class HastyClock(SystemClock):
    """Pauses are a tenth of what they should be."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


def make_extension() -> Extension:
    return Extension(str(uuid.uuid4()), str(uuid.uuid4()), 1024)


class House:
    """A host that is connected to a pool of two domains."""

    def __init__(self, folder: Path) -> None:
        self.kind = SharedKind(Layout(Paths(folder)), OwnOwner())
        kinds = {DomainType.LOCALFS: self.kind}
        owner, clock = OwnOwner(), HastyClock()
        repository = Repository(Paths(folder), qemu_img=QemuImgCommand(), ownership=owner, clock=clock, kinds=kinds)
        (folder / "server").mkdir()
        self.world = World(repository, str(folder / "server"))
        self.sick: set[str] = set()
        self.mail = MailService(
            repository,
            clock,
            Pace(),
            run_to_end=asyncio.to_thread,
            is_valid=lambda domain_id: domain_id not in self.sick,
        )
        loop = asyncio.get_running_loop()
        repository.pools.on_change = lambda pool: loop.call_soon_threadsafe(self.mail.follow, pool)

    async def connect(self) -> None:
        await asyncio.to_thread(self.world.create_pool)
        pools, world = self.world.repository.pools, self.world
        await asyncio.to_thread(pools.connect, world.pool_id, HOST_ID, world.domain_id, 1)

    @property
    def files(self) -> MailFiles:
        return MailFiles(Path(self.world.server) / self.world.domain_id / "dom_md")

    def read(self, path: Path) -> bytes:
        return path.read_bytes()[HOST_ID * MAILBOX_BYTES : (HOST_ID + 1) * MAILBOX_BYTES]

    async def ask(self, extension: Extension | None = None) -> Extension:
        """Ask, as soon as the mailbox is there; returns when the SPM has answered."""
        extension = extension or make_extension()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.mail.extend(extension)
                except NotReady:
                    await asyncio.sleep(0.01)
                else:
                    return extension

    async def wait_until_asked(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.read(self.files.inbox) == bytes(MAILBOX_BYTES):
                await asyncio.sleep(0.01)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.mail.close()


async def test_a_request_is_answered_while_somebody_is_spm(house: House) -> None:
    await house.connect()
    asking = asyncio.create_task(house.ask())
    await house.wait_until_asked()
    assert not asking.done()
    await house.mail.start_spm(None)
    extension = await asking
    reply = format_extension(replace(extension, size_mib=0))  # files are not extended: refused
    assert split_mailbox(house.read(house.files.outbox))[0] in (reply, b"\x01" * 64)
    await house.mail.stop_spm()
    await house.mail.stop_spm()
    outbox = house.files.outbox.read_bytes()
    asking = asyncio.create_task(house.ask())
    await house.wait_until_asked()
    await asyncio.sleep(0.2)  # several turns of an SPM that should have ended
    assert house.files.outbox.read_bytes() == outbox and not asking.done()
    await house.mail.start_spm(4)
    await asking


async def test_a_mailbox_beyond_those_that_are_read_is_not_served(house: House) -> None:
    await house.connect()
    await house.mail.start_spm(HOST_ID)
    asking = asyncio.create_task(house.ask())
    await house.wait_until_asked()
    done, _ = await asyncio.wait({asking}, timeout=0.5)
    assert not done
    await house.mail.start_spm(HOST_ID + 1)
    await asking


async def test_a_local_master_has_no_mailbox(house: House) -> None:
    house.kind.type = DomainType.LOCALFS
    await house.connect()
    before = (house.files.inbox.stat().st_mtime_ns, house.files.outbox.stat().st_mtime_ns)
    await house.mail.start_spm(None)
    with pytest.raises(NotReady):
        await house.mail.extend(Extension(make_id(), make_id(), 1))
    await house.mail.stop_spm()
    assert (house.files.inbox.stat().st_mtime_ns, house.files.outbox.stat().st_mtime_ns) == before


async def test_leaving_the_pool_leaves_an_empty_mailbox(house: House) -> None:
    await house.connect()
    asking = asyncio.create_task(house.ask())
    await house.wait_until_asked()
    await asyncio.to_thread(house.world.repository.pools.disconnect, house.world.pool_id)
    async with asyncio.timeout(PATIENCE_S):
        while house.read(house.files.inbox) != bytes(MAILBOX_BYTES):
            await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(NotReady):
        await house.mail.extend(Extension(make_id(), make_id(), 1))


async def test_the_mailbox_follows_the_master(house: House, tmp_path: Path) -> None:
    await house.connect()
    await house.mail.start_spm(None)
    await house.ask()
    old = house.files
    other = World(house.world.repository, str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    await asyncio.to_thread(other.create_domain)
    house.world.domain_id, house.world.server = other.domain_id, other.server
    pool = house.world.repository.pools.get_connected(house.world.pool_id)
    house.mail.follow(replace(pool, master_id=other.domain_id))
    await house.ask()
    while house.read(house.files.inbox) != bytes(MAILBOX_BYTES):
        await asyncio.sleep(0.01)
    assert house.read(house.files.outbox) != bytes(MAILBOX_BYTES)
    assert house.read(old.inbox) == bytes(MAILBOX_BYTES)


async def test_a_master_that_does_not_answer_is_left_alone(house: House) -> None:
    await house.connect()
    await house.mail.start_spm(None)
    await house.ask()
    house.sick.add(house.world.domain_id)
    extension = make_extension()
    asking = asyncio.create_task(house.ask(extension))
    done, _ = await asyncio.wait({asking}, timeout=0.5)
    assert not done and format_extension(extension) not in house.read(house.files.inbox)
    house.sick.clear()
    await asking


async def test_a_file_is_not_extended() -> None:
    with pytest.raises(UnsupportedOperation) as refused:
        await refuse_extension(Extension(make_id(), make_id(), 1))
    assert "grows by itself" in str(refused.value)


async def test_a_master_that_could_not_be_looked_at_is_looked_at_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = house.world.repository.domains
    await house.connect()
    look, pool = domains.get_backend, house.world.repository.pools.get_connected(house.world.pool_id)
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(domain_id: str) -> Backend:
        monkeypatch.setattr(domains, "get_backend", look)
        loop.call_soon_threadsafe(failed.set)
        raise StorageDomainDoesNotExist(domain_id)

    house.mail.follow(None)
    monkeypatch.setattr(domains, "get_backend", fail)
    house.mail.follow(pool)
    async with asyncio.timeout(PATIENCE_S):
        await failed.wait()
    await house.mail.start_spm(None)
    await house.ask()
