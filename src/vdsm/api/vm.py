"""The surface of virtual machines: what can be asked of one, and the shapes of requests and answers."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Flag, Number, Text, group, ovirt, verb, xmlrpc
from vdsm.api.guest import GuestDisk, GuestOs, GuestTimezone
from vdsm.api.tuning import IoLimits
from vdsm.api.vm_types import DisplayInfo, VmStats
from vdsm.core.ids import VmId

VmStatus = Literal[
    "WaitForLaunch",
    "Powering up",
    "Up",
    "Powering down",
    "RebootInProgress",
    "Paused",
    "Migration Source",
    "Migration Destination",
    "Saving State",
    "Restoring state",
    "Down",
]


class DeviceAddress(Struct, frozen=True, kw_only=True):
    """Where a device sits; `type` says which of the others count (pci, drive, virtio-serial, …)."""

    type: Text = UNSET
    domain: Text = UNSET
    bus: Text = UNSET
    slot: Text = UNSET
    function: Text = UNSET
    controller: Text = UNSET
    target: Text = UNSET
    unit: Text = UNSET
    port: Text = UNSET


class Bandwidth(Struct, frozen=True, kw_only=True):
    """What a network card may send or receive: KiB/s on average and at most, KiB at once at that most."""

    average: Number = UNSET
    peak: Number = UNSET
    burst: Number = UNSET


class FilterParameter(Struct, frozen=True, kw_only=True):
    """A value for a network filter."""

    name: str
    value: str


class DiskServer(Struct, frozen=True, kw_only=True):
    """A server of a network disk."""

    name: str
    transport: Text = UNSET
    port: Text = UNSET


class DiskSecret(Struct, frozen=True, kw_only=True):
    """Who a network disk's server takes qemu for; `uuid` is that of libvirt's secret."""

    username: str
    type: str
    uuid: str


class ChainVolume(Struct, frozen=True, kw_only=True):
    """A volume of a disk's chain."""

    domain_id: Annotated[str, ovirt("domainID")]
    image_id: Annotated[str, ovirt("imageID")]
    volume_id: Annotated[str, ovirt("volumeID")]
    path: Text = UNSET


class VmPayload(Struct, frozen=True, kw_only=True):
    """Files that the guest finds on a disc made for it: their contents in base64, by their paths on the disc."""

    volume_id: Annotated[Text, ovirt("volId")] = UNSET
    files: Annotated[dict[str, str] | UnsetType, ovirt("file")] = UNSET


class DeviceParameters(Struct, frozen=True, kw_only=True):
    """`specParams` of a device: what only some kinds of device have."""

    video_ram_kib: Annotated[Number, ovirt("vram")] = UNSET
    ram_kib: Annotated[Number, ovirt("ram")] = UNSET
    vga_memory_kib: Annotated[Number, ovirt("vgamem")] = UNSET
    heads: Number = UNSET
    model: Text = UNSET
    action: Text = UNSET
    mode: Text = UNSET
    type: Text = UNSET
    path: Text = UNSET
    console_type: Annotated[Text, ovirt("consoleType")] = UNSET
    enable_socket: Annotated[Text, ovirt("enableSocket")] = UNSET
    source: Text = UNSET
    bytes: Number = UNSET
    period_ms: Annotated[Number, ovirt("period")] = UNSET
    keyboard_map: Annotated[Text, ovirt("keyMap")] = UNSET
    display_network: Annotated[Text, ovirt("displayNetwork")] = UNSET
    display_address: Annotated[Text, ovirt("displayIp")] = UNSET
    spice_secure_channels: Annotated[Text, ovirt("spiceSecureChannels")] = UNSET
    copy_paste: Annotated[Flag, ovirt("copyPasteEnable")] = UNSET
    file_transfer: Annotated[Flag, ovirt("fileTransferEnable")] = UNSET
    io_limits: Annotated[IoLimits | UnsetType, ovirt("ioTune")] = UNSET
    io_thread: Annotated[Number, ovirt("pinToIoThread")] = UNSET
    vlan_tag: Annotated[Number, ovirt("vlanid")] = UNSET
    controller_io_thread: Annotated[Number, ovirt("ioThreadId")] = UNSET
    payload: Annotated[VmPayload | UnsetType, ovirt("vmPayload")] = UNSET
    iommu_placeholder: Annotated[Flag, ovirt("iommuPlaceholder")] = UNSET
    inbound: Bandwidth | UnsetType = UNSET
    outbound: Bandwidth | UnsetType = UNSET


