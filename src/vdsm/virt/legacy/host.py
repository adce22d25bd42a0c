"""Devices of the dictionary form that are the host's (facts §2.2): PCI and SCSI devices, vGPUs, TPMs; and leases."""

import re
from xml.etree.ElementTree import Element

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import DeviceParameters, DeviceSpec
from vdsm.virt.elements import element
from vdsm.virt.legacy.values import given, list_places

_PCI = re.compile(r"pci_([0-9a-f]{4})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])")
_SCSI = re.compile(r"scsi_(\d{1,5})_(\d{1,5})_(\d{1,5})_(\d{1,5})")
_MEDIATED = re.compile(r"mdev_([0-9a-f]{8})_([0-9a-f]{4})_([0-9a-f]{4})_([0-9a-f]{4})_([0-9a-f]{12})(_.*)?")


def build_host_device(device: DeviceSpec) -> Element | None:
    """A device by libvirt's name for it; None for one that is only taken from this host, for others of its group.

    Raises CreateFailed for kinds whose name does not tell where they are, such as USB.
    """
    name = given(device.device, "")
    if given(given(device.parameters, DeviceParameters()).iommu_placeholder, False):
        return None
    places, common = list_places(device), {"mode": "subsystem"}
    if (address := build_pci_address(name)) is not None:
        return element("hostdev", element("source", address), *places, **common, type="pci", managed="yes")
    if (found := _SCSI.fullmatch(name)) is not None:
        host, bus, target, unit = found.groups()
        address = element("address", bus=bus, target=target, unit=unit)
        source = element("source", element("adapter", name=f"scsi_host{host}"), address)
        return element("hostdev", source, *places, **common, type="scsi", rawio="yes")
    if (found := _MEDIATED.fullmatch(name)) is not None:
        source = element("source", element("address", uuid="-".join(found.groups()[:5])))
        return element("hostdev", source, *places, **common, type="mdev", model="vfio-pci")
    raise CreateFailed(f"host device {name[:80]!r} cannot be made from this form; use the xml form")


def build_pci_address(name: str, **more: str) -> Element | None:
    """Where the PCI device of that name is; None for other names."""
    found = _PCI.fullmatch(name)
    if found is None:
        return None
    names = ("domain", "bus", "slot", "function")
    return element("address", **{key: f"0x{part}" for key, part in zip(names, found.groups(), strict=True)}, **more)


def build_tpm(device: DeviceSpec) -> Element:
    """The host's TPM, or one that swtpm emulates."""
    wishes = given(device.parameters, DeviceParameters())
    mode, model = given(wishes.mode, "passthrough"), given(wishes.model, "tpm-tis")
    if mode == "emulator":
        return element("tpm", element("backend", type=mode, version="2.0"), model=model)
    if mode != "passthrough":
        raise CreateFailed(f"unknown mode {mode[:40]!r} of a TPM")
    path = element("device", path=given(wishes.path, "/dev/tpm0"))
    return element("tpm", element("backend", path, type=mode), model=model)


def build_lease(device: DeviceSpec) -> Element:
    """A lease that is held while the VM runs; without a path it is looked for when the VM starts."""
    key, domain_id = given(device.lease_id, ""), given(device.lease_domain_id, "")
    if not key or not domain_id:
        raise CreateFailed("a lease needs lease_id and sd_id")
    path = given(device.path, "") or f"LEASE-PATH:{key}:{domain_id}"
    offset = given(device.offset, 0) if device.path else f"LEASE-OFFSET:{key}:{domain_id}"
    return element(
        "lease",
        element("lockspace", text=domain_id),
        element("key", text=key),
        element("target", path=path, offset=offset),
    )
