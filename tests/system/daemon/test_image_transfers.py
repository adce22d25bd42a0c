"""The real ovirt-imageio moves bytes of volumes, with tickets that the daemon gives it (facts: storage §15.4)."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import imageio
from lab.commands import run
from lab.imageio import BUFFER_BYTES, ImageDaemon, Unix
from tests.system.vdsmd import CallFailed, Pool, Volume, make_id, poll

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB
DATA = os.urandom(SIZE)
FAILED, REFUSED, INVALID, UNSUPPORTED = 481, 482, 1000, 483


def describe(url: str | Path, *operations: str) -> dict[str, Any]:
    """A new ticket."""
    url = url.as_uri() if isinstance(url, Path) else url
    return {"uuid": make_id(), "size": SIZE, "url": url, "timeout": 300, "ops": list(operations)}


@dataclass
class Transfers:
    """A daemon with a pool, and ovirt-imageio beside it."""

    pool: Pool
    images: ImageDaemon

    def prepare(self, volume: Volume | None = None) -> Path:
        """A new volume's data, prepared."""
        volume = self.pool.create_volume(volume or Volume(format="RAW"), SIZE)
        return Path(self.pool.vdsmd.call("Image.prepare", **self.pool.place(volume))["path"])

    def add(self, url: str | Path, *operations: str, **changes: object) -> str:
        """A new ticket's id."""
        ticket = {**describe(url, *operations), **changes}
        self.pool.vdsmd.call("Host.add_image_ticket", ticket=ticket)
        return str(ticket["uuid"])

    def get(self, ticket_id: str) -> dict[str, Any]:
        return dict(self.pool.vdsmd.call("Host.get_image_ticket", uuid=ticket_id))

    def extend(self, ticket_id: str, timeout_s: int) -> None:
        self.pool.vdsmd.call("Host.extend_image_ticket", uuid=ticket_id, timeout=timeout_s)

    def remove(self, ticket_id: str) -> None:
        self.pool.vdsmd.call("Host.remove_image_ticket", uuid=ticket_id)

    def put(self, ticket_id: str, data: bytes, offset: int = 0) -> int:
        """Write; the status."""
        return self.images.ask("PUT", ticket_id, data, Content_Range=f"bytes {offset}-*/*")[0]

    def read(self, ticket_id: str, first: int, last: int) -> tuple[int, bytes]:
        """Status and bytes, of which both are among them."""
        status, _, data = self.images.ask("GET", ticket_id, Range=f"bytes={first}-{last}")
        return status, data

    @contextmanager
    def putting(self, ticket_id: str, offset: int, sent: bytes) -> Iterator[Unix]:
        """A request to write all from there on, of which just that was sent and has arrived on the volume."""
        before = self.get(ticket_id)["transferred"]
        with self.images.connect() as connection:
            connection.putrequest("PUT", f"/images/{ticket_id}")
            connection.putheader("Content-Length", str(SIZE - offset))
            connection.putheader("Content-Range", f"bytes {offset}-*/*")
            connection.endheaders(sent)
            whole = len(sent) // BUFFER_BYTES * BUFFER_BYTES
            told = poll(lambda: self._see(ticket_id, before + whole), "what was sent has arrived")
            assert told["active"] and told["idle_time"] == 0
            yield connection

    def _see(self, ticket_id: str, transferred: int) -> dict[str, Any] | None:
        told = self.get(ticket_id)
        assert told["transferred"] <= transferred
        return told if told["transferred"] == transferred else None


@pytest.fixture
def transfers(pool: Pool) -> Iterator[Transfers]:
    folder = pool.vdsmd.root / "run" / "ovirt-imageio"
    folder.mkdir(parents=True)
    with imageio.running(folder) as images:
        yield Transfers(pool, images)


def fail(pool: Pool, verb: str, **params: object) -> int:
    with pytest.raises(CallFailed) as caught:
        pool.vdsmd.call(verb, **params)
    return caught.value.code


