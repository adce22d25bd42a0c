import libvirt
import pytest

from vdsm.adapters.libvirt.events import make_callbacks
from vdsm.virt.ports import EventKind, HypervisorEvent

VM = "11111111-2222-4333-8444-555555555555"


class Domain:
    def UUIDString(self) -> str:
        return VM


CASES: list[tuple[str, tuple[object, ...], HypervisorEvent]] = [
    ("LIFECYCLE", (5, 1), HypervisorEvent(VM, EventKind.LIFECYCLE, (5, 1))),
    ("REBOOT", (), HypervisorEvent(VM, EventKind.REBOOT)),
    ("RTC_CHANGE", (-3600,), HypervisorEvent(VM, EventKind.RTC_CHANGE, (-3600,))),
    ("WATCHDOG", (2,), HypervisorEvent(VM, EventKind.WATCHDOG, (2,))),
    (
        "IO_ERROR_REASON",
        ("/disk", "virtio-disk0", 1, "enospc"),
        HypervisorEvent(VM, EventKind.IO_ERROR, (1,), "enospc", ("/disk", "virtio-disk0")),
    ),
    (
        "GRAPHICS",
        (0, {"node": "::1"}, {"family": 2, "node": "192.0.2.7", "service": "4711"}, "vnc", []),
        HypervisorEvent(VM, EventKind.GRAPHICS, (0,), names=("192.0.2.7", "vnc", "4711")),
    ),
    ("DEVICE_REMOVED", ("net1",), HypervisorEvent(VM, EventKind.DEVICE_REMOVED, names=("net1",))),
    ("AGENT_LIFECYCLE", (1, 2), HypervisorEvent(VM, EventKind.AGENT, (1, 2))),
    (
        "JOB_COMPLETED",
        ({"operation": 5, "downtime": 30, "downtime_net": 20},),
        HypervisorEvent(VM, EventKind.MOVED, (20,)),
    ),
    ("BLOCK_JOB_2", ("vda", 4, 3), HypervisorEvent(VM, EventKind.BLOCK_JOB, (4, 3), names=("vda",))),
    ("TUNABLE", ({"blkdeviotune.disk": "vda"},), HypervisorEvent(VM, EventKind.TUNED)),
]


@pytest.mark.parametrize(("name", "values", "expected"), CASES, ids=[case[0] for case in CASES])
def test_events_of_libvirt_become_the_ports(name: str, values: tuple[object, ...], expected: HypervisorEvent) -> None:
    emitted: list[HypervisorEvent] = []
    callbacks = make_callbacks(emitted.append)
    callbacks[getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}")](None, Domain(), *values, None)
    assert emitted == [expected]


@pytest.mark.parametrize("figures", [{}, {"operation": 2, "downtime": 30}, {"operation": 5}])
def test_other_jobs_that_end_are_no_moves(figures: dict[str, int]) -> None:
    emitted: list[HypervisorEvent] = []
    make_callbacks(emitted.append)[libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED](None, Domain(), figures, None)
    assert emitted == []


def test_every_event_that_the_node_follows_is_registered() -> None:
    names = {name for name, _, _ in CASES}
    assert set(make_callbacks(lambda _: None)) == {getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}") for name in names}