class DeviceSpec(Struct, frozen=True, kw_only=True):
    """One device of the dictionary form (facts §2.2); which fields count depends on `type` and `device`."""

    type: str
    device: Text = UNSET
    device_id: Annotated[Text, ovirt("deviceId")] = UNSET
    device_type: Annotated[Text, ovirt("deviceType")] = UNSET
    alias: Text = UNSET
    address: DeviceAddress | UnsetType = UNSET
    parameters: Annotated[DeviceParameters | UnsetType, ovirt("specParams")] = UNSET
    custom: dict[str, str] | UnsetType = UNSET
    boot_order: Annotated[Number, ovirt("bootOrder")] = UNSET
    # disks
    path: Text = UNSET
    pool_id: Annotated[Text, ovirt("poolID")] = UNSET
    domain_id: Annotated[Text, ovirt("domainID")] = UNSET
    image_id: Annotated[Text, ovirt("imageID")] = UNSET
    volume_id: Annotated[Text, ovirt("volumeID")] = UNSET
    interface: Annotated[Text, ovirt("iface")] = UNSET
    index: Number = UNSET
    format: Text = UNSET
    propagate_errors: Annotated[Text, ovirt("propagateErrors", declared="boolean")] = UNSET
    readonly: Flag = UNSET
    shared: Text = UNSET
    optional: Flag = UNSET
    serial: Text = UNSET
    cache: Text = UNSET
    discard: Flag = UNSET
    disk_type: Annotated[Text, ovirt("diskType")] = UNSET
    name: Text = UNSET
    protocol: Text = UNSET
    hosts: list[DiskServer] | UnsetType = UNSET
    auth: DiskSecret | UnsetType = UNSET
    lun_id: Annotated[Text, ovirt("GUID")] = UNSET
    file_system_id: Annotated[Text, ovirt("UUID")] = UNSET
    rbd: Annotated[Text, ovirt("RBD")] = UNSET
    sgio: Text = UNSET
    base_volume_id: Annotated[Text, ovirt("baseVolumeID")] = UNSET
    volume_chain: Annotated[list[ChainVolume] | UnsetType, ovirt("volumeChain")] = UNSET
    apparent_bytes: Annotated[Number, ovirt("apparentsize")] = UNSET
    true_bytes: Annotated[Number, ovirt("truesize")] = UNSET
    # network cards
    mac_address: Annotated[Text, ovirt("macAddr")] = UNSET
    nic_model: Annotated[Text, ovirt("nicModel")] = UNSET
    network: Text = UNSET
    link_active: Annotated[Flag, ovirt("linkActive")] = UNSET
    host_device: Annotated[Text, ovirt("hostdev")] = UNSET
    port_mirroring: Annotated[list[str] | UnsetType, ovirt("portMirroring")] = UNSET
    filter: Text = UNSET
    filter_parameters: Annotated[list[FilterParameter] | UnsetType, ovirt("filterParameters")] = UNSET
    # leases
    lease_id: Annotated[Text, ovirt("lease_id")] = UNSET
    lease_domain_id: Annotated[Text, ovirt("sd_id")] = UNSET
    offset: Number = UNSET
    # controllers and memory
    model: Text = UNSET
    master: Text = UNSET
    size_mib: Annotated[Number, ovirt("size")] = UNSET
    node: Number = UNSET
    target_kib: Annotated[Number, ovirt("target")] = UNSET


