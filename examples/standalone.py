#!/usr/bin/python3
# GPLv2+
# ruff: noqa: I001, C408
"""Create a storage domain, a pool, a volume and a virtual machine on one host, over XML-RPC.

This is the script of 2011 with Python 3's syntax, and nothing else changed but that the folder may be named:

    VDSM_ROOT=/my/root examples/standalone.py [FOLDER]

The daemon must run, the folder must exist, be empty and belong to the user of the daemon. What it creates stays.
"""

import sys
import time
import uuid

sys.path.append("/usr/share/vdsm")

from storage.sd import DATA_DOMAIN, LOCALFS_DOMAIN
from storage.volume import BLANK_UUID, COW_FORMAT, LEAF_VOL, SPARSE_VOL

import vdscli

spUUID = str(uuid.uuid4())
sdUUID = str(uuid.uuid4())
imgUUID = str(uuid.uuid4())
volUUID = str(uuid.uuid4())

# you should manually create the following directory and
# chown vdsm:kvm /tmp/localstoragedomain
path = sys.argv[1] if len(sys.argv) > 1 else "/tmp/localstoragedomain"

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


vdsOK(s.connectStorageServer(LOCALFS_DOMAIN, "my favorite pet", [dict(id=1, connection=path)]))

vdsOK(s.createStorageDomain(LOCALFS_DOMAIN, sdUUID, "my local domain", path, DATA_DOMAIN, 0))

vdsOK(s.createStoragePool(LOCALFS_DOMAIN, spUUID, "pool name", sdUUID, [sdUUID], masterVersion))

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
        "volly",
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
            vmName="vm1",
        )
    )
)
