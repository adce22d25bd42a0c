"""Files that a VM finds on a disc made for it (facts §2.3, §2.4): read and checked, pure; others make discs.

The metadata of a drive carries them, and its source is a placeholder until the VM starts.
"""

import binascii
from collections.abc import Iterable, Mapping

from vdsm.api.errors import CreateFailed
from vdsm.virt.domain import DiskView
from vdsm.virt.metadata import Branch, DeviceMetadata, VmMetadata
from vdsm.virt.ports import DISC_NAME, Payload

PLACEHOLDER = "PAYLOAD:"
_LONGEST_NAME = 64
"""Characters of a part of a path, as much as Joliet has for Windows guests."""
_LONGEST_VOLUME_ID = 32
_FORBIDDEN = frozenset('\\:*?"<>|')
"""What FAT has no names with."""


def list_payloads(vm_id: str, disks: Iterable[DiskView], metadata: VmMetadata) -> dict[str, Payload]:
    """The discs that are to be made for a VM that starts or comes from another host, by target name of their drives.

    Raises CreateFailed for what cannot be made.
    """
    found = {}
    for disk in disks:
        is_placed = disk.path.endswith("/" + DISC_NAME.format(vm_id=vm_id, target=disk.target))
        if disk.path != PLACEHOLDER and not is_placed:
            continue
        told = metadata.device(devtype="disk", name=disk.target)
        branch = None if told is None else _find_branch(told)
        if branch is None:
            raise CreateFailed(f"drive {disk.target[:40]!r} has the placeholder of a payload, but no payload")
        if disk.device not in ("cdrom", "floppy"):
            raise CreateFailed(f"a payload is a cdrom or a floppy, not a {disk.device[:40]}")
        found[disk.target] = _read(disk.device == "floppy", branch)
    return found


def has_payload(metadata: VmMetadata) -> bool:
    """Whether a disc may have been made for the VM."""
    return any(_find_branch(device) is not None for device in metadata.devices)


def build_branch(volume_id: str, contents: Mapping[str, str]) -> Branch:
    """What a drive's metadata holds of the files; the contents are in base64."""
    files = [Branch("file", {"path": path}, content, ()) for path, content in contents.items()]
    return Branch("payload", {}, "", (Branch("volId", {}, volume_id, ()), *files))


def _find_branch(device: DeviceMetadata) -> Branch | None:
    """The payload, at its place of today or at the older one."""
    for branch in device.nested:
        if branch.tag == "payload":
            return branch
        if branch.tag == "specParams":
            return next((child for child in branch.children if child.tag == "vmPayload"), None)
    return None


def _read(is_floppy: bool, branch: Branch) -> Payload:
    volume_id = next((child.text for child in branch.children if child.tag == "volId"), "")
    if len(volume_id) > _LONGEST_VOLUME_ID or not volume_id.isascii() or not volume_id.isprintable():
        raise CreateFailed(f"the name of a payload's volume must be at most {_LONGEST_VOLUME_ID} ASCII characters")
    files: dict[str, bytes] = {}
    for child in branch.children:
        if child.tag == "file":
            path = _check_path(child.attributes.get("path", ""), files)
            try:
                files[path] = binascii.a2b_base64("".join(child.text.split()), strict_mode=True)
            except ValueError as error:
                raise CreateFailed(f"payload file {path}: its content is not base64: {error}") from error
    return Payload(is_floppy, volume_id, files)


def _check_path(path: str, others: Mapping[str, bytes]) -> str:
    """The path, relative to the disc's top; one of FAT's names differs from others by more than case."""
    parts = path.removeprefix("/").split("/")
    for part in parts:
        if (
            not 0 < len(part) <= _LONGEST_NAME
            or part in (".", "..")
            or not part.isprintable()
            or _FORBIDDEN & set(part)
        ):
            raise CreateFailed(f"a payload's file cannot be called {path[:80]!r}")
    folded = [part.lower() for part in parts]
    for other in others:
        known = other.lower().split("/")
        if known == folded[: len(known)] or folded == known[: len(folded)]:
            raise CreateFailed(f"two files of a payload cannot be {path!r} and {other!r}")
    return "/".join(parts)
