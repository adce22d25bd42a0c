"""A VM with UEFI and a TPM: what both keep is saved, comes back with another VM's start, and shows what VMs show."""

import base64
import bz2
import hashlib
import io
import shutil
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import CallFailed, Vdsmd, make_id, poll

CODE, VARIABLES = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
HAS_ALL = CODE.exists() and all(map(shutil.which, ("swtpm", "swtpm_setup")))
pytestmark = pytest.mark.skipif(not HAS_ALL, reason="not installed: ovmf, swtpm or swtpm-tools")

XML = """<domain type="qemu"><name>{name}</name><uuid>{vm_id}</uuid><memory unit="MiB">96</memory><vcpu>1</vcpu>
<metadata><vm xmlns="http://ovirt.org/vm/1.0"><launchPaused type="bool">{paused}</launchPaused></vm></metadata>
<os><type arch="x86_64" machine="q35">hvm</type><loader readonly="yes" type="pflash">{code}</loader>
<nvram template="{variables}">{nvram}</nvram></os><features><acpi/></features>
<devices><tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm>
<graphics type="vnc" autoport="yes" passwdValidTo="1970-01-01T00:00:01"/><video><model type="vga"/></video>
</devices></domain>"""


def create(vdsmd: Vdsmd, *, paused: bool, **data: str) -> tuple[str, Path]:
    """The VM's id, and its NVRAM where libvirtd sees it."""
    vm_id = make_id()
    nvram = vdsmd.root / "var/lib/libvirt/qemu/nvram" / f"{vm_id}.fd"
    xml = XML.format(name=f"vm-{vm_id[:8]}", vm_id=vm_id, paused=paused, code=CODE, variables=VARIABLES, nvram=nvram)
    vdsmd.call("VM.create", vmID=vm_id, vmParams={"xml": xml, **data})
    vdsmd.wait_status(vm_id, *(("Paused",) if paused else ("Up", "Powering up")))
    return vm_id, nvram


def save(vdsmd: Vdsmd, vm_id: str, kind: str, **how: object) -> dict[str, Any]:
    found: dict[str, Any] = vdsmd.call("VM.getExternalData", vmID=vm_id, kind=kind, **how)
    return found


@pytest.fixture
def node(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> Vdsmd:
    """A daemon that sees libvirt's folder of TPMs, which is in libvirtd's own namespace."""
    folder = vdsmd.root / "var/lib/libvirt"
    (folder / "qemu/nvram").mkdir(parents=True)
    (folder / "swtpm").symlink_to(libvirtd.root / "var/lib/libvirt/swtpm")
    return vdsmd


def test_what_is_kept_is_saved_and_comes_back(node: Vdsmd) -> None:
    vm_id, nvram = create(node, paused=True)
    saved = {kind: save(node, vm_id, kind) for kind in ("nvram", "tpm")}
    for kind, found in saved.items():
        assert found["hash"] == hashlib.sha256(found["_X_data"].encode()).hexdigest()
        assert save(node, vm_id, kind, lastHash=found["hash"]) == {"hash": found["hash"]}
    text = saved["nvram"]["_X_data"]
    assert text.startswith("=0=")
    variables = bz2.decompress(base64.b64decode(text[3:]))
    assert variables == nvram.read_bytes() == VARIABLES.read_bytes()
    packed = io.BytesIO(base64.b64decode(saved["tpm"]["_X_data"]))
    with tarfile.open(fileobj=packed, mode="r:xz") as tar:
        assert any(name.endswith("tpm2-00.permall") for name in tar.getnames())
    assert any((node.root / "var/lib/libvirt/swtpm" / vm_id).iterdir())
    node.call("VM.destroy", vmID=vm_id)
    assert not nvram.exists() and not (node.root / "var/lib/libvirt/swtpm" / vm_id).exists()

    mark = bytes(range(256))
    changed = variables[: -len(mark)] + mark
    given = "=0=" + base64.b64encode(bz2.compress(changed)).decode()
    other_id, other = create(node, paused=True, _X_nvramdata=given, _X_tpmdata=saved["tpm"]["_X_data"])
    assert other.read_bytes() == changed
    assert save(node, other_id, "nvram")["_X_data"] == given
    [permanent] = [found for found in list_tpm(node, other_id) if found[0].endswith("permall")]
    assert permanent in list_members(saved["tpm"]["_X_data"]), "the TPM is the one that was saved"
    stats = node.get_stats(other_id)
    assert (stats["tpmHash"], stats["nvramHash"]) == tuple(
        save(node, other_id, kind, forceUpdate=False)["hash"] for kind in ("tpm", "nvram")
    )


def list_members(text: str) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:xz") as tar:
        return [(entry.name, tar.extractfile(entry).read()) for entry in tar if entry.isreg()]  # type: ignore[union-attr]


def list_tpm(node: Vdsmd, vm_id: str) -> list[tuple[str, bytes]]:
    return list_members(save(node, vm_id, "tpm")["_X_data"])


def test_nothing_else_is_told_or_written(node: Vdsmd) -> None:
    vm_id, _ = create(node, paused=True)
    plain = node.create_vm()
    for asked, kind in ((vm_id, "floppy"), (plain, "nvram"), (plain, "tpm")):
        with pytest.raises(CallFailed) as caught:
            save(node, asked, kind)
        assert caught.value.code == 89
    wanted = {"vmID": make_id(), "vmParams": {"_X_nvramdata": "QUJD"}}
    victim = node.root / "victim"
    wanted["vmParams"]["xml"] = XML.format(  # type: ignore[index]
        name="greedy", vm_id=wanted["vmID"], paused=True, code=CODE, variables=VARIABLES, nvram=victim
    )
    node.call("VM.create", **wanted)
    stats = node.wait_status(str(wanted["vmID"]), "Down")
    assert "only files in" in stats["exitMessage"] and not victim.exists()


def test_a_picture_of_the_firmware(node: Vdsmd) -> None:
    vm_id, _ = create(node, paused=False)

    def look() -> tuple[int, int] | None:
        shot = node.call("VM.screenshot", vmID=vm_id)
        assert (shot["encoding"], shot["mime_type"]) in (("base64", "image/png"), ("base64", "image/x-portable-pixmap"))
        data = base64.b64decode(shot["data"])
        if shot["mime_type"] == "image/png":
            assert data.startswith(b"\x89PNG") and data[-8:-4] == b"IEND"
            size = struct.unpack(">II", data[16:24])
        else:
            size = tuple(map(int, data.split(maxsplit=3)[1:3]))
            assert len(set(data.split(b"\n", 3)[3])) >= 1
        return size if size[0] >= 640 and size[1] >= 400 else None

    assert poll(look, "the firmware draws", 60)
    node.call("VM.destroy", vmID=vm_id)
    with pytest.raises(CallFailed) as caught:
        node.call("VM.screenshot", vmID=vm_id)
    assert caught.value.code == 1
