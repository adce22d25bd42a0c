"""A libvirtd of our own for a session of tests: a host without a network, a disk or a name that anybody asks for."""

from pathlib import Path
from types import TracebackType
from typing import Self

from lab.libvirtd import SETUP, Libvirtd
from lab.namespaces import Namespaces


class PrivateLibvirtd(Libvirtd):
    """libvirtd and its qemus, all in memory. A context manager; nothing of it outlives the thread that made it."""

    def __init__(self) -> None:
        self._namespaces = Namespaces("private", setup=f"libvirtd_options=\n{SETUP}")
        super().__init__(self._namespaces)
        self._namespaces.start()
        self.learn_capabilities()  # no test shall wait for that

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._namespaces.close()

    @property
    def root(self) -> Path:
        """Its view of the file system, for looking into its folders."""
        return self._namespaces.root

    def run(self, *command: str) -> str:
        """Run a command inside and return what it prints. Raises PartFailed."""
        return self._namespaces.run(*command)
