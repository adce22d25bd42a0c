#!/usr/bin/python3
"""Create a storage domain, a pool, a volume and a virtual machine on one host, over JSON-RPC and TLS.

The steps of standalone.py with the names and units of today:

    VDSM_ROOT=/my/root examples/standalone_jsonrpc.py [FOLDER]

The daemon must run, the folder must exist, be empty and belong to the user of the daemon. What it creates stays.
"""

import sys
import time
import uuid

from vdsm import client
from vdsm.local import find_local_daemon, find_paths

GIB = 1024**3
BLANK_UUID = "00000000-0000-0000-0000-000000000000"


def wait_for_task(node: client.Client, task_id: object) -> None:
    """Wait until a task is finished, and forget it; raises RuntimeError when it failed."""
    while (status := node.Task.getStatus(taskID=task_id))["taskState"] != "finished":
        time.sleep(0.2)
    print(status)
    node.Task.clear(taskID=task_id)
    if status["code"]:
        raise RuntimeError(f"task {task_id} failed: {status['message']}")


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else "/tmp/localstoragedomain"
    pool, domain, image, volume, vm = (str(uuid.uuid4()) for _ in range(5))
    local = find_local_daemon(find_paths())

    with client.connect(local.host, local.port) as node, node.flow("standalone"):
        connected = node.StoragePool.connectStorageServer(
            storagepoolID=pool,
            domainType="LOCALFS",
            connectionParams=[{"id": str(uuid.uuid4()), "connection": folder}],
        )
        print(connected)
        node.StorageDomain.create(
            storagedomainID=domain,
            domainType="LOCALFS",
            typeArgs={"remotePath": folder},
            name="my local domain",
            domainClass="Data",
            version=5,
        )
        node.StoragePool.create(
            storagepoolID=pool,
            name="pool name",
            masterSdUUID=domain,
            masterVersion=1,
            domainList=[domain],
            lockRenewalIntervalSec=5,
            leaseTimeSec=60,
            ioOpTimeoutSec=10,
            leaseRetries=3,
        )
        # connect to an existing pool, and become pool manager.
        node.StoragePool.connect(storagepoolID=pool, hostID=1, scsiKey="scsikey", masterSdUUID=domain, masterVersion=1)
        wait_for_task(
            node,
            node.StoragePool.spmStart(storagepoolID=pool, prevID=-1, prevLver="-1", enableScsiFencing="false"),
        )
        wait_for_task(
            node,
            node.Volume.create(
                volumeID=volume,
                storagepoolID=pool,
                storagedomainID=domain,
                imageID=image,
                size=str(100 * GIB),
                volFormat="COW",
                preallocate="SPARSE",
                diskType="DATA",
                desc="volly",
                srcImgUUID=BLANK_UUID,
                srcVolUUID=BLANK_UUID,
            ),
        )
        print(node.Volume.getInfo(volumeID=volume, storagepoolID=pool, storagedomainID=domain, imageID=image))
        created = node.VM.create(
            vmID=vm,
            vmParams={
                "vmId": vm,
                "vmName": "vm1",
                "memSize": 256,
                "display": "vnc",
                "drives": [{"poolID": pool, "domainID": domain, "imageID": image, "volumeID": volume}],
            },
        )
        print(created)
        print(node.VM.getStats(vmID=vm))


if __name__ == "__main__":
    main()
