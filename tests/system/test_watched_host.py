"""A host that loses its storage is reset by its watchdog before others may take what it held."""

from pathlib import Path

import pytest

from lab.commands import run, wait_for
from lab.watched import RESET_S, watched_host

pytestmark = pytest.mark.timeout(300)  # a watchdog takes its minute

IO_TIMEOUT_S = 1
PATIENT_IO_TIMEOUT_S = 3
"""sanlock renews each 2 of these and gives up after 8, which is to be far away from the end of a short outage."""
MARGIN_S = 25.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def test_a_host_whose_lease_holder_cannot_be_killed_is_reset_by_its_watchdog(folder: Path) -> None:
    with watched_host(folder, IO_TIMEOUT_S, stuck=True) as host:
        host.cut_storage()
        limit_s = 8 * IO_TIMEOUT_S + RESET_S + MARGIN_S
        wait_for(lambda: host.process.poll() is not None, "the watchdog resets the host", limit_s, 0.5)
        assert host.process.returncode == 0, "qemu ends so when its machine resets"


def test_a_host_whose_lease_holder_was_killed_in_time_goes_on(folder: Path) -> None:
    with watched_host(folder, IO_TIMEOUT_S) as host:
        host.cut_storage()
        wait_for(lambda: not host.holds_lease, "sanlock kills the holder", 8 * IO_TIMEOUT_S + MARGIN_S, 0.5)
        fed = host.read_console().count("keepalive")
        wait_for(lambda: host.read_console().count("keepalive") > fed, "the watchdog is fed again")
        assert host.process.poll() is None


def test_a_short_outage_costs_the_host_nothing(folder: Path) -> None:
    with watched_host(folder, PATIENT_IO_TIMEOUT_S) as host:
        host.cut_storage()
        beat, outage_s = host.alive_s, 2 * PATIENT_IO_TIMEOUT_S + 2
        wait_for(lambda: host.alive_s >= beat + outage_s, "a renewal has been missed")
        renewed = read_renewal(folder)
        host.heal_storage()
        wait_for(lambda: read_renewal(folder) != renewed, "it renews its lease again")
        assert host.process.poll() is None


def read_renewal(folder: Path) -> str:
    """When host 1 renewed its lease at last, by its own clock."""
    dump = run("sanlock", "direct", "dump", f"{folder / 'leases'}:0:1M")
    [line] = [line for line in dump.splitlines() if " lab " in line and "watched" in line]
    return line
