"""The host's verbs on recorded machines."""

import asyncio
import logging
import shutil

import pytest
from msgspec import UNSET

from vdsm.adapters.procfs import MachineFiles
from vdsm.api.errors import HardwareInfoFailed
from vdsm.api.host import HostApi
from vdsm.api.host_types import PackageVersion, StorageDomainVitals
from vdsm.core.context import Request, set_request
from vdsm.core.errors import InvalidArgument
from vdsm.host.capabilities import CapabilitySettings, list_cluster_levels, list_cpu_flags
from vdsm.host.cpu import read_cpus
from vdsm.host.hypervisor import DomainXml, HostXml, HypervisorFacts
from vdsm.host.ports import VmCounts
from vdsm.host.service import HostSettings


async def test_capabilities_are_the_machines_own(make_host) -> None:
    host = make_host()
    found = await host.service.get_capabilities()
    assert (found.cores, found.threads, found.sockets, found.online_cpus) == (4, 7, 2, "0,1,2,3,4,6,7")
    assert (found.memory_mib, found.reserved_memory_mib, found.guest_overhead_mib) == (32768, 321, 65)
    assert found.operating_system.name == "RHEL"
    assert found.emulated_machines[:2] == ["pc-i440fx-7.2", "pc"]
    assert found.cluster_levels == ["4.2", "4.3", "4.4", "4.5", "4.6", "4.7"]
    assert found.packages["kernel"] == PackageVersion(version="5.14.0", release="427.13.1.el9_4.x86_64")
    assert found.packages["qemu-img"].version == "7.2+dfsg"
    assert found.packages["libvirt"].version == "9.0.0"
    assert found.nameservers == ["192.0.2.53"]
    assert found.iscsi_initiator_name == "iqn.1994-05.com.redhat:5d1f8ab3c71"
    assert found.domain_versions == [3, 4, 5]
    assert found.supported_block_sizes["LOCALFS"] == [0, 512, 4096]


async def test_without_kvm_the_flags_are_the_emulators(make_host) -> None:
    host = make_host()
    found = await host.service.get_capabilities()
    flags = found.cpu_flags.split(",")
    assert found.kvm is False
    assert host.hypervisor.asked[-1] == "domain-qemu"
    assert {"vmx", "avx2", "model_qemu64", "model_Nehalem"} <= set(flags)
    assert "model_Skylake-Server" not in flags and "spec_ctrl" not in flags
    assert flags == sorted(set(flags))


async def test_with_kvm_the_flags_are_the_processors(make_host) -> None:
    host = make_host()
    host.ports.kvm = True
    found = await host.service.get_capabilities()
    assert found.kvm is True
    assert host.hypervisor.asked[-1] == "domain-kvm"
    assert "model_pentium3" in found.cpu_flags.split(",")
    assert "model_qemu64" not in found.cpu_flags.split(",")


async def test_a_model_with_speculation_control_says_so_in_the_flags(make_host) -> None:
    host = make_host()
    cpus = read_cpus(MachineFiles(host.root))
    domain = DomainXml(frozenset({"Haswell-IBRS"}), frozenset({"Haswell-IBRS", "EPYC"}), frozenset({"md-clear"}))
    facts = HypervisorFacts(HostXml("x86_64", (), "", False), domain, 9_000_000, 7_002_022)
    flags = list_cpu_flags(cpus, facts)
    assert {"model_Haswell-IBRS", "spec_ctrl", "md-clear"} <= flags
    assert "model_EPYC" not in flags
    assert list_cpu_flags(cpus, None) == cpus.processor.flags


async def test_fake_kvm_pretends_every_model_and_the_memory(make_host) -> None:
    pretend = CapabilitySettings(fake_kvm=True, fake_memory_mib=262144)
    found = await make_host("small-vm", HostSettings(capabilities=pretend)).service.get_capabilities()
    assert found.kvm is True
    assert {"svm", "nx", "model_Skylake-Server", "model_EPYC"} <= set(found.cpu_flags.split(","))
    assert found.memory_mib == 262144
    real = await make_host("two-sockets", HostSettings(CapabilitySettings(fake_kvm=True))).service.get_capabilities()
    assert real.memory_mib == 32768
    assert "vmx" in real.cpu_flags.split(",")


async def test_threads_may_be_told_as_cores(make_host) -> None:
    settings = HostSettings(capabilities=CapabilitySettings(threads_as_cores=True))
    assert (await make_host("two-sockets", settings).service.get_capabilities()).cores == 7


async def test_libvirts_last_word_counts_while_it_is_down(make_host) -> None:
    host = make_host()
    host.hypervisor.down = True
    before = await host.service.get_capabilities()
    assert before.emulated_machines is UNSET and before.tsc_hz is UNSET
    assert before.cluster_levels[-1] == "4.6"
    assert "libvirt" not in before.packages
    host.hypervisor.down = False
    await host.service.get_capabilities()
    host.hypervisor.down = True
    after = await host.service.get_capabilities()
    assert "q35" in after.emulated_machines and after.packages["libvirt"].version == "9.0.0"


def test_newer_software_serves_newer_clusters() -> None:
    assert list_cluster_levels(7_010_000, 6_002_000)[-1] == "4.6"
    assert list_cluster_levels(10_010_000, 9_000_000)[-1] == "4.7"
    assert list_cluster_levels(10_010_000, 9_001_000)[-1] == "4.8"


async def test_packages_are_asked_for_once(make_host) -> None:
    host = make_host()
    await host.service.get_capabilities()
    await host.service.get_capabilities()
    assert host.ports.times_asked_for_packages == 1


