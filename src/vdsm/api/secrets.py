"""The surface of secrets: what qemu needs to open disks of servers that ask for a password."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Struct

from vdsm.api.declare import Text, group, ovirt, verb, xmlrpc
from vdsm.core.ids import Uuid


class Secret(Struct, frozen=True, kw_only=True):
    """One secret. Disks name it by its UUID; `usage_id` is unique among those of its kind."""

    uuid: Uuid
    usage_type: Annotated[Literal["ceph", "iscsi", "volume"], ovirt("usageType")]
    usage_id: Annotated[str, ovirt("usageID")]
    password: str
    """In base64."""
    description: Text = UNSET


@group("secret", "/secrets", invalid="secret-bad-request")
class SecretApi(Protocol):
    """Secrets are kept in libvirt's memory alone: they go when it ends, and when this daemon starts or ends."""

    @verb("Host.registerSecrets", "PUT ", fails=("secret-bad-request", "secret-register-failed", "hypervisor-down"))
    @xmlrpc("registerSecrets", "secrets clear")
    async def register(
        self,
        secrets: Annotated[list[Secret], ovirt("secrets"), "secrets to add, or to change"],
        clear: Annotated[bool, ovirt("clear"), "remove all others whose usage begins with ovirt/"] = False,
    ) -> None:
        """Tell libvirt secrets; those that are known get their new value."""

    @verb("Host.unregisterSecrets", "POST /remove", fails=("secret-bad-request", "secret-unregister-failed"))
    @xmlrpc("unregisterSecrets", "uuids")
    async def unregister(
        self, uuids: Annotated[list[Uuid], ovirt("uuids"), "the secrets' ids; those that are not there are fine"]
    ) -> None:
        """Let libvirt forget secrets."""
