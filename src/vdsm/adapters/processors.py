"""The host's CPUs that are online, and which of them share a core, as the kernel tells."""

from collections.abc import Mapping

from vdsm.adapters.procfs import MachineFiles
from vdsm.core.cpu_lists import parse_cpu_list

_FOLDER = "/sys/devices/system/cpu"


class HostProcessors:
    """`virt.ports.Processors`."""

    def __init__(self, files: MachineFiles) -> None:
        self._files = files

    def list_online(self) -> Mapping[int, frozenset[int]]:
        online = parse_cpu_list(self._files.read(f"{_FOLDER}/online") or "") or self._files.list_affinity()
        return {cpu: self._read_core(cpu) for cpu in online}

    def _read_core(self, cpu: int) -> frozenset[int]:
        text = self._files.read(f"{_FOLDER}/cpu{cpu}/topology/thread_siblings_list")
        return frozenset(parse_cpu_list(text or str(cpu)))
