"""Who asks: the request that the current task works for, carried to logs and checks by a context variable."""

from contextvars import ContextVar
from enum import IntEnum

from msgspec import Struct


class Right(IntEnum):
    """What a caller may do; each right includes those before it."""

    VIEW = 1
    OPERATE = 2
    ADMINISTER = 3


class Request(Struct, frozen=True):
    """One call's origin. Work that the daemon starts by itself has the default one."""

    client_host: str = "internal"
    client_port: int = 0
    local_address: str = ""
    flow_id: str = ""
    right: Right = Right.ADMINISTER


INTERNAL = Request()
_current: ContextVar[Request] = ContextVar("request", default=INTERNAL)


def current_request() -> Request:
    """The request that this task works for."""
    return _current.get()


def set_request(request: Request) -> None:
    """Name the request for the rest of this task (and the tasks it starts)."""
    _current.set(request)
