"""Files on HTTP servers through the curl program; those of Glance, old and new, are known by their addresses."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vdsm.adapters.run import CommandFailed, run, run_watched
from vdsm.storage.ports import RemoteFailed, RemotePlace, Watch

_SILENCE_S = 60
_TIMEOUT_S = 120.0
_SIZE = re.compile(rb"^(x-image-meta-size|content-length):\s*(\d{1,18})\s*$", re.IGNORECASE | re.MULTILINE)
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+: [^\r\n\0]*", re.ASCII)
_TELLING = ("no-silent", "progress-bar", 'stderr = "-"', 'output = "/dev/null"')
"""What curl says, and not what the server says, goes to standard output, where it is heard at once."""
_PERCENT = re.compile(rb"(\d{1,3}\.\d)%")
_KEPT_BYTES = 1000
_CONFIG_BYTES = 32768
"""More than this does not fit into the pipe that curl reads."""


class _Image(msgspec.Struct):
    size: int


class CurlCommand:
    """`storage.ports.Remote`. What may be secret goes by standard input: argument lists are anybody's to read."""

    def get_size(self, place: RemotePlace) -> int:
        with _failing():
            if _is_glance_2(place):
                told = run(_COMMAND, input=_format(place.url, place), timeout_s=_TIMEOUT_S).stdout
                return msgspec.json.decode(told, type=_Image).size
            head = run(_COMMAND, input=_format(place.url, place, "head"), timeout_s=_TIMEOUT_S).stdout
        sizes = {name.lower(): int(number) for name, number in _SIZE.findall(head)}
        try:
            return sizes.get(b"x-image-meta-size") or sizes[b"content-length"]
        except KeyError:
            raise RemoteFailed("the server does not tell the size") from None

    def fetch(self, place: RemotePlace, write: Callable[[bytes], None], watch: Watch) -> None:
        with _failing():
            run_watched(_COMMAND, stopping=watch.stopping, on_output=write, input=_format(_get_data(place), place))

    def put(self, place: RemotePlace, path: Path, watch: Watch) -> None:
        words = _format(_get_data(place), place, f"upload-file = {_quote(str(path))}", 'header = "Expect:"', *_TELLING)
        said = bytearray()

        def listen(piece: bytes) -> None:
            said.extend(piece)
            del said[:-_KEPT_BYTES]
            if percents := _PERCENT.findall(said):
                watch.report_progress(float(percents[-1]))

        with _failing(said):
            run_watched(_COMMAND, stopping=watch.stopping, on_output=listen, input=words)


_COMMAND = ("curl", "--disable", "--config", "-")


def _is_glance_2(place: RemotePlace) -> bool:
    return "/v2/images/" in place.url


def _get_data(place: RemotePlace) -> str:
    return place.url.rstrip("/") + "/file" if _is_glance_2(place) else place.url


def _format(url: str, place: RemotePlace, *more: str) -> bytes:
    """Options for curl to read; RemoteFailed for what would be others than those meant."""
    headers = [f"{name}: {value}" for name, value in place.headers.items()]
    if not re.fullmatch(r"https?://[^\s\0]+", url) or not all(map(_HEADER.fullmatch, headers)):
        raise RemoteFailed("the address or a header is malformed")
    options = ["fail", "silent", "show-error", "globoff", 'proto = "=http,https"', "connect-timeout = 30"]
    options += ["speed-limit = 1", f"speed-time = {_SILENCE_S}", f"url = {_quote(url)}"]
    text = "\n".join([*options, *(f"header = {_quote(one)}" for one in headers), *more, ""]).encode()
    if len(text) > _CONFIG_BYTES:
        raise RemoteFailed("the headers are too long")
    return text


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@contextmanager
def _failing(said: bytes | bytearray = b"") -> Iterator[None]:
    try:
        yield
    except (CommandFailed, msgspec.MsgspecError, UnicodeError) as error:
        reason = "".join(line for line in said.decode("utf-8", "replace").splitlines() if line.startswith("curl: "))
        raise RemoteFailed(f"{error}{reason}") from error
