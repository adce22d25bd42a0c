"""NBD servers and tickets of ovirt-imageio as clients see them (facts: storage §15.3, §15.4)."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.blocks import BLOCK, RAW, read, write
from tests.daemon.running import Furniture, Running, describe_volume, furnish_storage, make_id
from tests.daemon.test_jobs import MIB, end, fail, make_volume
from tests.daemon.test_streams import get_path
from tests.imageio import SmallImageDaemon
from vdsm.adapters.qemunbd import QemuNbd
from vdsm.adapters.run import run
from vdsm.storage.ports import Layer

Stored = tuple[Running, Furniture]


@pytest.fixture
async def stored(daemon: Running, tmp_path: Path) -> AsyncIterator[Stored]:
    yield daemon, await furnish_storage(daemon, tmp_path / "storage")
    for socket in (daemon.paths.run / "nbd").glob("*.sock"):
        QemuNbd().stop(socket)


async def make_chain(daemon: Running, made: Furniture, *, bitmap: str | None = None) -> list[dict[str, Any]]:
    """A raw or (for a bitmap) COW base that reads "abc.", and a layer on it that makes it "aBc."."""
    base = await make_volume(daemon, made, size=str(4 * BLOCK), volFormat="COW" if bitmap else "RAW")
    if bitmap:
        job_id = make_id()
        await daemon.rpc("SDM.add_bitmap", {"job_id": job_id, "vol_info": base, "bitmap": bitmap})
        await end(daemon, job_id)
    write(Layer(get_path(made, base), "qcow2" if bitmap else RAW), "abc.")
    top = {**base, "vol_id": make_id()}
    place = {"imageID": base["img_id"], "srcImgUUID": base["img_id"], "srcVolUUID": base["vol_id"]}
    more = {"addBitmaps": True} if bitmap else {}
    request = describe_volume(made, **place, volumeID=top["vol_id"], size=str(4 * BLOCK), **more)
    await daemon.finish(await daemon.rpc("Volume.create", request))
    write(Layer(get_path(made, top), "qcow2"), ".B..")
    return [base, top]


def serve(volume: dict[str, Any], **changes: Any) -> dict[str, Any]:
    config = {name: volume[name] for name in ("sd_id", "img_id", "vol_id")}
    return {"server_id": make_id(), "config": {**config, **changes}}


def see(url: str, folder: Path) -> str:
    """What a server's disk reads as."""
    out = folder / "out"
    run(["qemu-img", "convert", "-f", "raw", "-O", "raw", url, out], timeout_s=60)
    return read(Layer(out, RAW))


