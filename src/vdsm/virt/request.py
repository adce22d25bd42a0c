"""From a caller's request for a VM to the domain that will be started, pure; starting it is left to `launch`."""

from collections.abc import Mapping
from copy import deepcopy
from uuid import UUID
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct, field

from vdsm.api.errors import CreateFailed, MemoryHandleInvalid
from vdsm.api.vm import VmParameters
from vdsm.virt import hostedits
from vdsm.virt.cpu_policy import infer_policy
from vdsm.virt.devices.payload import list_payloads
from vdsm.virt.domain import DomainInvalid, DomainView, read_domain
from vdsm.virt.elements import MAXIMUM_CHARACTERS, format_xml, parse_xml
from vdsm.virt.hostedits import LOCKED_PASSWORD, HostFacts
from vdsm.virt.kept_data import read_data
from vdsm.virt.legacy.devices import Defaults
from vdsm.virt.legacy.domain import build_domain
from vdsm.virt.legacy.values import given
from vdsm.virt.metadata import VmMetadata, set_metadata
from vdsm.virt.saved import MemoryVolumes

_FORGOTTEN = (
    "exitCode",
    "exitReason",
    "exitMessage",
    "pauseTime",
    "incoming",
    "migratesTo",
    "convergence",
    "savedWhile",
    "memoryVolumes",
)
"""State of an earlier life that a client may send back."""


class Wish(Struct, frozen=True):
    """A VM that somebody wants: its domain (still without prepared images and accelerator) and what that says."""

    domain: Element
    view: DomainView
    metadata: VmMetadata
    first_offset_s: int
    added_offset_s: int
    kept_data: Mapping[str, bytes] = field(default_factory=dict)
    """What its TPM and its NVRAM shall begin with, by kind."""
    memory: MemoryVolumes | None = None
    """Where the memory is that it wakes up with."""

    @property
    def xml(self) -> str:
        """The domain for others to see: passwords of displays are blanked."""
        shown = deepcopy(self.domain)
        for display in shown.iterfind("devices/graphics[@passwd]"):
            display.set("passwd", LOCKED_PASSWORD)
        return format_xml(shown)


def plan_request(
    vm_id: str, parameters: VmParameters, *, host: HostFacts, defaults: Defaults, owner: str, now_s: float
) -> Wish:
    """What the caller wants, for the daemon of that root; `now_s` is the epoch time at which the VM's life begins.

    The id of the `xml` form comes from its `<uuid>`, that of the dictionary from either place. Raises CreateFailed (9),
    MissingParameter (11), UnsupportedVmType (5), ExternalDataFailed (89) and InvalidArgument (91).
    """
    _check_displays(parameters)
    memory = find_memory(parameters)
    xml = parameters.live_xml or parameters.xml
    is_xml = xml is not UNSET and bool(xml)
    if is_xml:
        domain = _parse(str(xml))
    else:
        wanted_id = vm_id or (parameters.vm_id if parameters.vm_id is not UNSET else "")
        domain = build_domain(wanted_id, parameters, host, defaults)
    reason = hostedits.check_supported(domain)
    if reason is not None:
        raise CreateFailed(reason)
    hostedits.set_identity(domain, host, None if parameters.serial is UNSET else parameters.serial)
    hostedits.manage_host_devices(domain)
    hostedits.drop_floppy_policies(domain)
    destroys_on_reboot = hostedits.take_reboot_policy(domain)
    found = _read(domain)
    elapsed_s = 0.0 if parameters.elapsed_offset_s is UNSET else parameters.elapsed_offset_s
    metadata = (found.metadata or VmMetadata()).changed(
        **dict.fromkeys(_FORGOTTEN), owner=owner, startTime=now_s - elapsed_s
    )
    if memory is not None:
        metadata = metadata.changed(memoryVolumes=memory.handle)
    if destroys_on_reboot:
        metadata = metadata.changed(destroy_on_reboot=True)
    metadata = infer_policy(metadata, found)
    set_metadata(domain, metadata)
    _check_length(domain)
    offset_s = found.time_offset_s if parameters.time_offset_s is UNSET else parameters.time_offset_s
    # libvirt's reports already count from the offset in the XML; only beside an XML is the caller's one more.
    added_s = offset_s if is_xml and parameters.time_offset_s is not UNSET else 0
    kept = {"tpm": given(parameters.tpm_data, ""), "nvram": given(parameters.nvram_data, "")}
    list_payloads(found.vm_id, found.disks, metadata)  # what cannot be made is told now
    return Wish(domain, found, metadata, offset_s, added_s, read_data(kept, found), memory)


def find_memory(parameters: VmParameters) -> MemoryVolumes | None:
    """The volumes of the memory that the VM shall wake up with; raises MemoryHandleInvalid (100)."""
    if parameters.memory_handle is not UNSET and parameters.memory_handle:
        return MemoryVolumes.parse(parameters.memory_handle)
    first, second = parameters.memory_volume, parameters.parameters_volume
    if first is UNSET and second is UNSET:
        return None
    if first is UNSET or second is UNSET:
        raise MemoryHandleInvalid("memoryDumpVolume", "it belongs together with memoryConfVolume")
    if (first.pool_id, first.domain_id) != (second.pool_id, second.domain_id):
        raise MemoryHandleInvalid("memoryConfVolume", "it must be on the domain of memoryDumpVolume")
    ids = (first.domain_id, first.pool_id, first.image_id, first.volume_id, second.image_id, second.volume_id)
    return MemoryVolumes.parse(",".join(ids))


def _check_displays(parameters: VmParameters) -> None:
    """Also beside an XML, where they have no other meaning (facts §2.1)."""
    if parameters.display and parameters.display not in ("vnc", "qxl", "qxlnc"):
        raise CreateFailed(f"unknown display type {parameters.display!r}")
    for device in given(parameters.devices, []):
        if device.type == "graphics" and device.device not in ("spice", "vnc"):
            raise CreateFailed(f"unknown graphics type {given(device.device, '')!r}")


def _check_length(domain: Element) -> None:
    """What was started must be understood again when libvirt tells of it."""
    length = len(format_xml(domain))
    if length > MAXIMUM_CHARACTERS:
        raise CreateFailed(f"{length} characters of XML are too many")


def _parse(xml: str) -> Element:
    try:
        domain = parse_xml(xml)
    except ValueError as error:
        raise CreateFailed(str(error)) from error
    if domain.tag != "domain":
        raise CreateFailed(f"the XML describes a {domain.tag}, not a domain")
    uuid = domain.find("uuid")
    try:
        canonical = str(UUID((uuid.text or "").strip())) if uuid is not None else ""
    except ValueError as error:
        raise CreateFailed("the XML's uuid is none") from error
    if uuid is None or not domain.findtext("name", "").strip():
        raise CreateFailed("the XML needs a name and a uuid")
    uuid.text = canonical
    return domain


def _read(domain: Element) -> DomainView:
    try:
        return read_domain(domain)
    except DomainInvalid as error:
        raise CreateFailed(str(error)) from error
