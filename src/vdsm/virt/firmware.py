"""What a VM's NVRAM and its TPM keep, as clients save it and bring it back (facts §2.21); files are the adapter's."""

import logging
from collections.abc import Mapping

from msgspec import UNSET

from vdsm.api.errors import ExternalDataFailed
from vdsm.api.firmware import ExternalData
from vdsm.virt.kept_data import KINDS, KeptData, encode, get_hash, get_path, has_device
from vdsm.virt.ports import FirmwareStore
from vdsm.virt.shared import Shared, attempt
from vdsm.virt.vm import Vm

LOOK_EVERY_S = 60.0


class FirmwareService:
    """Fits `api.firmware.FirmwareApi`."""

    def __init__(self, shared: Shared, store: FirmwareStore) -> None:
        self._shared = shared
        self._store = store

    async def get_external_data(
        self, vm_id: str, kind: str, last_hash: str | None = None, force_update: bool = True
    ) -> ExternalData:
        """What the VM's TPM or its firmware keeps. Raises ExternalDataFailed (89) for a VM that has no such thing."""
        vm = self._shared.get(vm_id)
        if not has_device(vm.view, kind):
            raise ExternalDataFailed(kind, "the VM has no such device")
        if force_update:
            await self._look_at(vm, kind)
            kept = vm.kept_data.get(kind, KeptData())
            vm.kept_data = {**vm.kept_data, kind: KeptData(kept.seen, kept.seen)}
        stable = vm.kept_data.get(kind, KeptData()).stable
        digest = get_hash(stable)
        is_news = bool(stable) and digest != last_hash
        return ExternalData(hash=digest, external_data=stable if is_news else UNSET)

    async def begin(self) -> None:
        """Remove what the daemon before this one left half written."""
        await self._store.clear()

    async def look(self) -> None:
        """See what VMs keep now; what was the same at the last look is stable."""
        for vm in list(self._shared.vms.values()):
            for kind in KINDS:
                if vm.is_alive and has_device(vm.view, kind):
                    await attempt(vm, f"its {kind} cannot be read", self._look_at(vm, kind), logging.DEBUG)

    async def restore(self, vm: Vm, data: Mapping[str, bytes]) -> None:
        """Put what a client saved where the VM will find it, before it starts."""
        for kind, payload in data.items():
            await self._store.write(kind, vm.vm_id, get_path(vm.view), payload)

    async def _look_at(self, vm: Vm, kind: str) -> None:
        payload = await self._store.read(kind, vm.vm_id, get_path(vm.view))
        text = "" if payload is None else encode(kind, payload)
        kept = vm.kept_data.get(kind, KeptData())
        vm.kept_data = {**vm.kept_data, kind: KeptData(text, text if text == kept.seen else kept.stable)}
