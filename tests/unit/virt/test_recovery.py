"""What a new daemon makes of the domains that it finds."""

import pytest

from tests.unit.virt.builders import VM_ID, domain_xml
from vdsm.virt.lifecycle import ExitReason, PauseCode, Status
from vdsm.virt.ports import DomainRecord, DomainState
from vdsm.virt.recovery import NEVER_STARTED, Adoption, plan_adoption, plan_recovery

AGENT = '<channel><target name="com.redhat.rhevm.vdsm"/></channel>'
GUESTFS = '<channel><target name="org.libguestfs.channel.0"/></channel>'


def record(state: DomainState = DomainState.RUNNING, reason: int = 1, xml: str | None = None) -> DomainRecord:
    return DomainRecord(VM_ID, "vm1", state, reason, domain_xml() if xml is None else xml)


def adopt(
    state: DomainState = DomainState.RUNNING, reason: int = 1, xml: str | None = None, owner: str = "/"
) -> Adoption:
    plan = plan_adoption(record(state, reason, xml), owner)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("state", "reason", "status", "pause_code"),
    [
        (DomainState.RUNNING, 1, Status.UP, None),
        (DomainState.BLOCKED, 0, Status.UP, None),
        (DomainState.SHUTDOWN, 1, Status.UP, None),
        (DomainState.SUSPENDED, 0, Status.UP, None),
        (DomainState.RUNNING, 10, Status.MIGRATION_DESTINATION, None),
        (DomainState.PAUSED, 1, Status.PAUSED, PauseCode.BY_REQUEST),
        (DomainState.PAUSED, 5, Status.PAUSED, PauseCode.OTHER),
        (DomainState.PAUSED, 2, Status.MIGRATION_SOURCE, None),
        (DomainState.PAUSED, 12, Status.MIGRATION_SOURCE, PauseCode.POST_COPY),
        (DomainState.PAUSED, 13, Status.PAUSED, PauseCode.POST_COPY),
        (DomainState.CRASHED, 1, Status.PAUSED, PauseCode.OTHER),
    ],
)
def test_living_domains(state: DomainState, reason: int, status: Status, pause_code: PauseCode | None) -> None:
    plan = adopt(state, reason)
    assert (plan.state.status, plan.state.pause_code) == (status, pause_code)
    assert plan.asks_why == (reason == 5)
    assert not plan.writes_exit


@pytest.mark.parametrize(
    ("reason", "exit_reason", "code"),
    [(0, 1, 1), (1, 7, 0), (2, 6, 0), (3, 1, 1), (4, 4, 0), (5, 5, 0), (6, 3, 1), (7, 1, 1), (8, 1, 1)],
)
def test_domains_that_are_off(reason: int, exit_reason: int, code: int) -> None:
    plan = adopt(DomainState.SHUT_OFF, reason)
    assert plan.state.status is Status.DOWN
    assert plan.state.exit is not None
    assert (plan.state.exit.reason, plan.state.exit.code) == (exit_reason, code)
    assert (plan.state.exit.message == NEVER_STARTED) == (reason == 0)
    assert plan.writes_exit


def test_a_recorded_end_wins() -> None:
    ended = '<exitCode type="int">0</exitCode><exitReason type="int">7</exitReason><exitMessage>bye</exitMessage>'
    plan = adopt(DomainState.SHUT_OFF, 2, domain_xml(metadata=ended))
    assert plan.state.exit is not None
    assert (plan.state.exit.reason, plan.state.exit.message) == (ExitReason.SHUT_DOWN_BY_GUEST, "bye")
    assert not plan.writes_exit


@pytest.mark.parametrize(
    ("metadata", "devices", "owner", "is_ours"),
    [
        ("", "", "/", True),
        ("", "", "/srv/a", False),
        ("<owner>/srv/a</owner>", "", "/srv/a", True),
        ("<owner>/srv/a</owner>", "", "/", False),
        (None, "", "/", False),
        (None, AGENT, "/", True),
        (None, AGENT, "/srv/a", False),
        ("<owner>/srv/b</owner>", AGENT, "/", False),
    ],
)
def test_whose_it_is(metadata: str | None, devices: str, owner: str, is_ours: bool) -> None:
    xml = domain_xml(metadata=metadata, devices=devices)
    assert adopt(xml=xml, owner=owner).is_external is not is_ours
    off = plan_adoption(record(DomainState.SHUT_OFF, 0, xml), owner)
    assert (off is not None) == is_ours


def test_appliances_of_libguestfs_are_left_alone() -> None:
    assert plan_recovery([record(xml=domain_xml(devices=GUESTFS + AGENT))], "/") == []


@pytest.mark.parametrize(
    "xml", ["<domain", "<domain/>", domain_xml(metadata='<startTime type="float">soon</startTime>')]
)
def test_what_cannot_be_understood_is_reported_and_left_alone(xml: str) -> None:
    plan = adopt(xml=xml)
    assert plan.view is None and plan.problem and plan.is_external
    assert plan.state.status is Status.UP
    assert plan_adoption(record(DomainState.SHUT_OFF, 0, xml), "/") is None
