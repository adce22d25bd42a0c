"""Which protocol a connection speaks, told from its first bytes (facts: rpc §1.1); speaking it is left to others."""

import re
from enum import Enum


class Spoken(Enum):
    """What the first bytes can turn out to be."""

    STOMP = "stomp"
    HTTP = "http"
    TLS = "tls"
    """A TLS greeting where none is expected."""
    UNKNOWN = "unknown"


LONGEST_WORD = 20
"""Letters after which neither a STOMP command nor an HTTP method can follow."""

_word = re.compile(rb"[A-Z]{1,%d}" % LONGEST_WORD)


def detect(first: bytes) -> Spoken | None:
    """The protocol, or None until more bytes are here.

    Both begin with a word in capitals: STOMP's ends with its line, HTTP's with a space (both have CONNECT). Every such
    word is taken, so that a wrong command or method is answered by its own protocol.
    """
    word = _word.match(first)
    if word is None:
        if not first:
            return None
        return Spoken.TLS if first[0] == 0x16 else Spoken.UNKNOWN
    rest = first[word.end() : word.end() + 2]
    if rest == b"\r" or (not rest and len(word[0]) < LONGEST_WORD):
        return None
    if rest.startswith((b"\n", b"\r\n")):
        return Spoken.STOMP
    return Spoken.HTTP if rest.startswith(b" ") else Spoken.UNKNOWN
