"""The image endpoint: an image's bytes over plain HTTP requests (facts: rpc §1.9); none of it is a verb."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from msgspec import Struct


class ImagePlace(Struct, frozen=True):
    """Where an image is; without a volume it is the image's only one."""

    pool_id: str
    domain_id: str
    image_id: str
    volume_id: str | None = None


class ImageStreams(Protocol):
    """Transfers as tasks of the pool, whose ids are told. Raises NodeError before anything was begun."""

    async def read(self, place: ImagePlace, size_bytes: int) -> tuple[str, AsyncGenerator[bytes, None]]:
        """The first bytes of an image, to be closed; they end early when the task fails."""

    async def write(self, place: ImagePlace, size_bytes: int, pieces: AsyncIterator[bytes]) -> str:
        """Let an image begin with so many bytes; returns when the task has ended, well or not."""
