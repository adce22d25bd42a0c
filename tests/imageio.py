"""A small ovirt-imageio for tests: it keeps tickets as the real one does (lab/imageio.py), and transfers nothing."""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

REQUIRED = {"uuid": str, "size": int, "ops": list, "timeout": int, "url": str}
OPTIONAL = {"inactivity_timeout": int, "transfer_id": str, "filename": str, "sparse": bool, "dirty": bool}
DEFAULTS = {"inactivity_timeout": 60, "sparse": False, "dirty": False}
URL = re.compile(r"(file|nbd|https?):(?!.*\[)")


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


@dataclass
class SmallImageDaemon:
    """Keeps tickets as ovirt-imageio does; nothing is ever transferred."""

    tickets: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of one connection."""
        method, path, _ = (await reader.readline()).decode().split()
        self.seen.append(f"{method} {path}")
        size = 0
        while (line := (await reader.readline()).decode().strip().lower()) != "":
            size = int(line.partition(":")[2]) if line.startswith("content-length") else size
        body = await reader.readexactly(size)
        try:
            status, told = self._do(method, path.rpartition("/")[2], body)
        except _Refused as error:
            status, told = error.status, error.text.encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(told)}\r\n\r\n".encode() + told)
        await writer.drain()
        writer.close()

    def _do(self, method: str, ticket_id: str, body: bytes) -> tuple[int, bytes]:
        if method == "DELETE":
            self.tickets.pop(ticket_id, None)
            return 204, b""
        if method == "PUT":
            ticket = _check(_parse(body))
            self.tickets[ticket["uuid"]] = {**DEFAULTS, **ticket, "expires": _now() + ticket["timeout"]}
            return 200, b""
        if ticket_id not in self.tickets:
            raise _Refused(404, f"No such ticket {ticket_id}")
        ticket = self.tickets[ticket_id]
        if method == "GET":
            return 200, json.dumps(_describe(ticket)).encode()
        change = _parse(body)
        if not isinstance(change.get("timeout"), int) or change["timeout"] < 0:
            raise _Refused(400, "a timeout is an integer of zero or more")
        ticket["expires"] = _now() + change["timeout"]
        return 200, b""


def _now() -> int:
    return int(time.monotonic())


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise _Refused(400, f"not JSON: {error}") from error


def _check(ticket: Any) -> dict[str, Any]:
    if not isinstance(ticket, dict) or not REQUIRED.keys() <= ticket.keys():
        raise _Refused(400, "not a ticket, or not all of one")
    for name, kind in {**REQUIRED, **OPTIONAL}.items():
        if name in ticket and not isinstance(ticket[name], kind):
            raise _Refused(400, f"{name} is no {kind.__name__}")
    if not URL.match(ticket["url"]):
        raise _Refused(400, "unsupported url")
    return ticket


def _describe(ticket: dict[str, Any]) -> dict[str, Any]:
    state = {"active": False, "canceled": False, "connections": 0, "idle_time": 0}
    return {**state, **ticket, **({"transferred": 0} if len(ticket["ops"]) < 2 else {})}
