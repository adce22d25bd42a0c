"""`make bench`: runs every measurement against one daemon, prints a table and writes JSON."""

import argparse
import asyncio
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from bench import copies, domains, machines, migration, volumes
from bench.report import Figure, at_least, at_most, print_table, write_json
from bench.wire_rpc import measure_concurrent, measure_sequential
from demo.node import Node
from vdsm.wire.client import Address, connect
from vdsm.wire.tls import TlsFiles

PARTS = ("calls", "storage", "vms", "migration")
OWNER = (36, 36)
"""Of disks, by the daemon's default."""


def measure_start(node: Node) -> Figure:
    """From the command until a verb is answered."""
    start = time.perf_counter()
    node.start()
    value = time.perf_counter() - start
    return Figure("cold start until it answers", value, "s", "", None, *at_most(1, value, "s"))


def measure_calls(node: Node, seconds: float) -> list[Figure]:
    """JSON-RPC calls a second on one connection, client included."""
    figures = []
    doors = {
        "unix socket": Address(socket_path=node.root / "run/vdsm/vdsmd.sock"),
        "TLS": Address("127.0.0.1", node.port, TlsFiles.of_client(node.root / "etc/pki/vdsm")),
    }
    for name, address in doors.items():
        one = measure_sequential(address, seconds)
        many = asyncio.run(measure_concurrent(address, seconds))
        for what, value, bound in (("one by one", one, 4400), ("32 in flight", many, 11000)):
            floor, holds = at_least(bound, value, "/s") if name != "TLS" else ("", None)
            figures.append(Figure(f"Host.ping2, {what}, {name}", value, "/s", "", None, floor, holds))
    return figures


def measure_storage(node: Node, root: Path) -> list[Figure]:
    """What the repository costs."""
    folders = [root / "few", root / "many"]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o777)
        shutil.chown(folder, *OWNER)
    with connect(Address(socket_path=node.root / "run/vdsm/vdsmd.sock")) as client:
        repository = volumes.Repository(node, client, folders)
        return [*volumes.measure_volumes(repository), copies.measure_copy(repository, root)]


def measure_vms(node: Node, root: Path, count: int, idle_s: float) -> list[Figure]:
    """What virtual machines cost."""
    folder = root / "disks"
    folder.mkdir()
    folder.chmod(0o777)
    return [*machines.measure_create(node, folder), *machines.measure_many(node, folder, count, idle_s)]


def measure_all(root: Path, arguments: argparse.Namespace) -> list[Figure]:
    """All figures that are wanted, in the order of the table."""
    node = Node(root / "node")
    node.configure()
    machines.warm_up()
    figures = [measure_start(node)]
    with contextlib.ExitStack() as stack:
        stack.callback(node.stop)
        if "calls" in arguments.only:
            figures += measure_calls(node, arguments.seconds)
            memory = machines.get_resident_mib(node)
            figures.append(Figure("resident memory, idle", memory, "MiB", "", None, *at_most(90, memory, "MiB")))
        if "storage" in arguments.only:
            figures += measure_storage(node, root)
            figures += domains.measure_monitors(node, root / "watched", OWNER, arguments.idle)
        if "vms" in arguments.only:
            figures += measure_vms(node, root, arguments.vms, arguments.idle)
    if "migration" in arguments.only:
        if missing := migration.why_not():
            print(f"no figures of migration: {missing}")
        else:
            figures += migration.measure_migration()
    return figures


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=200, help="how many VMs for the figures of many")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of idling for the CPU figure")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds for each figure of calls")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="not all of the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vdsm-bench-") as root:
        Path(root).chmod(0o755)
        figures = measure_all(Path(root), arguments)
    print_table(figures)
    print(f"written to {write_json(figures)}")


if __name__ == "__main__":
    main()