class DriveSpec(Struct, frozen=True, kw_only=True):
    """One drive of the oldest form (`drives`): a volume by its four ids, or a path."""

    pool_id: Annotated[Text, ovirt("poolID")] = UNSET
    domain_id: Annotated[Text, ovirt("domainID")] = UNSET
    image_id: Annotated[Text, ovirt("imageID")] = UNSET
    volume_id: Annotated[Text, ovirt("volumeID")] = UNSET
    path: Text = UNSET
    interface: Annotated[Text, ovirt("if")] = UNSET
    index: Number = UNSET
    format: Text = UNSET
    boot: Text = UNSET
    serial: Text = UNSET
    propagate_errors: Annotated[Text, ovirt("propagateErrors")] = UNSET


class GuestNumaNode(Struct, frozen=True, kw_only=True):
    """One NUMA cell of the guest: its vCPUs as a list text and its memory."""

    cpus: str
    index: Annotated[int, ovirt("nodeIndex")]
    memory_mib: Annotated[int, ovirt("memory")]


class NumaMemoryNode(Struct, frozen=True, kw_only=True):
    """The host nodes that back one guest NUMA cell."""

    guest_node: Annotated[str, ovirt("vmNodeIndex")]
    nodeset: str


class NumaTune(Struct, frozen=True, kw_only=True):
    """How guest memory is placed on host NUMA nodes."""

    mode: str
    nodeset: str
    memory_nodes: Annotated[list[NumaMemoryNode], ovirt("memnodes")] = []


class VolumeIds(Struct, frozen=True, kw_only=True):
    """A volume by its four ids."""

    pool_id: Annotated[str, ovirt("poolID")]
    domain_id: Annotated[str, ovirt("domainID")]
    image_id: Annotated[str, ovirt("imageID")]
    volume_id: Annotated[str, ovirt("volumeID")]


