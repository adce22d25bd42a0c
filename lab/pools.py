"""A pool of one local domain on one daemon, and its volumes, as tests and measurements work with them."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lab.commands import run, wait_for
from lab.vdsmd import Vdsmd, make_id
from vdsm.core.ids import BLANK_UUID
from vdsm.wire.client import CallFailed, CallTimedOut, ConnectionFailed

OWNER = (36, 36)
FORMATS = {"COW": "qcow2", "RAW": "raw"}


@dataclass
class Pool:
    """A pool of one local domain of version 5, on a daemon that is its SPM."""

    vdsmd: Vdsmd
    folder: Path
    pool_id: str = field(default_factory=make_id)
    domain_id: str = field(default_factory=make_id)

    @classmethod
    def create(cls, vdsmd: Vdsmd) -> Self:
        folder = vdsmd.root / "storage"
        folder.mkdir()
        os.chown(folder, *OWNER)
        pool = cls(vdsmd, folder)
        pool.connect_server()
        pool.create_domain()
        master = {"storagepoolID": pool.pool_id, "masterSdUUID": pool.domain_id, "masterVersion": 1}
        vdsmd.call("StoragePool.create", **master, name="pool", domainList=[pool.domain_id])
        pool.connect()
        pool.start_spm()
        return pool

    @property
    def path(self) -> Path:
        """The domain's folder."""
        return self.folder / self.domain_id

    def connect_server(self) -> None:
        connections = [{"id": make_id(), "connection": str(self.folder)}]
        [answer] = self.vdsmd.call(
            "StoragePool.connectStorageServer",
            storagepoolID=self.pool_id,
            domainType="LOCALFS",
            connectionParams=connections,
        )
        assert answer["status"] == 0, answer

    def connect(self) -> None:
        self.vdsmd.call(
            "StoragePool.connect",
            storagepoolID=self.pool_id,
            hostID=1,
            scsiKey="",
            masterSdUUID=self.domain_id,
            masterVersion=1,
        )

    def create_domain(self) -> None:
        self.vdsmd.call(
            "StorageDomain.create",
            storagedomainID=self.domain_id,
            domainType="LOCALFS",
            typeArgs={"remotePath": str(self.folder)},
            name="local",
            domainClass="Data",
            version=5,
        )

    def restore(self) -> None:
        """Make again what somebody destroyed or formatted, and connect to it; no other pool stays connected."""
        call = self.vdsmd.call
        connected = call("Host.getConnectedStoragePools")
        for other in connected:
            if other != self.pool_id:
                with suppress(CallFailed):  # this host is not its SPM
                    call("StoragePool.spmStop", storagepoolID=other)
                call("StoragePool.disconnect", storagepoolID=other, hostID=1, scsiKey="")
        if self.pool_id in connected:
            return
        if self.domain_id not in call("Host.getStorageDomains"):
            self.create_domain()
        call("StorageDomain.detach", storagedomainID=self.domain_id, storagepoolID=BLANK_UUID, force=True)
        master = {"storagepoolID": self.pool_id, "masterSdUUID": self.domain_id, "masterVersion": 1}
        lease = dict.fromkeys(("lockRenewalIntervalSec", "leaseTimeSec", "ioOpTimeoutSec", "leaseRetries"))
        domains = {self.domain_id: "Active"}
        call("StoragePool.reconstructMaster", **master, **lease, hostId=1, name="pool", domainDict=domains)
        self.connect()

    def begin_spm(self) -> str:
        """Ask for the SPM role; the task's id."""
        return str(
            self.vdsmd.call(
                "StoragePool.spmStart",
                storagepoolID=self.pool_id,
                prevID=-1,
                prevLver="-1",
                enableScsiFencing="false",
            )
        )

    def start_spm(self) -> None:
        status = self.vdsmd.wait_task(self.begin_spm())
        assert status["code"] == 0, f"spmStart failed: {status['message']} ({status['code']})"

    def stop_spm(self) -> None:
        self.vdsmd.call("StoragePool.spmStop", storagepoolID=self.pool_id)

    def place(self, volume: "Volume") -> dict[str, str]:
        """The volume as the storage verbs name it."""
        ids = {"storagepoolID": self.pool_id, "storagedomainID": self.domain_id}
        return {**ids, "imageID": volume.image_id, "volumeID": volume.volume_id}

    def begin_create(self, volume: "Volume", size_bytes: int = 1 << 20) -> str:
        """Ask for a new volume; the task's id."""
        origin = {"srcImgUUID": volume.image_id if volume.parent_id != BLANK_UUID else BLANK_UUID}
        return str(
            self.vdsmd.call(
                "Volume.create",
                **self.place(volume),
                **origin,
                srcVolUUID=volume.parent_id,
                size=str(size_bytes),
                volFormat=volume.format,
                preallocate=volume.allocation,
                diskType="DATA",
                desc="of a test",
            )
        )

    def begin_delete(self, volume: "Volume") -> str:
        """Ask for a volume's removal; the task's id."""
        return str(self.vdsmd.call("Volume.delete", **self.place(volume), postZero=False, force=False))

    def begin_delete_image(self, image_id: str) -> str:
        """Remove an image with all its volumes; the id of the task that frees their space."""
        ids = {"storagepoolID": self.pool_id, "storagedomainID": self.domain_id, "imageID": image_id}
        return str(self.vdsmd.call("Image.delete", **ids, postZero=False, force=False))

    def begin_copy(self, source: "Volume", target: "Volume") -> str:
        """Ask for a new volume of all that the source reads as; the task's id."""
        return str(
            self.vdsmd.call(
                "Volume.copy",
                **self.place(source),
                dstSdUUID=self.domain_id,
                dstImgUUID=target.image_id,
                dstVolUUID=target.volume_id,
                desc="a copy",
                volType="LEAF",
                volFormat=target.format,
                preallocate=target.allocation,
                postZero=False,
                force=False,
            )
        )

    def begin_merge_step(self, step: str, top: "Volume", base: "Volume") -> str:
        """Ask for `prepareMerge` or `finalizeMerge`; the task's id."""
        subchain = self._describe_subchain(top, base)
        return str(self.vdsmd.call(f"StoragePool.{step}", storagepoolID=self.pool_id, subchainInfo=subchain))

    def merge_data(self, top: "Volume", base: "Volume", generation: int) -> None:
        """Write the top's data into its base."""
        subchain = {**self._describe_subchain(top, base), "base_generation": generation}
        self._run_job("merge", subchain_info=subchain)

    def copy_data(self, source: "Volume", target: "Volume", generation: int) -> None:
        """Copy what the source reads as into a volume that exists."""
        ends = [{"endpoint_type": "div", **self._describe(volume)} for volume in (source, target)]
        self._run_job("copy_data", source=ends[0], destination={**ends[1], "generation": generation})

    def write(self, volume: "Volume", *commands: str) -> None:
        """Let a guest on the daemon's host write: commands of qemu-io. Raises PartFailed."""
        words = [word for command in (*commands, "flush") for word in ("-c", command)]
        self.run_on_host("qemu-io", "-f", FORMATS[volume.format], *words, self.get_mounted_path(volume))

    def run_on_host(self, *command: str | Path) -> str:
        """What a command prints on the daemon's host. Raises PartFailed."""
        return run(*command)

    def is_alive(self) -> bool:
        """Whether the daemon answers."""
        try:
            return bool(self.vdsmd.call("Host.ping2"))
        except (CallTimedOut, ConnectionFailed):
            return False

    def get_mounted_path(self, volume: "Volume") -> Path:
        """The volume's data as the daemon's host sees it."""
        return self.folder / self.domain_id / "images" / volume.image_id / volume.volume_id

    def _run_job(self, verb: str, **params: object) -> None:
        job_id = make_id()
        self.vdsmd.call(f"SDM.{verb}", job_id=job_id, **params)

        def look() -> dict[str, Any] | None:
            job: dict[str, Any] = self.vdsmd.call("Host.getJobs", job_ids=[job_id])[job_id]
            return job if job["status"] in ("done", "failed", "aborted") else None

        job = wait_for(look, f"{verb} is done")
        assert job["status"] == "done", job

    def _describe(self, volume: "Volume") -> dict[str, str]:
        return {"sd_id": self.domain_id, "img_id": volume.image_id, "vol_id": volume.volume_id}

    def _describe_subchain(self, top: "Volume", base: "Volume") -> dict[str, str]:
        ids = {"sd_id": self.domain_id, "img_id": base.image_id}
        return {**ids, "top_id": top.volume_id, "base_id": base.volume_id}

    def create_volume(self, volume: "Volume | None" = None, size_bytes: int = 1 << 20) -> "Volume":
        volume = volume or Volume()
        status = self.vdsmd.wait_task(self.begin_create(volume, size_bytes))
        assert status["code"] == 0, f"Volume.create failed: {status['message']} ({status['code']})"
        return volume

    def get_info(self, volume: "Volume") -> dict[str, Any]:
        return dict(self.vdsmd.call("Volume.getInfo", **self.place(volume)))

    def list_volumes(self) -> set[str]:
        return set(
            self.vdsmd.call("StorageDomain.getVolumes", storagedomainID=self.domain_id, storagepoolID=self.pool_id)
        )

    def get_data_path(self, volume: "Volume") -> Path:
        return self.path / "images" / volume.image_id / volume.volume_id

    def drive(self, volume: "Volume", **wishes: object) -> dict[str, object]:
        """The volume as a disk of a VM."""
        ids = {"poolID": self.pool_id, "domainID": self.domain_id}
        ids |= {"imageID": volume.image_id, "volumeID": volume.volume_id}
        form = {"COW": "cow", "RAW": "raw"}[volume.format]
        return {"type": "disk", "device": "disk", "iface": "virtio", "index": 0, "format": form, **ids, **wishes}


@dataclass(frozen=True)
class Volume:
    """What a volume should be; ids are made up when not given."""

    image_id: str = field(default_factory=make_id)
    volume_id: str = field(default_factory=make_id)
    format: str = "COW"
    allocation: str = "SPARSE"
    parent_id: str = BLANK_UUID
