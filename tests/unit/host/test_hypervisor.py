"""libvirt's XML, recorded from libvirt 9.0 and qemu 7.2."""

from pathlib import Path

from vdsm.host.hypervisor import parse_domain_xml, parse_host_xml

GOLDEN = Path(__file__).parents[2] / "golden/host"


def read(name: str) -> str:
    return (GOLDEN / f"{name}.xml").read_text()


def test_machine_types_of_the_hosts_own_architecture_each_once() -> None:
    host = parse_host_xml(read("capabilities"))
    assert host.architecture == "x86_64"
    assert host.machines == ("pc-i440fx-7.2", "pc", "pc-q35-7.2", "q35", "microvm")


def test_the_clock() -> None:
    host = parse_host_xml(read("capabilities"))
    assert (host.tsc_hz, host.tsc_scaling) == ("2596138000", False)
    scaling = read("capabilities").replace("scaling='no'", "scaling='yes'")
    assert parse_host_xml(scaling).tsc_scaling
    without = parse_host_xml("<capabilities><host><cpu><arch>s390x</arch></cpu></host></capabilities>")
    assert (without.architecture, without.machines, without.tsc_hz) == ("s390x", (), "")


def test_models_that_run_and_models_that_are_known() -> None:
    emulated = parse_domain_xml(read("domain-qemu"))
    assert {"qemu64", "Nehalem", "Opteron_G2"} <= emulated.usable_models
    assert "Skylake-Server" not in emulated.usable_models and "Skylake-Server" in emulated.models
    assert "npt" in emulated.features
    assert "rdseed" not in emulated.features, "policy `disable` is a feature that is not there"
    assert parse_domain_xml(read("domain-kvm")).usable_models == {"486", "pentium", "pentium2", "pentium3"}


def test_no_processor_part() -> None:
    assert parse_domain_xml("<domainCapabilities/>").models == frozenset()
