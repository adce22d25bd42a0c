"""Storage that several hosts see: what one writes past its caches another reads past its own."""

import os
from collections.abc import Callable

import pytest

import lab.gluster
from lab.gluster import GlusterVolume
from lab.hosts import Hosts

BLOCK = 4096
DIRECT = ("status=none", f"bs={BLOCK}", "count=1")


@pytest.mark.skipif(lab.gluster.why_not() is not None, reason=str(lab.gluster.why_not()))
def test_a_gluster_volume_is_one_disk_for_two_hosts(hosts: Callable[[int], Hosts]) -> None:
    pair = hosts(2)
    first, second = pair
    content = os.urandom(BLOCK)
    (pair.shared / "content").write_bytes(content)
    with GlusterVolume(pair.switch, pair.switch.address, pair.base / "gluster") as volume:
        place = pair.base / "volume"
        pair.mount(*volume.mount_words, place)
        for round_ in range(3):
            offset = f"seek={round_}"
            first.run("dd", f"if={pair.shared / 'content'}", f"of={place / 'disk'}", "oflag=direct", offset, *DIRECT)
            skip = f"skip={round_}"
            second.run("dd", f"if={place / 'disk'}", f"of={pair.shared / 'read'}", "iflag=direct", skip, *DIRECT)
            assert (pair.shared / "read").read_bytes() == content
        assert "fuse.glusterfs" in second.run("cat", "/proc/self/mounts")
        second.kill()
        second.start()
        assert "fuse.glusterfs" not in second.run("cat", "/proc/self/mounts")
        second.mount(*volume.mount_words, place)
        assert second.run("ls", place).split() == ["disk"]
