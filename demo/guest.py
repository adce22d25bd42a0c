"""A Linux guest made on the spot: Debian's stock kernel and a busybox that says who it is; others boot it.

Both packages are downloaded and unpacked into a cache; nothing is installed. Run as a program it builds the guest (if
the cache has none) and prints where its files are.
"""

import hashlib
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from demo import cpio

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache/guest"
KERNEL_ARGUMENTS = "console=tty0 console=ttyS0 quiet panic=5"
DRIVERS = (
    *("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_balloon", "virtio_rng", "virtio_console"),
    *("ahci", "ata_piix", "sd_mod", "sr_mod", "e1000", "button", "evdev", "i6300esb"),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a guest is made of beside kernel and busybox: its drivers, its /init, and other files."""

    drivers: Sequence[str] = DRIVERS
    init: bytes = (HERE / "init.sh").read_bytes()
    files: Sequence[cpio.Entry] = ()

    @property
    def id(self) -> str:
        """Equal for recipes that give the same guest."""
        code = b"".join((HERE / name).read_bytes() for name in ("guest.py", "cpio.py"))
        return hashlib.sha256(code + repr((self.drivers, self.init, self.files)).encode()).hexdigest()[:16]


class GuestError(Exception):
    """The guest cannot be made here; the text says why and what helps."""


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """What a VM needs to boot the guest: direct kernel boot with these files and arguments.

    The argument `guest=NAME` besides makes the guest call itself so.
    """

    kernel: Path
    initrd: Path
    arguments: str = KERNEL_ARGUMENTS

    def copy_to(self, folder: Path) -> "GuestFiles":
        """The same guest in another folder, for a qemu that may not look into the cache."""
        folder.mkdir(parents=True, exist_ok=True)
        kernel, initrd = (Path(shutil.copy(file, folder)) for file in (self.kernel, self.initrd))
        return GuestFiles(kernel, initrd, self.arguments)


def build_guest(cache: Path = CACHE, recipe: Recipe | None = None) -> GuestFiles:
    """Make the guest, by default the demo's, in `cache` unless it is there already. Raises GuestError."""
    recipe = recipe or Recipe()
    place = cache / recipe.id
    guest = GuestFiles(place / "vmlinuz", place / "initrd.gz")
    if place.is_dir():
        return guest
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as name:
        made = Path(name) / "made"
        made.mkdir()
        downloads = _download((_find_kernel_package(), "busybox-static"), Path(name))
        kernel, modules = _unpack_kernel(downloads[0], recipe.drivers)
        (made / "vmlinuz").write_bytes(kernel)
        (made / "initrd.gz").write_bytes(_format_initrd(_unpack_busybox(downloads[1]), modules, recipe))
        made.chmod(0o755)
        try:
            made.rename(place)  # all or nothing, also when two builds race
        except OSError:
            if not place.is_dir():
                raise
    return guest


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    if done.returncode != 0:
        raise GuestError(f"{' '.join(command)} failed: {done.stderr.strip()[-800:]}")
    return done.stdout


def _find_kernel_package() -> str:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise GuestError("its packages come from apt, which is not here: boot an image of your own, IMAGE=disk.qcow2")
    try:
        listed = _run("apt-cache", "depends", "linux-image-amd64")
    except GuestError:
        _run("apt-get", "-q", "update")
        listed = _run("apt-cache", "depends", "linux-image-amd64")
    found = re.search(r"Depends: (linux-image-\S+)", listed)
    if found is None:
        raise GuestError("apt knows no kernel package behind linux-image-amd64")
    return found[1]


def _download(packages: Iterable[str], folder: Path) -> list[Path]:
    """The packages' files, in the given order; old package lists are refreshed once."""
    names = list(packages)
    command = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names)
    try:
        _run(*command, cwd=folder)
    except GuestError:
        _run("apt-get", "-q", "update")
        _run(*command, cwd=folder)
    return [next(folder.glob(f"{name}_*.deb")) for name in names]


def _read_members(package: Path, wanted: re.Pattern[str]) -> dict[str, bytes]:
    """The regular files of a package whose path matches."""
    found = {}
    with subprocess.Popen(("dpkg-deb", "--fsys-tarfile", package), stdout=subprocess.PIPE) as unpacker:
        assert unpacker.stdout is not None
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
            for member in archive:
                if member.isreg() and wanted.search(member.name) and (content := archive.extractfile(member)):
                    found[member.name] = content.read()
        unpacker.stdout.read()
    if unpacker.returncode != 0:
        raise GuestError(f"dpkg-deb cannot unpack {package.name}")
    return found


def _unpack_busybox(package: Path) -> bytes:
    found = _read_members(package, re.compile(r"^\./(usr/)?bin/busybox$"))
    if len(found) != 1:
        raise GuestError(f"{package.name} holds no busybox")
    return next(iter(found.values()))


def _unpack_kernel(package: Path, drivers: Iterable[str]) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The kernel and the drivers in the order in which they must be loaded."""
    folders = r"(drivers|lib|crypto|net|arch)"
    files = _read_members(package, re.compile(rf"^\./(boot/vmlinuz-|(usr/)?lib/modules/[^/]+/kernel/{folders}/.*\.ko)"))
    modules: dict[str, bytes] = {}
    kernel = b""
    for path, content in files.items():
        if path.startswith("./boot/"):
            kernel = content
        else:
            modules[_get_module_name(path)] = content
    return kernel, order_modules(drivers, modules)


def _get_module_name(path: str) -> str:
    return PurePosixPath(path).name.split(".ko")[0].replace("-", "_")


def _decompress(module: bytes) -> bytes:
    return lzma.decompress(module) if module.startswith(b"\xfd7zXZ") else module


def order_modules(wanted: Iterable[str], modules: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Wanted modules and those that they depend on, each after what it needs; those built in are left out."""
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name not in modules:
            return
        content = _decompress(modules[name])
        found = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in found[1].decode().split(",") if found else ():
            add(needed.replace("-", "_"))
        ordered[name] = content

    for name in wanted:
        add(name)
    return list(ordered.items())


def _format_initrd(busybox: bytes, modules: list[tuple[str, bytes]], recipe: Recipe) -> bytes:
    folders = ("bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "modules", "proc", "root", "sys", "tmp")
    power_button = b"#!/bin/sh\necho 'guest: power button' >/dev/ttyS0\nexec poweroff -f\n"
    order = "".join(f"{name}.ko\n" for name, _ in modules).encode()
    return cpio.format_initramfs(
        [
            *map(cpio.folder, folders),
            cpio.character_device("dev/console", 5, 1),
            cpio.program("bin/busybox", busybox),
            cpio.link("bin/sh", "busybox"),
            cpio.program("init", recipe.init),
            cpio.program("etc/acpi/PWRF/00000080", power_button),
            cpio.program("modules/order", order),
            *(cpio.program(f"modules/{name}.ko", content) for name, content in modules),
            *recipe.files,
        ]
    )


def main() -> int:
    """Build the guest and say where it is."""
    try:
        guest = build_guest()
    except GuestError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 1
    print(f"guest: kernel {guest.kernel}\nguest: initrd {guest.initrd}\nguest: arguments {guest.arguments}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
