"""Which software the host runs, under the names that managers know (`packages2`, facts §4.1)."""

from collections.abc import Mapping

from vdsm.api.host_types import PackageVersion

NAMES: dict[str, tuple[str, ...]] = {
    **{
        name: (name,)
        for name in ("glusterfs-cli", "librbd1", "lvm2", "mom", "nmstate", "ovirt-hosted-engine-ha", "vdsm")
    },
    "libvirt": ("libvirt", "libvirt-daemon"),
    "openvswitch": ("openvswitch", "openvswitch-switch"),
    "qemu-img": ("qemu-img", "qemu-utils"),
    "qemu-kvm": ("qemu-kvm", "qemu-system-x86", "qemu-system-arm", "qemu-system-ppc", "qemu-system-misc"),
    "spice-server": ("spice-server", "libspice-server1"),
}
"""Our names, and what Fedora and Debian call the package; the first that is installed counts."""

PACKAGES = tuple(sorted({package for packages in NAMES.values() for package in packages}))
"""All that the package database is asked for."""


def split_version(full: str) -> PackageVersion:
    """`1:7.2+dfsg-7+deb12u12` without its epoch, at the last dash: version `7.2+dfsg`, release `7+deb12u12`."""
    plain = full.partition(":")[2] or full
    version, dash, release = plain.rpartition("-")
    return PackageVersion(version=version, release=release) if dash else PackageVersion(version=plain, release="")


def split_kernel(release: str) -> PackageVersion:
    """`6.1.0-18-amd64` at its first dash, as kernels number themselves."""
    version, _, rest = release.partition("-")
    return PackageVersion(version=version, release=rest)


def format_libvirt_version(number: int) -> str:
    """libvirt's numbers: 7002022 is 7.2.22."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def list_packages(
    installed: Mapping[str, str], *, kernel: str, vdsm: PackageVersion, libvirt: int | None, qemu: int | None
) -> dict[str, PackageVersion]:
    """What runs here: the running kernel and daemon; libvirt's and qemu's own word where no package tells."""
    found = {"vdsm": vdsm}
    if kernel:
        found["kernel"] = split_kernel(kernel)
    for name, number in (("libvirt", libvirt), ("qemu-kvm", qemu)):
        if number:
            found[name] = PackageVersion(version=format_libvirt_version(number), release="")
    for name, packages in NAMES.items():
        full = next((installed[package] for package in packages if package in installed), None)
        if full is not None and name != "vdsm":
            found[name] = split_version(full)
    return found
