"""What Gluster's command tells of a volume; mounting it is left to `mount`."""

from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from vdsm.adapters.run import CommandFailed, run
from vdsm.storage.ports import GlusterInfo

_TIMEOUT_S = 15.0


class GlusterCommand:
    """`storage.ports.Gluster` over the gluster program."""

    def get_info(self, server: str, volume: str) -> GlusterInfo | None:
        words = ["gluster", "--mode=script", f"--remote-host={server.strip('[]')}", "volume", "info", volume, "--xml"]
        try:
            return parse_info(run(words, timeout_s=_TIMEOUT_S).stdout)
        except CommandFailed:
            return None


def parse_info(document: bytes) -> GlusterInfo | None:
    """What `gluster volume info NAME --xml` prints; None when there is no volume in it."""
    try:
        volume = fromstring(document).find("./volInfo/volumes/volume")
    except (ParseError, DefusedXmlException):
        return None
    if volume is None:
        return None
    bricks = [brick.text or "" for brick in volume.findall("./bricks/brick")]
    return GlusterInfo(
        servers=tuple(brick.rpartition(":")[0] for brick in bricks if ":" in brick),
        replica_count=_number(volume.findtext("replicaCount")),
        transport="rdma" if volume.findtext("transport") == "1" else "tcp",
        is_dispersed=_number(volume.findtext("disperseCount")) > 0,
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0
