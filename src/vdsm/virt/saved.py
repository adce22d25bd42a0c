"""What is needed of a VM whose memory is on storage (facts §2.1): which volumes hold it, what the one beside it tells,
and how the saved domain becomes one of this host; pure."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Self
from uuid import UUID
from xml.etree.ElementTree import Element

from msgspec import Struct

from vdsm.api.errors import MemoryHandleInvalid
from vdsm.virt import hostedits, pickles
from vdsm.virt.metadata import VmMetadata, VolumeRef, set_metadata
from vdsm.virt.ports import PreparedImage

_NEVER = "1970-01-01T00:00:01"


class MemoryVolumes(Struct, frozen=True):
    """Where a VM's memory is, and beside it what there is to know of the VM."""

    memory: VolumeRef
    parameters: VolumeRef

    @classmethod
    def parse(cls, handle: str) -> Self:
        """From domainID,poolID,stateImageID,stateVolumeID,confImageID,confVolumeID, or MemoryHandleInvalid (100)."""
        ids = handle.split(",")
        try:
            domain, pool, *others = [str(UUID(one.strip())) for one in ids]
            memory_image, memory, parameters_image, parameters = others
        except ValueError as error:
            raise MemoryHandleInvalid("hiberVolHandle", "expected six ids between commas") from error
        refs = VolumeRef(pool, domain, memory_image, memory), VolumeRef(pool, domain, parameters_image, parameters)
        return cls(*refs)

    @property
    def handle(self) -> str:
        """What `parse` reads."""
        first, second = self.memory, self.parameters
        ids = (first.domain_id, first.pool_id, first.image_id, first.volume_id, second.image_id, second.volume_id)
        return ",".join(ids)

    @property
    def volumes(self) -> tuple[VolumeRef, VolumeRef]:
        """Both of them."""
        return self.memory, self.parameters


class SavedParameters(Struct, frozen=True):
    """What stands beside a VM's memory; `is_snapshot` tells a copy of its memory from a VM that was saved to disk."""

    live_xml: str = ""
    elapsed_s: float | None = None
    is_snapshot: bool = False


def format_parameters(vm_id: str, live_xml: str, xml: str, elapsed_s: float) -> bytes:
    """What is left beside the memory of a VM that is saved."""
    return pickles.dump({"vmId": vm_id, "_srcDomXML": live_xml, "xml": xml, "elapsedTimeOffset": elapsed_s})


def format_snapshot(live_xml: str, elapsed_s: float) -> bytes:
    """What is left beside a copy of the memory of a VM that runs on."""
    return pickles.dump({"restoreFromSnapshot": True, "_srcDomXML": live_xml, "elapsedTimeOffset": elapsed_s})


def parse_parameters(data: bytes) -> SavedParameters:
    """What stands there, as far as it is of the right kind; raises PickleInvalid."""
    values = pickles.load(data)
    if not isinstance(values, Mapping):
        raise pickles.PickleInvalid("not a dictionary")
    xml, elapsed_s = values.get("_srcDomXML"), values.get("elapsedTimeOffset")
    is_known = isinstance(elapsed_s, int | float) and 0 <= elapsed_s < 2**53
    return SavedParameters(
        live_xml=xml if isinstance(xml, str) else "",
        elapsed_s=float(str(elapsed_s)) if is_known and elapsed_s is not True else None,
        is_snapshot=values.get("restoreFromSnapshot") is True,
    )


def renew(
    saved: Element,
    wanted: Element,
    metadata: VmMetadata,
    images: Mapping[str, PreparedImage],
    *,
    relabel: bool,
    is_snapshot: bool,
) -> Element:
    """The saved domain as it shall run here (facts §2.1, "Restore order"); raises ValueError for another VM's.

    Disks lead to the images that were prepared, displays let nobody in, and the processors' pinning is the wanted one.
    """
    domain = deepcopy(saved)
    if domain.tag != "domain" or domain.findtext("uuid", "").strip() != wanted.findtext("uuid", "").strip():
        raise ValueError("the saved memory is another VM's")
    if is_snapshot:
        for disk in domain.iterfind("devices/disk"):
            for layer in disk.findall("backingStore"):
                disk.remove(layer)
    hostedits.set_images(domain, images, relabel=relabel)
    set_metadata(domain, metadata)
    for display in domain.iterfind("devices/graphics"):
        if display.get("type") in ("vnc", "spice"):
            display.set("passwd", hostedits.LOCKED_PASSWORD)
            display.set("passwdValidTo", _NEVER)
    _pin(domain, wanted, metadata)
    return domain


def _pin(domain: Element, wanted: Element, metadata: VmMetadata) -> None:
    manual = set(str(metadata.values.get("manuallyPinedCPUs", "")).split(","))
    tune = domain.find("cputune")
    if tune is not None:
        for pin in tune.findall("vcpupin"):
            if pin.get("vcpu") not in manual:
                tune.remove(pin)
    pins = [pin for pin in wanted.iterfind("cputune/vcpupin") if pin.get("vcpu") not in manual]
    if pins:
        if tune is None:
            tune = Element("cputune")
            domain.append(tune)
        tune.extend(deepcopy(pins))
