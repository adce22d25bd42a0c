"""Multipath: multipathd with a configuration of its own, joining the paths of LIO's LUNs to one device each."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab import devicemapper
from lab.commands import PartFailed, listening, load, wait_for

CONFIG = Path("/etc/multipath.conf")  # both compiled in
FOLDER = Path("/etc/multipath")
SOCKET = "@/org/kernel/linux/storage/multipathd"
# All paths in one group, so that I/O goes over all of them. The table of known devices has LIO in it, with ALUA, which
# takes seconds to set up and to time out: here no handler and equal priorities. `overrides` outdo what that table says.
SETTINGS = """\
defaults {{
    user_friendly_names no
    find_multipaths no
    polling_interval 1
    max_polling_interval 1
}}
blacklist {{
    device {{
        vendor ".*"
        product ".*"
    }}
}}
blacklist_exceptions {{
    device {{
        vendor "LIO-ORG"
        product ".*"
    }}
}}
devices {{
    device {{
        vendor "LIO-ORG"
        product ".*"
        hardware_handler "0"
    }}
}}
overrides {{
    path_grouping_policy multibus
    path_checker tur
    detect_prio no
    detect_checker no
    prio const
    failback immediate
    no_path_retry {no_path_retry}
    fast_io_fail_tmo {fast_io_fail_s}
    dev_loss_tmo 600
    flush_on_last_del yes
}}
"""


@dataclass(frozen=True)
class Multipath:
    """A multipathd that runs; whether it was told that who loses all paths waits."""

    queues: bool

    def device(self, wwid: str, paths: int = 1) -> Path:
        """The joint device of a LUN (`/dev/mapper/WWID`), as soon as it has so many working paths."""
        link = Path("/dev/mapper", wwid)
        self.wait_for_paths(wwid, paths)
        wait_for(link.exists, f"{link} is there")
        if self.queues:  # it tells the kernel when it has made the device
            wait_for(lambda: "queue_if_no_path" in self._read_table(wwid), f"{wwid} queues")
        return link

    @staticmethod
    def _read_table(wwid: str) -> str:
        return " ".join(arguments for _, arguments in devicemapper.read_status(wwid, table=True))

    def read_paths(self, wwid: str) -> dict[str, bool]:
        """The paths of a LUN, each a device's name (`sdb`), and whether the kernel holds it for working."""
        if wwid not in devicemapper.list_devices():
            return {}
        found: dict[str, bool] = {}
        for _, status in devicemapper.read_status(wwid):
            words = status.split()
            for word, state in zip(words, words[1:], strict=False):
                if word.count(":") == 1 and state in "AF":
                    found[Path(f"/sys/dev/block/{word}").resolve().name] = state == "A"
        return found

    def wait_for_paths(self, wwid: str, paths: int) -> None:
        """Until so many paths work, and no more."""
        wait_for(lambda: sum(self.read_paths(wwid).values()) == paths, f"{wwid} has {paths} working paths")


@contextmanager
def multipath(no_path_retry: str = "fail", fast_io_fail_s: int = 2) -> Iterator[Multipath]:
    """Multipathd on the devices of LIO targets, present and coming; a broken path's I/O moves after `fast_io_fail_s`.

    With `no_path_retry="queue"`, who loses all paths waits. Afterwards multipathd, its devices and its files are gone.
    """
    load("dm_multipath")
    with ExitStack() as undo:
        if CONFIG.exists():
            raise PartFailed(f"{CONFIG} is there already")
        undo.callback(_forget_wwids)
        undo.callback(CONFIG.unlink)
        CONFIG.write_text(SETTINGS.format(no_path_retry=no_path_retry, fast_io_fail_s=fast_io_fail_s))
        undo.callback(_remove_maps)
        undo.enter_context(listening("multipathd", "-d", "-s", socket=SOCKET))
        yield Multipath(no_path_retry == "queue")


def _forget_wwids() -> None:
    # Also a rule of udev that asks about each new disk makes the folder, so it may have been there before.
    for name in ("wwids", "bindings"):
        (FOLDER / name).unlink(missing_ok=True)
    with suppress(OSError):
        FOLDER.rmdir()


def _remove_maps() -> None:
    """What multipathd leaves: its devices stay when it ends, so that a restart disturbs nobody."""
    for name in devicemapper.list_devices():
        if not _is_map(name):
            continue
        with suppress(OSError):  # gone meanwhile
            devicemapper.send_message(name, "fail_if_no_path")  # or else who waits for a path would wait for ever
        with suppress(FileNotFoundError):
            devicemapper.remove(name)


def _is_map(name: str) -> bool:
    node = devicemapper.path_of(name).name
    try:
        return Path(f"/sys/block/{node}/dm/uuid").read_text().startswith("mpath-")
    except FileNotFoundError:
        return False