class VmParameters(Struct, frozen=True, kw_only=True):
    """What a VM should be: a libvirt domain (`xml`), or the dictionary of 2011 (everything else; facts §2.1, §2.2)."""

    xml: Text = UNSET
    vm_id: Annotated[Text, ovirt("vmId")] = UNSET
    name: Annotated[Text, ovirt("vmName")] = UNSET
    memory_mib: Annotated[Number, ovirt("memSize")] = UNSET
    maximum_memory_mib: Annotated[Number, ovirt("maxMemSize")] = UNSET
    maximum_memory_slots: Annotated[Number, ovirt("maxMemSlots")] = UNSET
    guaranteed_memory_mib: Annotated[Number, ovirt("memGuaranteedSize")] = UNSET
    vm_type: Annotated[Text, ovirt("vmType")] = UNSET
    kvm: Annotated[Flag, ovirt("kvmEnable", as_=str)] = UNSET
    cpus: Annotated[Number, ovirt("smp", as_=str)] = UNSET
    maximum_cpus: Annotated[Number, ovirt("maxVCpus", as_=str)] = UNSET
    cores_per_socket: Annotated[Number, ovirt("smpCoresPerSocket", as_=str)] = UNSET
    threads_per_core: Annotated[Number, ovirt("smpThreadsPerCore", as_=str)] = UNSET
    cpu_type: Annotated[Text, ovirt("cpuType")] = UNSET
    cpu_pinning: Annotated[dict[str, str] | UnsetType, ovirt("cpuPinning")] = UNSET
    cpu_shares: Annotated[Number, ovirt("cpuShares", as_=str)] = UNSET
    nice: Annotated[Number, ovirt("nice", as_=str)] = UNSET
    numa_tune: Annotated[NumaTune | UnsetType, ovirt("numaTune")] = UNSET
    guest_numa_nodes: Annotated[list[GuestNumaNode] | UnsetType, ovirt("guestNumaNodes")] = UNSET
    emulated_machine: Annotated[Text, ovirt("emulatedMachine")] = UNSET
    io_threads: Annotated[Number, ovirt("numOfIoThreads", as_=str)] = UNSET
    boot: Text = UNSET
    boot_menu: Annotated[Flag, ovirt("bootMenuEnable", as_=str)] = UNSET
    kernel: Text = UNSET
    initrd: Text = UNSET
    kernel_arguments: Annotated[Text, ovirt("kernelArgs")] = UNSET
    acpi: Annotated[Flag, ovirt("acpiEnable", as_=str)] = UNSET
    hyperv: Annotated[Flag, ovirt("hypervEnable")] = UNSET
    time_offset_s: Annotated[Number, ovirt("timeOffset", as_=str)] = UNSET
    tablet: Annotated[Flag, ovirt("tabletEnable", as_=str)] = UNSET
    transparent_huge_pages: Annotated[Flag, ovirt("transparentHugePages", as_=str)] = UNSET
    pit_reinjection: Annotated[Flag, ovirt("pitReinjection", as_=str)] = UNSET
    display: Text = UNSET
    display_network: Annotated[Text, ovirt("displayNetwork")] = UNSET
    display_address: Annotated[Text, ovirt("displayIp")] = UNSET
    keyboard_layout: Annotated[Text, ovirt("keyboardLayout")] = UNSET
    spice_secure_channels: Annotated[Text, ovirt("spiceSecureChannels")] = UNSET
    spice_monitors: Annotated[Number, ovirt("spiceMonitors", as_=str)] = UNSET
    copy_paste: Annotated[Flag, ovirt("copyPasteEnable", as_=str)] = UNSET
    file_transfer: Annotated[Flag, ovirt("fileTransferEnable", as_=str)] = UNSET
    sound_device: Annotated[Text, ovirt("soundDevice")] = UNSET
    smartcard: Annotated[Flag, ovirt("smartcardEnable", as_=str)] = UNSET
    mac_addresses: Annotated[Text, ovirt("macAddr")] = UNSET
    nic_models: Annotated[Text, ovirt("nicModel")] = UNSET
    bridges: Annotated[Text, ovirt("bridge")] = UNSET
    hda: Text = UNSET
    hdb: Text = UNSET
    hdc: Text = UNSET
    hdd: Text = UNSET
    drives: list[DriveSpec] | UnsetType = UNSET
    cdrom: Text = UNSET
    floppy: Text = UNSET
    sysprep: Annotated[Text, ovirt("sysprepInf")] = UNSET
    devices: list[DeviceSpec] | UnsetType = UNSET
    custom: dict[str, str] | UnsetType = UNSET
    launch_paused: Annotated[Flag, ovirt("launchPaused")] = UNSET
    agent_channel_name: Annotated[Text, ovirt("agentChannelName")] = UNSET
    serial: Text = UNSET
    elapsed_offset_s: Annotated[float | UnsetType, ovirt("elapsedTimeOffset")] = UNSET
    memory_handle: Annotated[Text, ovirt("hiberVolHandle")] = UNSET
    memory_volume: Annotated[VolumeIds | UnsetType, ovirt("memoryDumpVolume")] = UNSET
    parameters_volume: Annotated[VolumeIds | UnsetType, ovirt("memoryConfVolume")] = UNSET
    live_xml: Annotated[Text, ovirt("_srcDomXML")] = UNSET
    tpm_data: Annotated[Text, ovirt("_X_tpmdata")] = UNSET
    nvram_data: Annotated[Text, ovirt("_X_nvramdata")] = UNSET


class DeviceInfo(Struct, frozen=True, kw_only=True):
    """One device of a VM as it is now."""

    type: str
    device: str
    alias: Text = UNSET
    name: Text = UNSET
    path: Text = UNSET
    format: Text = UNSET
    interface: Annotated[Text, ovirt("iface")] = UNSET
    mac_address: Annotated[Text, ovirt("macAddr")] = UNSET
    nic_model: Annotated[Text, ovirt("nicModel")] = UNSET
    network: Text = UNSET
    pool_id: Annotated[Text, ovirt("poolID")] = UNSET
    domain_id: Annotated[Text, ovirt("domainID")] = UNSET
    image_id: Annotated[Text, ovirt("imageID")] = UNSET
    volume_id: Annotated[Text, ovirt("volumeID")] = UNSET


