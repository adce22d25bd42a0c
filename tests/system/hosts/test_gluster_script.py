"""examples/gluster.py, the second script of 2011, as a user runs it: a VM on a real Gluster volume, by real sanlock."""

import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest

import lab.gluster
import lab.sanlock
from lab.gluster import GlusterVolume
from lab.hosts import Hosts
from lab.images import PROJECT
from lab.sanlock import Sanlock
from lab.vdsmd import SOURCES, HostVdsmd

_missing = lab.sanlock.why_not() or lab.gluster.why_not()
pytestmark = pytest.mark.skipif(_missing is not None, reason=str(_missing))

SETTINGS = {"sanlock": {"io_timeout": lab.sanlock.IO_TIMEOUT_S}, "storage": lab.gluster.SETTINGS}
SCRIPT_LIMIT_S = 100.0


def test_a_vm_on_a_gluster_volume(hosts: Callable[[int], Hosts]) -> None:
    place = hosts(1)
    [host] = place
    with ExitStack() as stack:
        volume = stack.enter_context(GlusterVolume(place.switch, place.switch.address, place.base / "gluster"))
        place.switch.run("chown", "36:36", place.base / "gluster/brick")
        stack.enter_context(Sanlock(host.namespaces))
        vdsmd = stack.enter_context(HostVdsmd(place, host, SETTINGS))
        source = f"{place.switch.name}:{volume.name}"
        script = [sys.executable, PROJECT / "examples/gluster.py", source]
        printed = host.run("env", f"VDSM_ROOT={host.root}", f"PYTHONPATH={SOURCES}", *script, timeout_s=SCRIPT_LIMIT_S)
        assert printed.count("'taskState': 'finished'") == 2, printed

        [vm] = vdsmd.call("Host.getVMList", fullStatus=True)
        vdsmd.wait_status(vm["vmId"], "Up", "Powering up")
        assert vm["vmName"] == "vm-backed-by-gluster"
        [disk] = [device for device in vm["devices"] if device["device"] == "disk"]
        domain_id, pool_id = disk["domainID"], disk["poolID"]
        domain = vdsmd.call("StorageDomain.getInfo", storagedomainID=domain_id)
        assert (domain["type"], domain["remotePath"], domain["role"]) == ("POSIXFS", source, "Master")
        ids = {"storagedomainID": domain_id, "storagepoolID": pool_id, "imageID": disk["imageID"]}
        info = vdsmd.call("Volume.getInfo", **ids, volumeID=disk["volumeID"])
        assert (info["capacity"], info["format"], info["type"]) == (str(100 << 30), "COW", "SPARSE")
        # All of it is on the server, and qemu has it open through the mount.
        assert (place.base / "gluster/brick" / domain_id / "images" / disk["imageID"] / disk["volumeID"]).is_file()
        [mounted] = [line for line in host.run("cat", "/proc/self/mounts").splitlines() if "fuse.glusterfs" in line]
        opened = f"{mounted.split()[1]}/{domain_id}/images/{disk['imageID']}/{disk['volumeID']}"
        qemu = host.run("pgrep", "-f", f"guest={vm['vmName']},").split()[0]
        assert opened in host.run("bash", "-c", f"readlink /proc/{qemu}/fd/*").splitlines()
