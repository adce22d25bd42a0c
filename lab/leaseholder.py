"""A process of a host that sanlock knows: does what it is told, a line of JSON each, and loses its life with its lease.

`lab.sanlock` starts it in a host and tells it. It registers first, so every lease that it acquires is its own.
"""

import json
import sys
from collections.abc import Callable

import sanlock


def _join(lockspace: str, host_id: int, path: str, io_timeout_s: int) -> None:
    sanlock.add_lockspace(lockspace.encode(), host_id, path, iotimeout=io_timeout_s)


def _leave(lockspace: str, host_id: int, path: str) -> None:
    sanlock.rem_lockspace(lockspace.encode(), host_id, path)


def _format(lockspace: str, path: str, resource: str, leases: str, io_timeout_s: int) -> None:
    sanlock.write_lockspace(lockspace.encode(), path, iotimeout=io_timeout_s)
    sanlock.write_resource(lockspace.encode(), resource.encode(), [(leases, 0)])


def _make_tasks(handle: int) -> dict[str, Callable[..., object]]:
    def acquire(lockspace: str, resource: str, path: str) -> None:
        sanlock.acquire(lockspace.encode(), resource.encode(), [(path, 0)], slkfd=handle)

    def release(lockspace: str, resource: str, path: str) -> None:
        sanlock.release(lockspace.encode(), resource.encode(), [(path, 0)], slkfd=handle)

    def inquire() -> list[str]:
        return [held["resource"].decode() for held in sanlock.inquire(slkfd=handle)]

    return {
        "format": _format,
        "join": _join,
        "leave": _leave,
        "acquire": acquire,
        "release": release,
        "inquire": inquire,
    }


def main() -> int:
    """Answer every line with `{"value": …}` or `{"refused": [number, text]}` until there are no more."""
    tasks = _make_tasks(sanlock.register())
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer: dict[str, object] = {"value": tasks[name](*arguments)}
        except sanlock.SanlockException as error:
            answer = {"refused": [error.errno, str(error)]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
