#!/usr/bin/python3
# GPLv2+
# ruff: noqa: I001, C408, F401
"""The steps of standalone.py on a Gluster volume, mounted as a shared file system, over XML-RPC.

This is the script of 2011 with Python 3's syntax, and nothing else changed but that the volume may be named:

    VDSM_ROOT=/my/root examples/gluster.py [SERVER:VOLUME]

The daemon must run and the Gluster volume must be started. What it creates stays. Where the mount does not zero what it
says it does, as Debian 12's on newer kernels, the daemon refuses it unless it is configured to accept that (`[storage]
accept_false_zeroes`).
"""

import sys
import time
import uuid

sys.path.append("/usr/share/vdsm")

from storage.sd import DATA_DOMAIN, ISO_DOMAIN, SHAREDFS_DOMAIN
from storage.volume import BLANK_UUID, COW_FORMAT, LEAF_VOL, SPARSE_VOL

import vdscli

spUUID = str(uuid.uuid4())
sdUUID = str(uuid.uuid4())
imgUUID = str(uuid.uuid4())
volUUID = str(uuid.uuid4())

gluster_conn = sys.argv[1] if len(sys.argv) > 1 else "server.example.com:myvol"

s = vdscli.connect()

masterVersion = 1
hostID = 1


def vdsOK(d):
    print(d)
    if d["status"]["code"]:
        raise Exception(str(d))
    return d


def waitTask(s, taskid):
    while vdsOK(s.getTaskStatus(taskid))["taskStatus"]["taskState"] != "finished":
        time.sleep(3)
    vdsOK(s.clearTask(taskid))


vdsOK(
    s.connectStorageServer(
        SHAREDFS_DOMAIN,
        "my gluster mount",
        [dict(id=1, spec=gluster_conn, vfs_type="glusterfs", mnt_options="")],
    )
)

vdsOK(s.createStorageDomain(SHAREDFS_DOMAIN, sdUUID, "my gluster domain", gluster_conn, DATA_DOMAIN, 0))

vdsOK(s.createStoragePool(SHAREDFS_DOMAIN, spUUID, "my gluster pool", sdUUID, [sdUUID], masterVersion))

# connect to an existing pool, and become pool manager.
vdsOK(s.connectStoragePool(spUUID, hostID, "scsikey", sdUUID, masterVersion))
tid = vdsOK(s.spmStart(spUUID, -1, -1, -1, 0))["uuid"]
waitTask(s, tid)

sizeGiB = 100

tid = vdsOK(
    s.createVolume(
        sdUUID,
        spUUID,
        imgUUID,
        sizeGiB,
        COW_FORMAT,
        SPARSE_VOL,
        LEAF_VOL,
        volUUID,
        "glustervol",
        BLANK_UUID,
        BLANK_UUID,
    )
)["uuid"]
waitTask(s, tid)

vmId = str(uuid.uuid4())

vdsOK(
    s.create(
        dict(
            vmId=vmId,
            drives=[dict(poolID=spUUID, domainID=sdUUID, imageID=imgUUID, volumeID=volUUID)],
            memSize=256,
            display="vnc",
            vmName="vm-backed-by-gluster",
        )
    )
)
