"""The readers of a real machine: the kernel's netlink and the distribution's package database."""

import socket
from pathlib import Path

import pytest

from vdsm.adapters.netlink import Netlink
from vdsm.adapters.packages import PackageDatabase
from vdsm.adapters.procfs import MachineFiles
from vdsm.host.capabilities import read_machine
from vdsm.host.samples import take_sample


async def test_the_kernel_tells_of_its_devices() -> None:
    state = await Netlink().read_state()
    names = {link.name: link for link in state.links}
    assert set(names) == {name for _, name in socket.if_nameindex()}
    assert names["lo"].mtu > 1500 and not names["lo"].has_driver
    loopback = [item.address for item in state.addresses if item.index == names["lo"].index]
    assert not loopback or "127.0.0.1" in loopback or "::1" in loopback


async def test_the_package_database_knows_what_is_installed() -> None:
    if not Path("/var/lib/dpkg/status").exists():
        pytest.skip("not a Debian machine")
    found = await PackageDatabase().list_versions(["dpkg", "a-package-that-does-not-exist"])
    assert list(found) == ["dpkg"] and found["dpkg"][0].isdigit()


async def test_a_machine_without_a_database_has_no_packages(tmp_path: Path) -> None:
    assert await PackageDatabase(tmp_path).list_versions(["dpkg"]) == {}


async def test_a_broken_database_costs_only_its_own_figures(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text("this is no package\n")
    assert await PackageDatabase(tmp_path).list_versions(["dpkg"]) == {}


def test_this_machines_figures_agree_with_each_other() -> None:
    machine = read_machine(MachineFiles())
    assert machine.cpus.threads >= machine.cpus.cores >= machine.cpus.sockets >= 1
    assert machine.system.memory_mib > 0 and machine.kernel
    sample = take_sample(MachineFiles(), now_s=0.0, ksmd_pid=None, disks={"/tmp": Path("/tmp")})
    assert set(sample.cpus) == set(machine.cpus.online)
    assert sample.meminfo["MemTotal"] // 1024 == machine.system.memory_mib
    assert sample.cpu.total >= sample.cpu.user + sample.cpu.system > 0
    assert sample.daemon is not None and sample.disks["/tmp"].free_mib >= 0