def test_an_upload_goes_on_after_a_broken_connection_and_is_read_again(transfers: Transfers) -> None:
    path = transfers.prepare()
    ticket_id = transfers.add(path, "write")
    assert transfers.get(ticket_id)["transferred"] == 0
    assert transfers.put(ticket_id, DATA[:MIB]) == 200
    with transfers.putting(ticket_id, MIB, DATA[MIB : 2 * MIB + 1001]):
        pass  # the connection breaks
    told = poll(lambda: None if (told := transfers.get(ticket_id))["active"] else told, "the break is noticed")
    assert told["transferred"] == 2 * MIB + 1001
    done = told["transferred"]
    assert path.read_bytes()[:done] == DATA[:done]
    assert transfers.put(ticket_id, DATA[done:], done) == 200
    assert transfers.get(ticket_id)["transferred"] == SIZE
    transfers.remove(ticket_id)
    assert path.read_bytes() == DATA

    reader = transfers.add(path, "read", filename="disk ä.raw")
    status, headers, data = transfers.images.ask("GET", reader)
    assert (status, data) == (200, DATA) and "disk" in headers["content-disposition"]
    assert transfers.read(reader, 12_345, 2 * MIB) == (206, DATA[12_345 : 2 * MIB + 1])
    assert transfers.get(reader)["transferred"] == SIZE  # what is read twice counts once
    assert transfers.read(reader, 0, SIZE)[0] == 416


def test_a_guests_view_travels_over_nbd_with_what_is_zero(transfers: Transfers) -> None:
    pool, volume, server_id = transfers.pool, Volume(format="COW"), make_id()
    path = transfers.prepare(volume)
    config = {"sd_id": pool.domain_id, "img_id": volume.image_id, "vol_id": volume.volume_id}
    url = pool.vdsmd.call("NBD.start_server", server_id=server_id, config={**config, "discard": True})
    ticket_id = transfers.add(url, "read", "write", sparse=True)
    assert transfers.put(ticket_id, DATA[:MIB], MIB) == 200
    zero = json.dumps({"op": "zero", "offset": MIB, "size": 512 * KIB, "flush": True}).encode()
    assert transfers.images.ask("PATCH", ticket_id, zero)[0] == 200
    _, _, told = transfers.images.ask("GET", f"{ticket_id}/extents")
    ends = {one["start"] + one["length"]: one["zero"] for one in json.loads(told)}
    assert ends == {MIB: True, 1536 * KIB: True, 2 * MIB: False, SIZE: True}
    _, data = transfers.read(ticket_id, 0, SIZE - 1)
    assert data == bytes(1536 * KIB) + DATA[512 * KIB : MIB] + bytes(2 * MIB)
    assert "transferred" not in transfers.get(ticket_id)  # it lets both read and write
    transfers.remove(ticket_id)
    pool.vdsmd.call("NBD.stop_server", server_id=server_id)
    out = transfers.images.folder / "out"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, out)
    assert out.read_bytes() == data


def test_a_ticket_allows_what_it_tells_and_no_more(transfers: Transfers) -> None:
    path = transfers.prepare()
    path.write_bytes(DATA)
    reader, short = transfers.add(path, "read"), transfers.add(path, "write", size=MIB)
    zero = json.dumps({"op": "zero", "size": MIB}).encode()
    assert transfers.put(reader, b"x" * 4096) == 403
    assert transfers.images.ask("PATCH", reader, zero)[0] == 403
    assert transfers.put(short, b"x" * 4096, MIB - 4095) == 416
    assert transfers.images.ask("PATCH", short, json.dumps({"op": "zero", "size": MIB + 1}).encode())[0] == 416
    for unknown in (make_id(), "..", "%2e%2e", reader.upper(), f"{reader}/x"):
        assert transfers.put(unknown, b"x") == 403
        assert transfers.images.ask("GET", unknown)[0] == 403
    assert path.read_bytes() == DATA


def test_a_ticket_expires_unless_it_is_extended(transfers: Transfers) -> None:
    path = transfers.prepare()
    path.write_bytes(DATA)
    ticket_id = transfers.add(path, "write", timeout=0)
    assert transfers.put(ticket_id, b"x" * 4096) == 403
    assert path.read_bytes() == DATA
    transfers.extend(ticket_id, 300)
    assert transfers.put(ticket_id, b"x" * 4096) == 200
    assert path.read_bytes()[:4097] == b"x" * 4096 + DATA[4096:4097]
    told = transfers.get(ticket_id)
    assert (told["timeout"], told["transferred"], told["active"]) == (0, 4096, False)
    assert transfers.put(ticket_id, b"y" * 4096) == 403  # each use lets it live for its own time from then on
    transfers.extend(ticket_id, 300)
    transfers.extend(ticket_id, 0)
    assert transfers.put(ticket_id, b"y" * 4096) == 403
    poll(lambda: transfers.get(ticket_id)["idle_time"] >= 1, "it is idle")


