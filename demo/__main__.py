"""`make demo`: a real virtual machine, created through the daemon's API, shown, and cleaned up; the steps are `steps`.

KEEP=1 leaves everything running and says how to look at it and how to stop it; IMAGE=disk.qcow2 boots that image.
"""

import json
import os
import secrets
import shutil
import signal
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from demo import libvirtd, screen, steps
from demo.guest import GuestError, GuestFiles, build_guest
from demo.node import Node, NodeFailure
from vdsm import client

RESULTS = Path(__file__).parents[1] / ".cache/demo"
RECORD = "demo.json"
BOOT_DEADLINE_S = 180.0
IMAGE_QUIET_S = 20.0  # an image that says nothing on its serial console for so long is taken as booted
FAILURES = (NodeFailure, GuestError, libvirtd.LibvirtError, client.Error, OSError)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the environment asks for."""

    keep: bool
    image: Path | None

    @classmethod
    def read(cls) -> "Wishes":
        """KEEP and IMAGE. Raises NodeFailure when the image is not there."""
        image = Path(os.environ["IMAGE"]).absolute() if os.environ.get("IMAGE") else None
        if image is not None and not image.is_file():
            raise NodeFailure(f"IMAGE: {image} is no file")
        return cls(os.environ.get("KEEP", "") not in ("", "0"), image)


def say(text: str) -> None:
    """One line of progress."""
    print(f"demo: {text}", flush=True)


def run(wishes: Wishes) -> str:
    """The whole demo; returns what it showed, in one line."""
    with ExitStack() as undo:
        if not wishes.image:
            say("the guest: Debian's kernel and busybox, downloaded and unpacked unless they are in .cache/ already")
        guest = None if wishes.image else build_guest()
        undo.enter_context(libvirtd.running_libvirt())
        root = Path("/var/tmp") / f"vdsm-demo-{secrets.token_hex(3)}"  # not /tmp: it may know no direct I/O
        root.mkdir(mode=0o755)
        undo.callback(shutil.rmtree, root, ignore_errors=True)
        node, ids = Node(root), steps.Ids()
        undo.callback(node.stop)
        undo.callback(_destroy_if_left, ids)
        undo.push(lambda kind, error, trace: _save_log(node) if kind else None)
        say(f"the daemon: configured and started under {root}")
        node.configure()
        node.start()
        name = root.name.removeprefix("vdsm-")
        shown = _show(node, ids, name, wishes.image, guest.copy_to(root / "guest") if guest else None)
        if wishes.keep:
            _keep(node, ids, name)
            undo.pop_all()
        else:
            say("cleaning up")
            steps.remove_all(node, ids)
    return shown


def _show(node: Node, ids: steps.Ids, name: str, image: Path | None, guest: GuestFiles | None) -> str:
    folder = node.root / "domain"
    folder.mkdir(mode=0o755)
    os.chown(folder, 36, 36)
    say(f"storage: a domain in {folder}, a pool, this host its manager")
    steps.create_storage(node, ids, folder)
    size_bytes = steps.DISK_GIB * steps.GIB if image is None else steps.get_image_size(image)
    size = f"{size_bytes / steps.GIB:.4g} GiB" if size_bytes >= steps.GIB else f"{size_bytes >> 20} MiB"
    say(f"storage: a thin volume of {size}")
    steps.create_volume(node, ids, size_bytes)
    if image is not None:
        say(f"storage: {image} is copied into it")
        steps.fill_volume(node, ids, image)
    say(f"VM: {name} is created")
    began = time.monotonic()
    steps.create_vm(node, ids, name, guest)
    steps.wait_until_up(node, ids)
    say("VM: it runs; its serial console:")
    with screen.open_console(ids.vm) as console:
        _follow(console, f"guest: vda {size}" if guest else None)
    booted = time.monotonic() - began
    steps.show_tables(node, ids)
    picture = RESULTS / "screenshot.png"
    screen.save_screenshot(ids.vm, picture)
    say(f"VM: what its display shows is in {os.path.relpath(picture)}")
    return f"a virtual machine with a thin disk of {size} {f'booted in {booted:.0f} s' if guest else 'ran'}"


def _follow(console: screen.Console, expected: str | None) -> None:
    """Print what the guest says until it is ready; our own guest must say who it is and how large its disk is."""
    seen = []
    for line in console.read_lines(BOOT_DEADLINE_S, BOOT_DEADLINE_S if expected else IMAGE_QUIET_S):
        if expected is None or line.startswith("guest: "):
            print(f"      | {line}", flush=True)
        seen.append(line)
        if line == "guest: ready":
            break
    if expected is not None and (expected not in seen or "guest: ready" not in seen):
        raise NodeFailure(f"the guest did not say {expected!r} within {BOOT_DEADLINE_S:.0f} s; it said: {seen[-5:]}")


def _destroy_if_left(ids: steps.Ids) -> None:
    """Whatever went wrong before, no VM stays behind."""
    for words in (("destroy", ids.vm), ("undefine", "--nvram", ids.vm)):
        with suppress(libvirtd.LibvirtError):
            libvirtd.virsh(*words)


def _save_log(node: Node) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    if node.log.exists():
        shutil.copy(node.log, RESULTS / "vdsmd.log")
        print(f"demo: the daemon's log is in {os.path.relpath(RESULTS / 'vdsmd.log')}", file=sys.stderr)


def _keep(node: Node, ids: steps.Ids, name: str) -> None:
    started = libvirtd.disown()
    daemon = node.process.pid if node.process else 0
    (node.root / RECORD).write_text(json.dumps({"vm": ids.vm, "vdsmd": daemon, "libvirt": started}))
    say("all of it keeps running. To look at it:")
    print(f"""
  export VDSM_ROOT={node.root} PATH={Path(sys.executable).parent}:$PATH
  vdsm-client Host getAllVmStats
  vdsm-client VM getInfo vmID={ids.vm}
  tail -f {node.log}
  virsh -c {libvirtd.URI} console {name}         # its serial console; leave with Ctrl and ]
  virsh -c {libvirtd.URI} vncdisplay {name}      # where a VNC viewer finds its display

To stop it:

  {os.path.relpath(sys.executable)} -m demo --stop {node.root}
""")


def stop(root: Path) -> None:
    """End what KEEP=1 left running. Raises NodeFailure when there is nothing under `root`."""
    try:
        record = json.loads((root / RECORD).read_text())
    except FileNotFoundError:
        raise NodeFailure(f"no demo was kept under {root}") from None
    _destroy_if_left(steps.Ids(vm=record["vm"]))
    libvirtd.stop("vdsmd", record["vdsmd"])
    for program, pid in reversed(record["libvirt"].items()):
        libvirtd.stop(program, pid)
    shutil.rmtree(root)
    say(f"stopped, {root} is removed")


def main(arguments: list[str]) -> int:
    """Run the demo, or with `--stop ROOT` end a kept one."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, libvirtd.end)
    try:
        if arguments[:1] == ["--stop"] and len(arguments) == 2:
            stop(Path(arguments[1]))
            return 0
        shown = run(Wishes.read())
    except FAILURES as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted, cleaned up", file=sys.stderr)
        return 130
    say(f"OK, {shown}, {time.monotonic() - began:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
