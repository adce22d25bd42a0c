"""Small text files of the kernel and the distribution, below one root; what they mean is left to the reader.

Absence is an answer here: a file that is missing, unreadable or has no value (EINVAL) reads as None.
"""

import os
from pathlib import Path


class MachineFiles:
    """The files of one machine; tests point `root` at a recorded tree. Every call may block: use it in a thread."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = str(root).rstrip("/")

    def read(self, path: str) -> str | None:
        """The file's text without surrounding white space; NUL bytes become spaces."""
        try:
            with open(self._root + path, "rb") as file:
                content = file.read()  # unsized: /proc/sys refuses a read into a large buffer
        except OSError:
            return None
        return content.replace(b"\0", b" ").decode("utf-8", "replace").strip()

    def read_number(self, path: str) -> int | None:
        """The file's one decimal number."""
        try:
            return int(self.read(path) or "")
        except ValueError:
            return None

    def list_names(self, path: str) -> list[str]:
        """The names in a folder, sorted; none when there is no such folder."""
        try:
            return sorted(os.listdir(self._root + path))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether the path leads to something, whatever it is."""
        return os.path.lexists(self._root + path)

    def link(self, path: str) -> str | None:
        """The last name of what a symbolic link points to."""
        try:
            return os.path.basename(os.readlink(self._root + path))
        except OSError:
            return None

    def free_bytes(self, path: Path) -> int | None:
        """Room that an ordinary user has left on the file system of an absolute path, not below the root."""
        try:
            room = os.statvfs(path)
        except OSError:
            return None
        return room.f_bavail * room.f_frsize

    def list_affinity(self) -> list[int]:
        """The CPUs that this process may run on."""
        return sorted(os.sched_getaffinity(0))
