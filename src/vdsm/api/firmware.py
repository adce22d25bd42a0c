"""The surface of what a VM's firmware and its TPM keep outside of disks, which clients save and bring back."""

from typing import Annotated, Protocol

from msgspec import UNSET, Struct

from vdsm.api.declare import Text, group, ovirt, verb
from vdsm.core.context import Right
from vdsm.core.ids import VmId


class ExternalData(Struct, frozen=True, kw_only=True):
    """What is kept, as text that `VM.create` takes back, and its hash; no data when the caller has it already."""

    hash: str
    external_data: Annotated[Text, ovirt("_X_data")] = UNSET


@group("firmware", "/vms")
class FirmwareApi(Protocol):
    """NVRAM and TPM."""

    @verb(
        "VM.getExternalData",
        "GET /{vm_id}/external-data/{kind}",
        needs=Right.OPERATE,
        fails=("no-such-vm", "external-data-failed"),
    )
    async def get_external_data(
        self,
        vm_id: Annotated[VmId, ovirt("vmID"), "the VM's id"],
        kind: Annotated[str, ovirt("kind"), "tpm or nvram"],
        last_hash: Annotated[str | None, ovirt("lastHash"), "the hash of what the caller has"] = None,
        force_update: Annotated[bool, ovirt("forceUpdate"), "look now; else what was the same twice in a row"] = True,
    ) -> ExternalData:
        """What the VM's TPM or its firmware keeps; the hash is empty while there is nothing."""