async def test_the_host_is_its_file_else_its_firmware(make_host) -> None:
    host = make_host()
    assert (await host.service.get_capabilities()).host_id == "4c4c4544-0058-4b10-8032-b7c04f4c4d32"
    host.paths.config.mkdir(parents=True)
    (host.paths.config / "vdsm.id").write_text("0e1d2c3b-4a59-6877-8695-a4b3c2d1e0ff\n# more\n")
    assert (await host.service.get_capabilities()).host_id == "0e1d2c3b-4a59-6877-8695-a4b3c2d1e0ff"
    assert (await make_host("small-vm").service.get_capabilities()).host_id is UNSET


@pytest.mark.parametrize(("address", "interface"), [("192.0.2.2", "eth0"), ("198.51.100.1", ""), ("", "")])
async def test_the_clients_way_in(make_host, address: str, interface: str) -> None:
    set_request(Request(local_address=address))
    assert (await make_host().service.get_capabilities()).client_interface == interface


async def test_the_first_question_takes_the_first_sample(make_host) -> None:
    host = make_host()
    stats = await asyncio.gather(host.service.get_stats(), host.service.get_stats())
    assert host.ports.samples == 1
    assert stats[0] == stats[1]
    assert (stats[0].cpu_user_percent, stats[0].sample_age_s) == (11.0, 0.0)
    assert (stats[0].receive_dropped, stats[0].send_dropped) == (3, 5)
    assert stats[0].date_time == "2023-11-14T22:13:20 GMT"


async def test_later_questions_are_answered_from_the_last_sample(make_host) -> None:
    host = make_host()
    await host.service.get_stats()
    shutil.rmtree(host.root)
    host.ports.counts = VmCounts(vms=3, vms_active=2)
    host.ports.vitals = {"sd": _vitals()}
    await host.clock.advance(7.5)
    stats = await host.service.get_stats()
    assert (stats.sample_age_s, stats.elapsed_s) == (7.5, 7.5)
    assert stats.memory_free_mib == 14336
    assert (stats.vms, stats.vms_active, list(stats.storage_domains)) == (3, 2, ["sd"])
    assert stats.date_time == "2023-11-14T22:13:27 GMT"


async def test_figures_come_from_the_last_two_samples(make_host) -> None:
    host = make_host()
    await host.service.sample()
    host.write("/proc/stat", "cpu 70700 7000 28000 589000 3500 700 2100 700 0 0\nbtime 1700000000\n")
    await host.clock.advance(15)
    await host.service.sample()
    assert (await host.service.get_stats()).cpu_user_percent == 100 * 700 / 1700


async def test_a_sample_without_networks_is_still_a_sample(make_host, caplog) -> None:
    host = make_host()
    host.ports.network_down = True
    stats = await host.service.get_stats()
    assert stats.network is UNSET and stats.receive_dropped is UNSET
    assert stats.memory_used_percent == 57
    assert "network statistics are missing" in caplog.text


async def test_folders_are_told_of_by_their_usual_names(make_host) -> None:
    host = make_host()
    host.paths.run.mkdir(parents=True)
    assert set((await host.service.get_stats()).disks) == {"/tmp", "/run/vdsm"}
    host.paths.log.mkdir(parents=True)
    await host.service.sample()
    assert set((await host.service.get_stats()).disks) == {"/tmp", "/run/vdsm", "/var/log"}


async def test_run_samples_until_it_is_cancelled(make_host) -> None:
    host = make_host("two-sockets", HostSettings(sample_interval_s=15.0))
    running = asyncio.create_task(host.service.run())
    for samples in (1, 2, 3):
        while not (host.ports.samples == samples and host.clock.sleeper_count):
            await asyncio.sleep(0)
        await host.clock.advance(15)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert host.ports.times_asked_for_packages == 1


async def test_hardware(make_host) -> None:
    host = make_host()
    first = await host.service.get_hardware_info()
    assert first.product_name == "PowerEdge R740"
    shutil.rmtree(host.root / "sys")
    assert await host.service.get_hardware_info() == first


async def test_hardware_that_nobody_may_read_is_a_failure(make_host) -> None:
    host = make_host()
    for name in (host.root / "sys/class/dmi/id").iterdir():
        name.unlink()
        name.mkdir()
    with pytest.raises(HardwareInfoFailed):
        await host.service.get_hardware_info()


async def test_a_machine_without_tables_has_no_hardware_figures(make_host) -> None:
    assert (await make_host("small-vm").service.get_hardware_info()).manufacturer is UNSET


async def test_pings_and_echo(make_host) -> None:
    service: HostApi = make_host().service
    assert await service.ping() is None
    assert await service.ping2() is None
    assert await service.echo("שלום") == "שלום"


@pytest.mark.parametrize(("level", "number"), [("DEBUG", 10), ("WARN", 30), ("CRIT", 50), ("ERROR", 40)])
async def test_log_levels(make_host, level: str, number: int) -> None:
    logger = logging.getLogger("vdsm.test_log_levels")
    await make_host().service.set_log_level(level, logger.name)
    assert logger.level == number


async def test_a_logger_is_not_made_by_being_named(make_host) -> None:
    service = make_host().service
    known = set(logging.root.manager.loggerDict)
    for name in ("never.was", "x" * 1_000_000, "." * 100_000, "\0"):
        with pytest.raises(InvalidArgument):
            await service.set_log_level("DEBUG", name)
    assert set(logging.root.manager.loggerDict) == known


async def test_log_level_of_everything(make_host) -> None:
    before = logging.getLogger().level
    try:
        await make_host().service.set_log_level("CRITICAL")
        assert logging.getLogger().level == logging.CRITICAL
    finally:
        logging.getLogger().setLevel(before)


def _vitals() -> StorageDomainVitals:
    return StorageDomainVitals(
        code=0, checked_ago_s=1.0, delay_s=0.001, valid=True, version=5, acquired=True, actual=True
    )
