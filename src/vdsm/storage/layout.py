"""Where the repository keeps its links (facts: storage §2.1): pure paths under the node's root."""

from pathlib import Path

from msgspec import Struct

from vdsm.core.paths import Paths
from vdsm.storage.naming import escape, normalize_remote

METADATA_BYTES = 1 << 20
"""More than the metadata of a domain with a hundred others takes up."""


class Layout(Struct, frozen=True):
    """The repository's folders for one root."""

    paths: Paths

    @property
    def repository(self) -> Path:
        return self.paths.repository

    @property
    def mounts(self) -> Path:
        return self.repository / "mnt"

    @property
    def gluster_mounts(self) -> Path:
        return self.mounts / "glusterSD"

    def get_mount(self, spec: str) -> Path:
        """Where a server or local folder appears; Gluster volumes do so under the same name in `gluster_mounts`."""
        return self.mounts / escape(normalize_remote(spec))

    def get_pool(self, pool_id: str) -> Path:
        return self.repository / pool_id

    def get_tasks(self, pool_id: str) -> Path:
        """The folder of a connected pool's persisted tasks (facts: storage §8.4)."""
        return self.get_pool(pool_id) / "mastersd" / "master" / "tasks"

    def get_nbd_socket(self, server_id: str) -> Path:
        return self.paths.run / "nbd" / f"{server_id}.sock"

    def get_transient_disk(self, owner: str) -> Path:
        """A disk that is of use as long as its owner (facts: storage §15.5)."""
        return self.get_transient_folder(owner) / "overlay"

    def get_transient_folder(self, owner: str) -> Path:
        return self.paths.state / "storage" / "transient_disks" / owner

    def get_backup_socket(self, backup_id: str) -> Path:
        return self.paths.run / "backup" / backup_id

    def get_run_link(self, domain_id: str, image_id: str) -> Path:
        """A prepared image's run-time link."""
        return self.paths.run / "storage" / domain_id / image_id


class FileDomainLayout(Struct, frozen=True):
    """The tree of one file domain (facts: storage §3.1)."""

    root: Path

    @property
    def metadata(self) -> Path:
        return self.root / "dom_md" / "metadata"

    @property
    def ids(self) -> Path:
        return self.root / "dom_md" / "ids"

    @property
    def leases(self) -> Path:
        return self.root / "dom_md" / "leases"

    @property
    def xleases(self) -> Path:
        return self.root / "dom_md" / "xleases"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def master(self) -> Path:
        return self.root / "master"

    def get_image(self, image_id: str) -> Path:
        return self.images / image_id

    def get_volume(self, image_id: str, volume_id: str) -> Path:
        return self.images / image_id / volume_id

    def get_record(self, image_id: str, volume_id: str) -> Path:
        return self.images / image_id / f"{volume_id}.meta"

    def get_lease(self, image_id: str, volume_id: str) -> Path:
        return self.images / image_id / f"{volume_id}.lease"
