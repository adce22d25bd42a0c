"""Volumes of one domain as chains: whose child is whose, which image has what (facts: storage §3.5, §4.3).

Creating and removing volumes is left to `volume` and `removal`.
"""

import contextlib
from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.ids import BLANK_UUID
from vdsm.storage import errors
from vdsm.storage.images.volume_metadata import format_volume_metadata, parse_volume_metadata
from vdsm.storage.model import Legality, VolumeMetadata, VolumeRole
from vdsm.storage.ports import Backend

Records = Mapping[str, VolumeMetadata]


class Images(Struct, eq=False):
    """One domain's images and the records of their volumes."""

    domain_id: str
    version: int
    backend: Backend

    def read(self, image_id: str, volume_id: str) -> VolumeMetadata:
        """A volume's record; raises VolumeDoesNotExist (201), InvalidMetadata (751), VolumeMetadataReadError (207)."""
        return parse_volume_metadata(self.backend.volumes.read_record(image_id, volume_id))

    def read_all(self, image_id: str) -> dict[str, VolumeMetadata]:
        """Every readable record in an image's folder, shared ones included."""
        records: dict[str, VolumeMetadata] = {}
        for volume_id in self.backend.volumes.list_records(image_id):
            try:
                records[volume_id] = self.read(image_id, volume_id)
            except (errors.InvalidMetadata, errors.VolumeDoesNotExist):
                continue
        return records

    def change(self, image_id: str, volume_id: str, metadata: VolumeMetadata) -> None:
        """Replace a volume's record; a record too long for its place is VolumeMetadataWriteError (208)."""
        try:
            record = format_volume_metadata(metadata, self.version)
        except errors.MetadataOverflowError as error:
            raise errors.VolumeMetadataWriteError(volume_id, str(error)) from error
        self.backend.volumes.write_record(image_id, volume_id, record)

    def list_images(self) -> list[str]:
        """Images that have a volume of their own."""
        return [image_id for image_id in self.backend.volumes.list_images() if self.has_own(image_id)]

    def list_own(self, image_id: str) -> list[str]:
        """The volumes that belong to the image: not the template that it is based on."""
        return [volume for volume, record in self.read_all(image_id).items() if record.image_id == image_id]

    def list_all_volumes(self) -> list[str]:
        """All volumes of the domain, templates once."""
        volumes = self.backend.volumes
        return sorted({volume for image_id in volumes.list_images() for volume in volumes.list_records(image_id)})

    def list_children(self, image_id: str, volume_id: str) -> list[str]:
        """The volumes of this image whose parent it is, also by a record that is damaged otherwise.

        Those in other images are told by `list_users`.
        """
        line, volumes = f"PUUID={volume_id}".encode(), self.backend.volumes
        children = []
        for child in volumes.list_records(image_id):
            with contextlib.suppress(errors.VolumeDoesNotExist):
                if line in map(bytes.strip, volumes.read_record(image_id, child).splitlines()):
                    children.append(child)
        return children

    def list_users(self, image_id: str, volume_id: str) -> list[str]:
        """The other images that have a layer on this volume, a template."""
        others = (other for other in self.backend.volumes.list_images() if other != image_id)
        return [other for other in others if self.list_children(other, volume_id)]

    def evaluate_role(self, image_id: str, volume_id: str, *, without: Collection[str] = ()) -> None:
        """Let a volume be internal or leaf as its children (other than `without`) tell; a template stays one.

        A volume that is not there is left alone.
        """
        try:
            record = self.read(image_id, volume_id)
        except errors.VolumeDoesNotExist:
            return
        if record.role is VolumeRole.SHARED:
            return
        has_children = set(self.list_children(image_id, volume_id)) - set(without)
        role = VolumeRole.INTERNAL if has_children else VolumeRole.LEAF
        if role is not record.role:
            self.change(image_id, volume_id, replace(record, role=role))

    def get_chain(self, image_id: str, leaf_id: str) -> list[tuple[str, VolumeMetadata]]:
        """The volume and all below it, top first. Raises VolumeDoesNotExist for the top, ImageIsNotLegalChain (262)."""
        chain = [(leaf_id, self.read(image_id, leaf_id))]
        seen = {leaf_id}
        while (parent_id := chain[-1][1].parent_id) != BLANK_UUID:
            if parent_id in seen:
                raise errors.ImageIsNotLegalChain(image_id, f"{parent_id} is its own ancestor")
            seen.add(parent_id)
            try:
                chain.append((parent_id, self.read(image_id, parent_id)))
            except errors.VolumeDoesNotExist as error:
                raise errors.ImageIsNotLegalChain(image_id, f"{parent_id} is missing") from error
        return chain

    def get_usable_chain(
        self, image_id: str, volume_id: str, *, allow_illegal: bool = False
    ) -> list[tuple[str, VolumeMetadata]]:
        """`get_chain`, and each volume is legal (227), unless that is allowed, and has its data (209)."""
        if not self.backend.volumes.has_image(image_id):
            raise errors.VolumeDoesNotExist(volume_id)
        chain = self.get_chain(image_id, volume_id)
        for chained_id, record in chain:
            if record.legality is Legality.ILLEGAL and not allow_illegal:
                raise errors.PrepareIllegalVolumeError(chained_id)
            if not self.backend.data.has_data(image_id, chained_id):
                raise errors.VolumeAccessError(chained_id, "no data; a link in its place is not followed")
        return chain

    def has_own(self, image_id: str) -> bool:
        """Whether a volume belongs to the image."""
        for volume_id in self.backend.volumes.list_records(image_id):
            try:
                if self.read(image_id, volume_id).image_id == image_id:
                    return True
            except (errors.InvalidMetadata, errors.VolumeDoesNotExist):
                continue
        return False


def order_chain(records: Records) -> list[str]:
    """The volumes of an image, each after its parent; those whose parent is not there, or that are in a ring, last."""
    ordered: dict[str, None] = {}
    while ready := [
        volume_id
        for volume_id, record in sorted(records.items())
        if volume_id not in ordered and (record.parent_id == BLANK_UUID or record.parent_id in ordered)
    ]:
        ordered |= dict.fromkeys(ready)
    return [*ordered, *sorted(records.keys() - ordered.keys())]
