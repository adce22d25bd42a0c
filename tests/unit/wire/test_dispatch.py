"""Joining the surface to what implements it, and calling it."""

from typing import Annotated, Protocol

import pytest
from msgspec import Raw

from vdsm.api.declare import group, ovirt, verb, xmlrpc
from vdsm.core.context import Request, Right, current_request
from vdsm.core.errors import GeneralFailure, InvalidArgument, NodeError, NotAllowed, NotReady
from vdsm.wire.dispatch import Dispatcher, Mismatch, bind
from vdsm.wire.errors import InvalidParams, MethodNotFound


@group("door")
class DoorApi(Protocol):
    @verb("Door.open", "POST /door/open")
    @xmlrpc("openDoor", "width")
    async def open(self, width: Annotated[int, ovirt("howWide")] = 3) -> str:
        """Open it."""
        ...

    @verb("Door.close", "POST /door/close", needs=Right.VIEW)
    async def close(self) -> None:
        """Close it."""
        ...


class Door:
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def open(self, width: int = 3) -> str:
        self.seen.append(current_request().flow_id)
        if width == 0:
            raise ZeroDivisionError("secret")
        return f"{width} wide"

    async def close(self) -> None:
        pass


CALLER = Request("192.0.2.1", 7, flow_id="f1")


def make(gate: NodeError | None = None) -> tuple[Dispatcher, Door]:
    door = Door()
    return Dispatcher(bind({DoorApi: door}), lambda: gate), door


async def test_a_call() -> None:
    dispatcher, door = make()
    assert await dispatcher.invoke("Door.open", Raw(b'{"howWide": "5"}'), CALLER) == b'"5 wide"'
    assert await dispatcher.invoke("Door.open", Raw(b"[]"), CALLER) == b'"3 wide"'
    assert await dispatcher.invoke("Door.close", Raw(b"{}"), CALLER) == b"true"
    assert door.seen == ["f1", "f1"]


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("Door.bogus", b"{}", MethodNotFound),
        ("door.open", b"{}", MethodNotFound),
        ("Door.open", b'{"howWide": "wide"}', InvalidArgument),
        ("Door.open", b'{"howWide": 1e999}', InvalidParams),
        ("Door.open", b"[1, 2]", InvalidParams),
        ("Door.open", b"[" + b"1," * 200_000 + b"1]", InvalidParams),
        ("Door.open", b"[0]", GeneralFailure),
    ],
)
async def test_failures(method: str, params: bytes, error: type[NodeError]) -> None:
    dispatcher, _ = make()
    with pytest.raises(error) as caught:
        await dispatcher.invoke(method, Raw(params), CALLER)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("method", "params"), [("Door.close", b"{}"), ("Door.bogus", b"{}"), ("Door.open", b"[1, 2]")])
async def test_a_closed_gate_comes_before_everything_else(method: str, params: bytes) -> None:
    dispatcher, door = make(NotReady())
    with pytest.raises(NotReady):
        await dispatcher.invoke(method, Raw(params), CALLER)
    assert door.seen == []


async def test_rights() -> None:
    dispatcher, door = make()
    viewer = Request("192.0.2.1", 7, right=Right.VIEW)
    assert await dispatcher.invoke("Door.close", Raw(b"{}"), viewer) == b"true"
    with pytest.raises(NotAllowed, match=r"door\.open needs the right operate"):
        await dispatcher.invoke("Door.open", Raw(b"{}"), viewer)
    assert door.seen == []


def test_a_declared_verb_that_nobody_implements() -> None:
    with pytest.raises(Mismatch, match=r"door\.open is declared, but object does not have it; door\.close"):
        bind({DoorApi: object()})


def test_an_implementation_that_takes_other_parameters() -> None:
    class Other(Door):
        async def open(self, breadth: int = 3, *, needed: int) -> str:  # type: ignore[override]
            return ""

    with pytest.raises(Mismatch, match=r"Other\.open does not take width; .*Other\.open needs needed"):
        bind({DoorApi: Other()})


def test_names_that_are_declared_twice() -> None:
    @group("window")
    class WindowApi(Protocol):
        @verb("Door.open", "POST /door/open", fails=("bogus",))
        @xmlrpc("openDoor")
        async def open(self) -> None:
            """Open it."""
            ...

    class Window:
        async def open(self) -> None:
            pass

    with pytest.raises(Mismatch) as caught:
        bind({DoorApi: Door(), WindowApi: Window()})
    for fault in ("Door.open is declared twice", "POST /door/open is", "openDoor is", "the unknown failure bogus"):
        assert fault in str(caught.value)