def test_a_ticket_that_is_removed_while_bytes_come_ends_them(transfers: Transfers) -> None:
    path = transfers.prepare()
    ticket_id = transfers.add(path, "write")
    with transfers.putting(ticket_id, 0, DATA[:MIB]) as connection:
        assert fail(transfers.pool, "Host.remove_image_ticket", uuid=ticket_id) == REFUSED  # the client is silent
        assert transfers.put(ticket_id, b"x" * 4096) == 403
        connection.send(DATA[MIB : MIB + BUFFER_BYTES])  # what its request waits for is written yet, then it ends
        assert connection.getresponse().status == 403
        assert connection.sock is None
    transfers.remove(ticket_id)
    assert fail(transfers.pool, "Host.get_image_ticket", uuid=ticket_id) == REFUSED
    assert path.read_bytes()[: MIB + BUFFER_BYTES] == DATA[: MIB + BUFFER_BYTES]
    assert not any(path.read_bytes()[MIB + BUFFER_BYTES :])

    again = transfers.add(path, "write")
    with transfers.putting(again, 0, DATA[:MIB]):
        pass
    transfers.remove(again)
    assert transfers.put(again, b"x" * 4096) == 403
    assert path.read_bytes()[:MIB] == DATA[:MIB]


def test_hostile_tickets_harm_nobody(transfers: Transfers) -> None:
    path = transfers.prepare()
    path.write_bytes(DATA)
    mine, call = transfers.add(path, "read"), transfers.pool.vdsmd.call
    cases: tuple[tuple[dict[str, object], int | None], ...] = (
        ({"uuid": "../../x"}, INVALID),
        ({"uuid": f"{make_id()}\n"}, INVALID),
        ({"size": -1}, INVALID),
        ({"timeout": -1}, INVALID),
        ({"timeout": "1e999"}, INVALID),
        ({"ops": ["read", "rule"]}, INVALID),
        ({"filename": "x\r\nSet-Cookie: a=b"}, INVALID),
        ({"sparse": "maybe"}, INVALID),
        ({"inactivity_timeout": "x"}, INVALID),
        ({"url": "ftp://x/y"}, REFUSED),
        ({"url": "file://["}, REFUSED),
        ({"url": ""}, REFUSED),
        ({"size": 10**30}, INVALID),
        ({"timeout": 10**30}, INVALID),
        ({"size": 2**63 - 1, "timeout": 2**63 - 1}, None),
        ({"ops": []}, None),
        ({"inactivity_timeout": -1}, None),
        ({"url": f"{path.as_uri()}\n/../../x"}, None),
        ({"url": path.parent.as_uri()}, None),
        ({"url": "nbd:unix:/nowhere"}, None),
        ({"transfer_id": "x" * (64 * KIB)}, None),
    )
    for change, code in cases:
        ticket = {**describe(path, "read"), **change}
        if code is not None:
            assert fail(transfers.pool, "Host.add_image_ticket", ticket=ticket) == code, change
            continue
        call("Host.add_image_ticket", ticket=ticket)
        told = transfers.get(ticket["uuid"])
        assert (told["size"], told["ops"]) == (ticket["size"], ticket["ops"]), change
        transfers.images.ask("GET", ticket["uuid"], Range="bytes=0-9")
        transfers.remove(ticket["uuid"])
    assert transfers.read(mine, 0, SIZE - 1) == (206, DATA)


def test_one_that_stands_still_or_is_gone_costs_its_own_verbs_only(transfers: Transfers) -> None:
    path, call = transfers.prepare(), transfers.pool.vdsmd.call
    ticket_id = transfers.add(path, "read")
    images = transfers.images
    images.process.freeze()
    assert fail(transfers.pool, "Host.get_image_ticket", uuid=ticket_id) == FAILED
    assert call("Image.prepare", **transfers.pool.place(transfers.pool.create_volume()))
    images.process.thaw()
    assert poll(lambda: transfers.get(ticket_id), "it answers again")["uuid"] == ticket_id
    images.process.end()
    assert fail(transfers.pool, "Host.get_image_ticket", uuid=ticket_id) == FAILED
    images.start()
    assert fail(transfers.pool, "Host.get_image_ticket", uuid=ticket_id) == REFUSED  # it keeps them in memory
    assert transfers.read(transfers.add(path, "read"), 0, 9) == (206, bytes(10))
    images.process.end(signal.SIGTERM)
    assert fail(transfers.pool, "Host.get_image_ticket", uuid=ticket_id) == UNSUPPORTED


def test_a_transfer_goes_on_while_the_daemon_is_killed(transfers: Transfers) -> None:
    path = transfers.prepare()
    ticket_id = transfers.add(path, "write")
    with transfers.putting(ticket_id, 0, DATA[:MIB]) as connection:
        transfers.pool.vdsmd.restart()
        connection.send(DATA[MIB:])
        assert connection.getresponse().status == 200
    assert transfers.get(ticket_id)["transferred"] == SIZE
    assert path.read_bytes() == DATA
