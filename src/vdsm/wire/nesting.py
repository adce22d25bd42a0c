"""How deep JSON nests, told without parsing it: parsers recurse, and a hostile body must not reach them."""

from itertools import accumulate

_CHUNK = 1 << 16
_steps = bytes(2 if byte in b"[{" else 0 if byte in b"]}" else 1 for byte in range(256))
"""Each byte's effect on the depth, plus one."""
_others = bytes(byte for byte in range(256) if byte not in b"[]{}")


def nests_deeper(body: bytes, limit: int) -> bool:
    """Whether brackets outside of strings nest deeper than limit; for text that is no JSON the answer means nothing.

    Takes time linear in the length and stops at the first bracket that is too deep.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth, inside = 0, False
    for at in range(0, len(body), _CHUNK):
        pieces = body[at : at + _CHUNK].split(b'"')
        outside = b"".join(pieces[inside::2])
        inside ^= not len(pieces) % 2
        for now_at in accumulate((step - 1 for step in outside.translate(_steps, _others)), initial=depth):
            if now_at > limit:
                return True
            depth = now_at
    return False