def see_bitmap(url: str, bitmap: str) -> str:
    """Blocks that a server's bitmap tells, in a row."""
    node = {"driver": "nbd", "server": {"type": "unix", "path": url.removeprefix("nbd:unix:")}}
    node["x-dirty-bitmap"] = f"qemu:dirty-bitmap:{bitmap}"  # type: ignore[assignment]
    done = run(["qemu-img", "map", "--output", "json", f"json:{json.dumps(node)}"], timeout_s=60)
    extents = json.loads(done.stdout)
    # With that option qemu-img tells what is dirty as what has no data.
    return "".join(("." if one["data"] else "D") * (one["length"] // BLOCK) for one in extents)


async def test_a_chain_is_served_and_the_server_outlives_the_daemons_child(stored: Stored, tmp_path: Path) -> None:
    daemon, made = stored
    base, top = await make_chain(daemon, made)
    order = serve(top, readonly=True)
    url = await daemon.rpc("NBD.start_server", order)
    socket = daemon.paths.run / "nbd" / f"{order['server_id']}.sock"
    assert url == f"nbd:unix:{socket}"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660
    assert await asyncio.to_thread(see, url, tmp_path) == "aBc."
    assert await fail(daemon, "NBD.start_server", order) == 2009
    assert await asyncio.to_thread(see, url, tmp_path) == "aBc."
    process_id = int(socket.with_suffix(".pid").read_text())
    for _ in range(2):
        await daemon.rpc("NBD.stop_server", {"server_id": order["server_id"]})
    assert not socket.exists()
    await daemon.wait_until(lambda: not Path(f"/proc/{process_id}/cmdline").is_file() or is_zombie(process_id))
    one_layer = serve(top, backing_chain=False, readonly=True)
    url = await daemon.rpc("NBD.start_server", one_layer)
    assert await asyncio.to_thread(see, url, tmp_path) == ".B.."
    await daemon.rpc("NBD.stop_server", {"server_id": one_layer["server_id"]})


def is_zombie(process_id: int) -> bool:
    return Path(f"/proc/{process_id}/stat").read_text().split()[2] == "Z"


async def test_a_disk_is_written(stored: Stored, tmp_path: Path) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(4 * BLOCK), volFormat="RAW")
    order = serve(volume, discard=True, detect_zeroes=True)
    url = await daemon.rpc("NBD.start_server", order)
    run(["qemu-io", "-f", "raw", "-c", f"write -P 120 0 {BLOCK}", url], timeout_s=60)
    await daemon.rpc("NBD.stop_server", {"server_id": order["server_id"]})
    assert read(Layer(get_path(made, volume), RAW)) == "x..."


async def test_a_bitmap_of_several_layers_is_served_as_one(stored: Stored, tmp_path: Path) -> None:
    daemon, made = stored
    bitmap = make_id()
    base, top = await make_chain(daemon, made, bitmap=bitmap)
    order = serve(top, readonly=True, bitmap=bitmap)
    overlay = daemon.paths.state / "storage" / "transient_disks" / order["server_id"] / "overlay"
    overlay.parent.mkdir(parents=True)
    overlay.write_bytes(b"of a start that was killed")
    url = await daemon.rpc("NBD.start_server", order)
    assert overlay.is_file()
    assert await asyncio.to_thread(see, url, tmp_path) == "aBc."
    assert await asyncio.to_thread(see_bitmap, url, bitmap) == "DDD."
    await daemon.rpc("NBD.stop_server", {"server_id": order["server_id"]})
    assert not overlay.parent.exists()
    lower = serve(base, readonly=True, bitmap=bitmap)
    url = await daemon.rpc("NBD.start_server", lower)
    assert await asyncio.to_thread(see_bitmap, url, bitmap) == "DDD."
    await daemon.rpc("NBD.stop_server", {"server_id": lower["server_id"]})
    run(["qemu-img", "bitmap", "--remove", "-f", "qcow2", get_path(made, top), bitmap], timeout_s=60)
    assert await fail(daemon, "NBD.start_server", serve(top, readonly=True, bitmap=bitmap)) == 946
    assert await fail(daemon, "NBD.start_server", serve(top, readonly=True, bitmap=make_id())) == 947


async def test_what_is_refused_leaves_nothing(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB), volFormat="RAW")
    template = await make_volume(daemon, made, size=str(MIB))
    changed = {"job_id": make_id(), "vol_info": template, "vol_attr": {"type": "SHARED"}}
    await daemon.rpc("SDM.update_volume", changed)
    await end(daemon, changed["job_id"])
    cases = (
        (serve(volume, vol_id=make_id()), 201),
        (serve(volume, vol_id="../../x"), 1000),
        ({**serve(volume), "server_id": "../../x"}, 1000),
        (serve(volume, bitmap=make_id()), 2009),
        (serve(volume, bitmap=make_id(), readonly=True), 2009),
        (serve(volume, bitmap=make_id(), readonly=True, backing_chain=False), 2009),
        (serve(template), 219),
    )
    for order, code in cases:
        assert await fail(daemon, "NBD.start_server", order) == code, order
    get_path(made, volume).chmod(0)
    if os.geteuid() != 0:
        assert await fail(daemon, "NBD.start_server", serve(volume)) == 100
    nbd = daemon.paths.run / "nbd"
    assert not nbd.exists() or not list(nbd.iterdir())
    assert not (daemon.paths.state / "storage" / "transient_disks").exists()


async def test_tickets(daemon: Running) -> None:
    ticket_id = make_id()
    ticket = {"uuid": ticket_id, "size": 7, "url": "file:///x", "timeout": 300, "ops": ["read"], "transfer_id": "t"}
    assert await fail(daemon, "Host.add_image_ticket", {"ticket": ticket}) == 483
    path = daemon.paths.root / "run/ovirt-imageio/sock"
    path.parent.mkdir(parents=True, exist_ok=True)
    keeper = SmallImageDaemon()
    async with await asyncio.start_unix_server(keeper.answer, path):
        await daemon.rpc("Host.add_image_ticket", {"ticket": ticket})
        assert ticket.items() <= keeper.tickets[ticket_id].items()
        await daemon.rpc("Host.extend_image_ticket", {"uuid": ticket_id, "timeout": 600})
        info = await daemon.rpc("Host.get_image_ticket", {"uuid": ticket_id})
        told = {name: value for name, value in ticket.items() if name != "transfer_id"}
        assert info == {**told, "active": False, "transferred": 0, "idle_time": 0}
        await daemon.rpc("Host.remove_image_ticket", {"uuid": ticket_id})
        assert await fail(daemon, "Host.get_image_ticket", {"uuid": ticket_id}) == 482
        assert await fail(daemon, "Host.get_image_ticket", {"uuid": "../secrets"}) == 1000
        for change in ({"ops": ["rule"]}, {"filename": "x\n"}, {"size": -1}, {"timeout": -1}):
            assert await fail(daemon, "Host.add_image_ticket", {"ticket": {**ticket, **change}}) == 1000
    assert len(keeper.seen) == 5
    assert await fail(daemon, "Host.get_image_ticket", {"uuid": ticket_id}) in (481, 483)