class VmInfo(Struct, frozen=True, kw_only=True):
    """A VM's definition and state; what is not known is absent (facts §2.5, §3.6)."""

    vm_id: Annotated[str, ovirt("vmId")]
    status: VmStatus
    status_time_ms: Annotated[int, ovirt("statusTime", as_=str, declared="uint")]
    xml: Text = UNSET
    name: Annotated[Text, ovirt("vmName")] = UNSET
    vm_type: Annotated[Text, ovirt("vmType")] = UNSET
    pid: Number = UNSET
    arch: Text = UNSET
    memory_mib: Annotated[Number, ovirt("memSize")] = UNSET
    maximum_memory_mib: Annotated[Number, ovirt("maxMemSize")] = UNSET
    maximum_memory_slots: Annotated[Number, ovirt("maxMemSlots")] = UNSET
    guaranteed_memory_mib: Annotated[Number, ovirt("memGuaranteedSize")] = UNSET
    kvm: Annotated[Flag, ovirt("kvmEnable")] = UNSET
    cpus: Annotated[Number, ovirt("smp")] = UNSET
    maximum_cpus: Annotated[Number, ovirt("maxVCpus")] = UNSET
    cores_per_socket: Annotated[Number, ovirt("smpCoresPerSocket")] = UNSET
    threads_per_core: Annotated[Number, ovirt("smpThreadsPerCore")] = UNSET
    cpu_type: Annotated[Text, ovirt("cpuType")] = UNSET
    cpu_shares: Annotated[Text, ovirt("cpuShares")] = UNSET
    nice: Number = UNSET
    io_threads: Annotated[Number, ovirt("numOfIoThreads")] = UNSET
    emulated_machine: Annotated[Text, ovirt("emulatedMachine")] = UNSET
    acpi: Annotated[Flag, ovirt("acpiEnable")] = UNSET
    hyperv: Annotated[Flag, ovirt("hypervEnable")] = UNSET
    transparent_huge_pages: Annotated[Flag, ovirt("transparentHugePages")] = UNSET
    pit_reinjection: Annotated[Flag, ovirt("pitReinjection")] = UNSET
    smartcard: Annotated[Flag, ovirt("smartcardEnable")] = UNSET
    time_offset_s: Annotated[Number, ovirt("timeOffset")] = UNSET
    display: Text = UNSET
    display_address: Annotated[Text, ovirt("displayIp")] = UNSET
    display_port: Annotated[Number, ovirt("displayPort")] = UNSET
    display_secure_port: Annotated[Number, ovirt("displaySecurePort")] = UNSET
    display_info: Annotated[list[DisplayInfo] | UnsetType, ovirt("displayInfo")] = UNSET
    keyboard_layout: Annotated[Text, ovirt("keyboardLayout")] = UNSET
    spice_secure_channels: Annotated[Text, ovirt("spiceSecureChannels")] = UNSET
    spice_cipher_suite: Annotated[Text, ovirt("spiceSslCipherSuite")] = UNSET
    copy_paste: Annotated[Flag, ovirt("copyPasteEnable")] = UNSET
    file_transfer: Annotated[Flag, ovirt("fileTransferEnable")] = UNSET
    nic_model: Annotated[Text, ovirt("nicModel")] = UNSET
    devices: list[DeviceInfo] | UnsetType = UNSET
    custom: dict[str, str] | UnsetType = UNSET
    serial: Text = UNSET
    client_address: Annotated[Text, ovirt("clientIp")] = UNSET
    pause_code: Annotated[Text, ovirt("pauseCode")] = UNSET
    exit_code: Annotated[Number, ovirt("exitCode")] = UNSET
    exit_message: Annotated[Text, ovirt("exitMessage")] = UNSET
    exit_reason: Annotated[Number, ovirt("exitReason")] = UNSET
    guest_name: Annotated[Text, ovirt("guestFQDN")] = UNSET
    guest_addresses: Annotated[Text, ovirt("guestIPs")] = UNSET
    guest_user: Annotated[Text, ovirt("username")] = UNSET
    guest_timezone: Annotated[GuestTimezone | UnsetType, ovirt("guestTimezone")] = UNSET
    guest_os: Annotated[GuestOs | UnsetType, ovirt("guestOsInfo")] = UNSET
    guest_disks: Annotated[dict[str, GuestDisk] | UnsetType, ovirt("guestDiskMapping")] = UNSET


_NO_VM = ("no-such-vm",)
_VM = ("no-such-vm", "vm-is-down", "hypervisor-down", "hypervisor-timeout", "hypervisor-refused")
_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]


