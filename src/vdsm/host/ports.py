"""What the host needs from outside: files of the machine, libvirt's word, and the counts of other services."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from vdsm.api.host_types import NetworkCapabilities, NetworkStatistics, StorageDomainVitals


class Files(Protocol):
    """Small files of the machine by absolute path; what cannot be read is None. Calls may block."""

    def read(self, path: str) -> str | None: ...

    def read_number(self, path: str) -> int | None: ...

    def list_names(self, path: str) -> list[str]: ...

    def exists(self, path: str) -> bool: ...

    def link(self, path: str) -> str | None:
        """The last name of what a symbolic link points to."""

    def free_bytes(self, path: Path) -> int | None: ...

    def list_affinity(self) -> list[int]: ...


class Hypervisor(Protocol):
    """libvirt's word on this machine; calls raise a NodeError when it cannot be reached."""

    async def capabilities_xml(self) -> str: ...

    async def domain_capabilities_xml(self, kind: str) -> str:
        """`kind` is the domain type: `kvm` or `qemu`."""

    async def versions(self) -> tuple[int, int]:
        """libvirt's and qemu's version, each as major * 1000000 + minor * 1000 + release."""


class Accelerator(Protocol):
    """Whether VMs run on the processor itself."""

    async def uses_kvm(self) -> bool:
        """True when KVM runs guests at speed; the first call may wait for a measurement."""


class Packages(Protocol):
    """The distribution's package database."""

    async def list_versions(self, names: Iterable[str]) -> Mapping[str, str]:
        """Those that are installed, with their full versions (`1:7.2+dfsg-7`); empty when no database answers."""


class VmCounts(Struct, frozen=True):
    """How many VMs there are; active ones are not down."""

    vms: int = 0
    vms_active: int = 0
    vms_migrating: int = 0
    incoming_migrations: int = 0
    outgoing_migrations: int = 0


class Vms(Protocol):
    """The virtual machines of this host."""

    def count(self) -> VmCounts: ...


class StorageHealth(Protocol):
    """The last known health of storage domains."""

    def list_vitals(self) -> Mapping[str, StorageDomainVitals]: ...


class Networks(Protocol):
    """The networks of this host; a call that the kernel does not answer in time raises a NodeError."""

    async def get_capabilities(self) -> NetworkCapabilities: ...

    async def get_statistics(self) -> NetworkStatistics: ...

    async def find_interface(self, address: str) -> str:
        """The device that owns an address; empty for none."""
