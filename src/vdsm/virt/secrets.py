"""Answers the verbs on secrets (facts §2.21): they live in libvirt's memory, and only as long as this daemon does."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Collection

from msgspec import UNSET

from vdsm.api.errors import SecretBadRequest, SecretRegisterFailed, SecretUnregisterFailed
from vdsm.api.secrets import Secret
from vdsm.core.errors import InvalidArgument, NodeError
from vdsm.virt.elements import check_text, element, format_xml
from vdsm.virt.ports import HypervisorRefused, SecretStore

log = logging.getLogger(__name__)

OURS = "ovirt/"
_MOST, _LONGEST = 1000, 1 << 16
_PLACES = {"ceph": "name", "iscsi": "target", "volume": "volume"}


class SecretService:
    """Fits `api.secrets.SecretApi`."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._has_begun = False

    async def begin(self) -> None:
        """Remove what an earlier daemon left, once: before anything else is done with secrets."""
        async with self._turn:
            await self._begin()

    async def clear(self) -> None:
        """Remove all secrets of ours; a failure is logged, not raised."""
        try:
            async with self._turn:
                await self._remove_others(())
        except NodeError as error:
            log.warning("secrets stay in libvirt: %s", error)

    async def register(self, secrets: list[Secret], clear: bool = False) -> None:
        """Tell libvirt secrets, after all of them were found well."""
        planned = [(secret, _read_password(secret), _build(secret)) for secret in secrets]
        if len(planned) > _MOST:
            raise SecretBadRequest("secrets", f"more than {_MOST}")
        async with self._turn:
            await self._begin()
            try:
                known = await self._store.list_secrets()
                for secret, password, xml in planned:
                    if known.get(secret.uuid, secret.usage_id) != secret.usage_id:
                        await self._store.remove_secret(secret.uuid)  # libvirt refuses to change that of one it has
                    await self._store.set_secret(secret.uuid, xml, password)
                if clear:
                    await self._remove_others([secret.uuid for secret in secrets])
            except HypervisorRefused as error:
                raise SecretRegisterFailed(error.reason) from None  # its cause may repeat the secret

    async def unregister(self, uuids: list[str]) -> None:
        """Let libvirt forget secrets."""
        async with self._turn:
            await self._begin()
            try:
                for uuid in uuids:
                    await self._store.remove_secret(uuid)
            except HypervisorRefused as error:
                raise SecretUnregisterFailed(error.reason) from error

    async def _begin(self) -> None:
        if not self._has_begun:
            await self._remove_others(())
            self._has_begun = True

    async def _remove_others(self, kept: Collection[str]) -> None:
        for uuid, usage_id in (await self._store.list_secrets()).items():
            if usage_id.startswith(OURS) and uuid not in kept:
                await self._store.remove_secret(uuid)


def _read_password(secret: Secret) -> bytes:
    try:
        return base64.b64decode(secret.password, validate=True)
    except (binascii.Error, ValueError):
        raise SecretBadRequest("password", "expected base64") from None


def _build(secret: Secret) -> str:
    description = "" if secret.description is UNSET else secret.description
    if not secret.usage_id or max(len(secret.usage_id), len(description), len(secret.password)) > _LONGEST:
        raise SecretBadRequest("secrets", f"a usage is missing, or one text is longer than {_LONGEST}")
    try:
        check_text("usageID", secret.usage_id)
        usage = element("usage", element(_PLACES[secret.usage_type], text=secret.usage_id), type=secret.usage_type)
        made = element(
            "secret",
            *([element("description", text=description)] if description else []),
            element("uuid", text=secret.uuid),
            usage,
            ephemeral=True,
            private=True,
        )
    except InvalidArgument as error:
        raise SecretBadRequest(error.where, error.reason) from error
    return format_xml(made)
