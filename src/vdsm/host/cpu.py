"""Processors: what /proc/cpuinfo and sysfs tell of them; their load is left to `samples`."""

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.host_types import CpuPlace
from vdsm.core.cpu_lists import parse_cpu_list
from vdsm.host.ports import Files

_CPUS = "/sys/devices/system/cpu"
_NODES = "/sys/devices/system/node"


class Processor(Struct, frozen=True):
    """The first processor of /proc/cpuinfo; the others are of its kind."""

    model: str | UnsetType
    mhz: float | UnsetType
    flags: frozenset[str]

    @property
    def virtualization(self) -> str:
        """`vmx` or `svm` as the maker calls it, whether or not the firmware lets it be seen."""
        return "svm" if isinstance(self.model, str) and "AMD" in self.model else "vmx"


class Cpus(Struct, frozen=True):
    """The processors that are on, and where they sit."""

    processor: Processor
    online: tuple[int, ...]
    topology: tuple[CpuPlace, ...]

    @property
    def sockets(self) -> int:
        return len({place.socket for place in self.topology})

    @property
    def cores(self) -> int:
        return len({(place.socket, place.die, place.core) for place in self.topology})

    @property
    def threads(self) -> int:
        return len(self.online)


def parse_cpuinfo(text: str) -> Processor:
    """The first processor; x86, ARM and POWER name their figures differently, and some leave them out."""
    figures: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            figures.setdefault(name.strip(), value.strip())
    mhz = figures.get("cpu MHz") or figures.get("clock", "").removesuffix("MHz")
    flags = figures.get("flags") or figures.get("Features") or ""
    return Processor(
        model=figures.get("model name") or figures.get("cpu") or UNSET,
        mhz=_parse_mhz(mhz),
        flags=frozenset(flags.split()),
    )


def _parse_mhz(text: str) -> float | UnsetType:
    try:
        return float(text)
    except ValueError:
        return UNSET


def list_nodes(files: Files) -> dict[int, tuple[int, ...]]:
    """NUMA nodes in ascending order, each with its CPUs; none on a kernel without NUMA."""
    numbers = sorted(
        int(name[4:]) for name in files.list_names(_NODES) if name.startswith("node") and name[4:].isdecimal()
    )
    return {number: parse_cpu_list(files.read(f"{_NODES}/node{number}/cpulist") or "") for number in numbers}


def read_cpus(files: Files) -> Cpus:
    """The processors that are on. Where sysfs has no topology, each is a core of its own on one socket."""
    cpuinfo = files.read("/proc/cpuinfo") or ""
    listed = files.read(f"{_CPUS}/online")
    online = parse_cpu_list(listed) if listed else _list_processors(cpuinfo)
    node_of = {cpu: node for node, cpus in list_nodes(files).items() for cpu in cpus}
    places = tuple(_read_place(files, cpu, node_of.get(cpu, 0)) for cpu in online)
    return Cpus(parse_cpuinfo(cpuinfo), online, places)


def _list_processors(cpuinfo: str) -> tuple[int, ...]:
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return tuple(int(value) for name, _, value in lines if name.strip() == "processor" and value.strip().isdecimal())


def _read_place(files: Files, cpu: int, node: int) -> CpuPlace:
    def read(name: str, otherwise: int) -> int:
        number = files.read_number(f"{_CPUS}/cpu{cpu}/topology/{name}")
        return otherwise if number is None or number < 0 else number

    return CpuPlace(
        cpu=cpu, numa_node=node, socket=read("physical_package_id", 0), die=read("die_id", 0), core=read("core_id", cpu)
    )
