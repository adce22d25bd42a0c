"""Processors and their places on recorded machines."""

from shutil import rmtree

from msgspec import UNSET

from vdsm.adapters.procfs import MachineFiles
from vdsm.host.cpu import list_nodes, parse_cpuinfo, read_cpus


def test_two_sockets_with_one_thread_off(machine) -> None:
    cpus = read_cpus(machine("two-sockets"))
    assert (cpus.sockets, cpus.cores, cpus.threads) == (2, 4, 7)
    assert cpus.online == (0, 1, 2, 3, 4, 6, 7)
    places = {place.cpu: (place.numa_node, place.socket, place.core) for place in cpus.topology}
    assert places[3] == (0, 0, 1)
    assert places[6] == (1, 1, 0)
    assert 5 not in places


def test_model_speed_and_flags_are_the_first_processors(machine) -> None:
    processor = read_cpus(machine("two-sockets")).processor
    assert processor.model == "Intel(R) Xeon(R) Silver 4110 CPU @ 2.10GHz"
    assert processor.mhz == 2100.0
    assert {"vmx", "nx", "avx2"} <= processor.flags
    assert processor.virtualization == "vmx"


def test_a_recorded_virtual_machine(machine) -> None:
    cpus = read_cpus(machine("small-vm"))
    assert (cpus.processor.model, cpus.processor.mhz) == ("AMD EPYC", 2596.138)
    assert (cpus.sockets, cpus.cores, cpus.threads) == (1, 2, 2)
    assert cpus.processor.virtualization == "svm"


def test_other_makers_name_their_figures_differently() -> None:
    power = parse_cpuinfo("processor\t: 0\ncpu\t\t: POWER9\nclock\t\t: 2900.000000MHz\n")
    assert (power.model, power.mhz) == ("POWER9", 2900.0)
    arm = parse_cpuinfo("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n")
    assert (arm.model, arm.mhz) == (UNSET, UNSET)
    assert arm.flags == {"fp", "asimd"}


def test_without_sysfs_each_processor_is_a_core(record) -> None:
    root = record("small-vm")
    rmtree(root / "sys")
    cpus = read_cpus(MachineFiles(root))
    assert (cpus.sockets, cpus.cores, cpus.threads) == (1, 2, 2)
    assert list_nodes(MachineFiles(root)) == {}
