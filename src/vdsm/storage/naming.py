"""How mount points and links under `mnt` are named after what they connect (facts: storage §2.2); pure."""

import posixpath


def normalize_remote(spec: str) -> str:
    """A path or `host:path` in the one form under which it is compared and stored.

    A decimal port between host and path is kept; IPv6 addresses are in brackets and keep them.
    """
    if spec.startswith("/") or ":" not in spec:
        return _normalize_path(spec)
    host, tail = _split_host(spec)
    port, colon, path = tail.partition(":")
    if colon and _is_port(port):
        return f"{host}:{port}:{_normalize_path(path)}"
    return f"{host}:{_normalize_path(tail)}"


def escape(spec: str) -> str:
    """One file name for a normalized spec: underscores are doubled, then slashes become underscores."""
    return spec.replace("_", "__").replace("/", "_")


def _split_host(spec: str) -> tuple[str, str]:
    if spec.startswith("["):
        address, bracket, tail = spec.partition("]:")
        if bracket:
            return f"{address}]", tail
    host, _, tail = spec.partition(":")
    return host, tail


def _is_port(text: str) -> bool:
    return (
        text.isascii() and text.isdigit() and not text.startswith("0") and int(text) <= 65535
        if len(text) <= 5
        else False
    )


def _normalize_path(path: str) -> str:
    if not path:
        return path
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal
