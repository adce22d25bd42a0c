"""Tells systemd how the daemon fares, where it runs under it; without systemd nothing happens."""

import os
import socket


def notify(state: str) -> bool:
    """Send a state such as `READY=1` (sd_notify); False when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        try:
            door.sendto(state.encode(), address)
        except OSError:
            return False
    return True