@group("vm", "/vms")
class VmApi(Protocol):
    """One virtual machine's life."""

    @verb(
        "VM.create",
        "POST",
        fails=(
            *("vm-exists", "create-failed", "missing-parameter", "unsupported-vm-type", "external-data-failed"),
            *("hypervisor-down", "memory-handle-invalid"),
        ),
    )
    @xmlrpc("create", "parameters", member="vmList")
    async def create(
        self, vm_id: _Vm, parameters: Annotated[VmParameters, ovirt("vmParams"), "what the VM should be"]
    ) -> VmInfo:
        """Create and start a VM; answers at once with status WaitForLaunch, the outcome shows in status and events."""

    @verb("VM.destroy", "DELETE /{vm_id}", fails=(*_NO_VM, "destroy-failed"))
    @xmlrpc("destroy", "vm_id")
    async def destroy(
        self,
        vm_id: _Vm,
        graceful_attempts: Annotated[int, ovirt("gracefulAttempts"), "how often to ask qemu before it is killed"] = 1,
    ) -> None:
        """Cut the VM's power and forget it; works in every state."""

    @verb("VM.shutdown", "POST /{vm_id}/shutdown", fails=_VM)
    @xmlrpc("shutdown", "vm_id delay_s message reboot timeout_s force")
    async def shutdown(
        self,
        vm_id: _Vm,
        delay_s: Annotated[int | None, ovirt("delay"), "warning time for guest users; by default a setting"] = None,
        message: Annotated[str | None, ovirt("message"), "shown to guest users"] = None,
        reboot: Annotated[bool, ovirt("reboot"), "start again afterwards"] = False,
        timeout_s: Annotated[int | None, ovirt("timeout"), "how long each way is tried; by default a setting"] = None,
        force: Annotated[bool, ovirt("force"), "cut the power when nothing else worked"] = False,
    ) -> None:
        """Ask the guest to power off: agent, then ACPI, then (with force) the plug."""

    @verb("VM.reset", "POST /{vm_id}/reset", fails=(*_VM, "reset-failed"))
    @xmlrpc("reset", "vm_id")
    async def reset(self, vm_id: _Vm) -> None:
        """Press the VM's reset button."""

    @verb("VM.pause", "POST /{vm_id}/pause", fails=(*_VM, "wrong-state"))
    @xmlrpc("pause", "vm_id", member="output")
    async def pause(self, vm_id: _Vm) -> None:
        """Stop the VM's processors; its memory stays."""

    @verb("VM.cont", "POST /{vm_id}/resume", fails=(*_VM, "wrong-state"))
    @xmlrpc("cont", "vm_id", member="output")
    async def resume(self, vm_id: _Vm) -> None:
        """Let a paused VM run on."""

    @verb("VM.getInfo", "GET /{vm_id}", fails=_NO_VM)
    async def get_info(self, vm_id: _Vm) -> VmInfo:
        """A VM's definition and state."""

    @verb("VM.getStats", "GET /{vm_id}/stats", fails=_NO_VM)
    @xmlrpc("getVmStats", "vm_id", member="statsList")
    async def get_stats(self, vm_id: _Vm) -> VmStats:
        """Figures of the last sample; the hypervisor is not asked."""

    @verb("VM.setTicket", "POST /{vm_id}/ticket", fails=(*_VM, "ticket-failed"))
    @xmlrpc("setVmTicket", "vm_id password ttl_s existing_connection parameters")
    async def set_ticket(
        self,
        vm_id: _Vm,
        password: Annotated[str, ovirt("password"), "the display's one-time password"],
        ttl_s: Annotated[int, ovirt("ttl"), "seconds until it expires; 0 for never"],
        existing_connection: Annotated[
            Literal["disconnect", "keep", "fail"], ovirt("existingConnAction"), "what becomes of a connected viewer"
        ] = "disconnect",
        parameters: Annotated[dict[str, str], ovirt("params"), "handed to hooks"] = {},  # noqa: B006
    ) -> None:
        """Set the password of the VM's first display."""
