"""The surface of transfers: to and from HTTP servers, by ovirt-imageio, over NBD."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType

from vdsm.api.declare import Flag, Number, Text, group, ovirt, verb, xmlrpc
from vdsm.core.context import Right
from vdsm.core.ids import DomainId, ImageId, PoolId, TaskId, Uuid, VolumeId

Size = Annotated[int, Meta(ge=0), ovirt("size")]
FileName = Annotated[str, Meta(pattern=r"^(?![\s\S]*[\x00-\x1f\x7f])")]
"""Becomes part of an HTTP header, so it is of one line."""


class HttpPlace(Struct, frozen=True, kw_only=True):
    """Where an HTTP server keeps an image: its data, or what Glance calls one; the headers may carry a token."""

    method: Literal["http"] = "http"
    url: str
    headers: dict[str, str] | UnsetType = UNSET


class ImageTicket(Struct, frozen=True, kw_only=True):
    """What a client of ovirt-imageio may do, and for how long."""

    ticket_id: Annotated[Uuid, ovirt("uuid")]
    size_bytes: Size
    url: str
    """file:///… or nbd:unix:…"""
    timeout_s: Annotated[int, Meta(ge=0), ovirt("timeout", declared="uint")]
    operations: Annotated[list[Literal["read", "write"]], ovirt("ops")]
    filename: FileName | UnsetType | None = UNSET
    transfer_id: Text = UNSET
    is_sparse: Annotated[Flag, ovirt("sparse")] = UNSET
    has_bitmap: Annotated[Flag, ovirt("dirty")] = UNSET
    inactivity_timeout_s: Annotated[Number, ovirt("inactivity_timeout")] = UNSET


class TicketInfo(Struct, frozen=True, kw_only=True):
    """A ticket, as ovirt-imageio tells it."""

    ticket_id: Annotated[Uuid, ovirt("uuid")]
    size_bytes: Size
    url: str
    timeout_s: Annotated[int, ovirt("timeout")]
    operations: Annotated[list[str], ovirt("ops")]
    is_active: Annotated[bool, ovirt("active")]
    filename: str | UnsetType | None = UNSET
    transferred_bytes: Annotated[Number, ovirt("transferred")] = UNSET
    """Unknown for one that lets both read and write."""
    idle_s: Annotated[Number, ovirt("idle_time")] = UNSET


class NbdConfig(Struct, frozen=True, kw_only=True):
    """A volume to serve; its image is prepared."""

    domain_id: Annotated[DomainId, ovirt("sd_id")]
    image_id: Annotated[ImageId, ovirt("img_id")]
    volume_id: Annotated[VolumeId, ovirt("vol_id")]
    read_only: Annotated[bool, ovirt("readonly")] = False
    discard: bool = False
    detect_zeroes: bool = False
    backing_chain: bool = True
    """Whether with all that is below it."""
    bitmap: Uuid | None = None


_Place = Annotated[HttpPlace, ovirt("methodArgs"), "where the server keeps it"]
_Pool = Annotated[PoolId, ovirt("storagepoolID"), "the pool's id"]
_Domain = Annotated[DomainId, ovirt("storagedomainID"), "the domain's id"]
_Image = Annotated[ImageId, ovirt("imageID"), "the image's id"]
_Volume = Annotated[VolumeId | None, ovirt("volumeID"), "the image's only volume"]
_Ticket = Annotated[Uuid, ovirt("uuid"), "the ticket's id"]
_Server = Annotated[Uuid, ovirt("server_id"), "chosen by the caller"]
_TRANSFER_FAILS = ("secure-error", "storage-pool-unknown", "storage-domain-does-not-exist", "volume-does-not-exist")
_FAILS = ("image-tickets-error", "image-daemon-error", "image-daemon-unsupported")


@group("transfer", "/storage/domains/{domain_id}/images/{image_id}", invalid="invalid-parameter")
class TransferApi(Protocol):
    """Images that come from and go to HTTP servers."""

    @verb("Image.upload", "POST /upload", task=True, fails=_TRANSFER_FAILS)
    @xmlrpc("uploadImage", "place pool_id domain_id image_id volume_id", member="uuid")
    async def upload(
        self,
        place: _Place,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        volume_id: _Volume = None,
    ) -> TaskId:
        """Put the bytes of an image of one volume to an HTTP server (SPM only)."""

    @verb("Image.download", "POST /download", task=True, fails=_TRANSFER_FAILS)
    @xmlrpc("downloadImage", "place pool_id domain_id image_id volume_id", member="uuid")
    async def download(
        self,
        place: _Place,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        volume_id: _Volume = None,
    ) -> TaskId:
        """Let an image of one volume, which is extended as needed, have the bytes that an HTTP server has (SPM only).

        It is illegal until all are there; `Volume.verify_untrusted` tells what they are.
        """


@group("ticket", "/image-tickets", invalid="invalid-parameter")
class TicketApi(Protocol):
    """Tickets of ovirt-imageio on this host."""

    @verb("Host.add_image_ticket", "POST", fails=_FAILS)
    async def add(self, ticket: Annotated[ImageTicket, ovirt("ticket"), "the ticket"]) -> None:
        """Let whoever knows a ticket's id transfer an image."""

    @verb("Host.get_image_ticket", "GET /{ticket_id}", needs=Right.OPERATE, fails=_FAILS)
    async def get(self, ticket_id: _Ticket) -> TicketInfo:
        """How far a transfer is."""

    @verb("Host.extend_image_ticket", "POST /{ticket_id}/extend", fails=_FAILS)
    async def extend(
        self, ticket_id: _Ticket, timeout_s: Annotated[int, Meta(ge=0), ovirt("timeout"), "from now on"]
    ) -> None:
        """Let a ticket be good for longer."""

    @verb("Host.remove_image_ticket", "DELETE /{ticket_id}", fails=_FAILS)
    async def remove(self, ticket_id: _Ticket) -> None:
        """End what a ticket allows, at once; success when there is none.

        By then no more is read or written. It fails when a client has a request under way and is silent: ask again.
        """


@group("nbd", "/storage/nbd-servers", invalid="invalid-parameter")
class NbdApi(Protocol):
    """NBD servers on this host's unix sockets; they go on when the daemon restarts."""

    @verb(
        "NBD.start_server",
        "POST",
        fails=("storage-pool-not-connected", "unsupported-storage-operation", "shared-volume-non-writable"),
    )
    async def start(
        self, server_id: _Server, config: Annotated[NbdConfig, ovirt("config"), "what is served, and how"]
    ) -> str:
        """Serve a volume and tell the address."""

    @verb("NBD.stop_server", "DELETE /{server_id}")
    async def stop(self, server_id: _Server) -> None:
        """End a server; success when there is none."""
