"""The checker's process with another way to read, run by `test_checker`: a pipe hangs until somebody writes."""

import time

from vdsm.storage.health.checker import main


def read(path: bytes) -> float:
    begun_s = time.monotonic()
    with open(path, "rb") as file:
        file.read(1)
    return time.monotonic() - begun_s


if __name__ == "__main__":
    main(read)
