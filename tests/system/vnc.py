"""Tries a password on a VNC display: `python -m tests.system.vnc PORT PASSWORD` prints `let in` or `refused`.

A program of its own, as the display listens in the network namespace of the private libvirtd.
"""

import socket
import sys

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

VNC_AUTHENTICATION = 2


def respond(challenge: bytes, password: str) -> bytes:
    """RFC 6143, 7.2.2: DES with the password as key, each byte with its bits in reverse."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge)


def is_let_in(port: int, password: str) -> bool:
    with socket.create_connection(("127.0.0.1", port), 10) as display, display.makefile("rwb") as stream:
        assert stream.read(12).startswith(b"RFB 003.")
        stream.write(b"RFB 003.008\n")
        stream.flush()
        kinds = stream.read(stream.read(1)[0])
        assert list(kinds) == [VNC_AUTHENTICATION], f"not by password: {kinds!r}"
        stream.write(bytes([VNC_AUTHENTICATION]))
        stream.flush()
        stream.write(respond(stream.read(16), password))
        stream.flush()
        return stream.read(4) == bytes(4)


if __name__ == "__main__":
    print("let in" if is_let_in(int(sys.argv[1]), sys.argv[2]) else "refused")  # noqa: T201
