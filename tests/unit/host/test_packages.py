"""Names and numbers of software."""

import pytest

from vdsm.api.host_types import PackageVersion
from vdsm.host.packages import PACKAGES, list_packages, split_kernel, split_version

OURS = PackageVersion(version="5.0.0", release="1")


@pytest.mark.parametrize(
    ("full", "version", "release"),
    [
        ("1:7.2+dfsg-7+deb12u12", "7.2+dfsg", "7+deb12u12"),
        ("9.0.0-10.7.el9_2", "9.0.0", "10.7.el9_2"),
        ("1.0.0+git-20190125.36a4c85-5.1", "1.0.0+git-20190125.36a4c85", "5.1"),
        ("2.03", "2.03", ""),
    ],
)
def test_version_and_release(full: str, version: str, release: str) -> None:
    assert split_version(full) == PackageVersion(version=version, release=release)


def test_a_kernel_divides_at_its_first_dash() -> None:
    assert split_kernel("6.1.0-18-amd64") == PackageVersion(version="6.1.0", release="18-amd64")
    assert split_kernel("6.1.0") == PackageVersion(version="6.1.0", release="")


def test_debians_names_become_the_managers() -> None:
    installed = {"qemu-system-x86": "1:7.2-7", "libvirt-daemon": "9.0.0-4", "qemu-utils": "1:7.2-7"}
    found = list_packages(installed, kernel="6.1.0-18-amd64", vdsm=OURS, libvirt=9_000_000, qemu=7_002_022)
    assert found == {
        "vdsm": OURS,
        "kernel": PackageVersion(version="6.1.0", release="18-amd64"),
        "libvirt": PackageVersion(version="9.0.0", release="4"),
        "qemu-kvm": PackageVersion(version="7.2", release="7"),
        "qemu-img": PackageVersion(version="7.2", release="7"),
    }
    assert installed.keys() <= set(PACKAGES)


def test_without_packages_the_programs_speak_for_themselves() -> None:
    found = list_packages({}, kernel="", vdsm=OURS, libvirt=10_010_003, qemu=7_002_022)
    assert found == {
        "vdsm": OURS,
        "libvirt": PackageVersion(version="10.10.3", release=""),
        "qemu-kvm": PackageVersion(version="7.2.22", release=""),
    }
    assert list_packages({}, kernel="", vdsm=OURS, libvirt=None, qemu=None) == {"vdsm": OURS}


def test_the_running_daemon_is_told_of_not_an_installed_one() -> None:
    assert list_packages({"vdsm": "4.50-1"}, kernel="", vdsm=OURS, libvirt=None, qemu=None)["vdsm"] == OURS
