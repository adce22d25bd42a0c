"""Values that several tests of virt start from."""

import msgspec

from vdsm.api.vm import VmParameters
from vdsm.virt.hostedits import HostFacts
from vdsm.virt.legacy.devices import Defaults
from vdsm.virt.request import Wish, plan_request

VM_ID = "aaaaaaaa-0000-4000-8000-00000000000a"
HOST = HostFacts(uuid="bbbbbbbb-0000-4000-8000-00000000000b", os_name="oVirt Node", os_version="12-1")
VOLUME = {
    "pool_id": "11111111-0000-4000-8000-000000000001",
    "domain_id": "22222222-0000-4000-8000-000000000002",
    "image_id": "33333333-0000-4000-8000-000000000003",
    "volume_id": "44444444-0000-4000-8000-000000000004",
}


def parameters(**values: object) -> VmParameters:
    """Parameters of the dictionary form, as parsed from a caller's words."""
    return msgspec.convert({"name": "vm1", "memory_mib": 64, **values}, VmParameters)


def plan(given: VmParameters, *, owner: str = "/", now_s: float = 1_700_000_000.0, vm_id: str = VM_ID) -> Wish:
    """The wish for a VM on the host of these tests."""
    return plan_request(vm_id, given, host=HOST, defaults=Defaults(), owner=owner, now_s=now_s)


def domain_xml(
    vm_id: str = VM_ID, name: str = "vm1", *, metadata: str | None = "", devices: str = "", extra: str = ""
) -> str:
    """A domain as libvirt prints it; metadata is what stands inside our `vm` element, None for none at all."""
    vm = "" if metadata is None else f'<o:vm xmlns:o="http://ovirt.org/vm/1.0">{metadata}</o:vm>'
    return (
        f'<domain type="kvm"><name>{name}</name><uuid>{vm_id}</uuid><memory unit="KiB">65536</memory><vcpu>1</vcpu>'
        f'<os><type arch="x86_64" machine="pc">hvm</type></os><metadata>{vm}</metadata>{extra}'
        f"<devices>{devices}</devices></domain>"
    )
