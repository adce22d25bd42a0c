"""When what is done for a migration to come to an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.api.migration import ConvergenceAction, ConvergenceItem, ConvergenceSchedule
from vdsm.core.errors import InvalidArgument
from vdsm.virt.migration.schedule import Action, Schedule, Steps, compute_progress, list_downtimes_ms


def downtime(value_ms: int) -> Action:
    return Action("setDowntime", value_ms)


def test_the_legacy_schedule_of_the_facts() -> None:
    schedule = Schedule.compute(500, 5)
    assert schedule.init == (downtime(101),)
    rising = tuple((number, downtime(ms)) for number, ms in ((1, 104), (2, 120), (3, 189), (4, 500)))
    assert schedule.stalling == (*rising, (42, downtime(500)), (-1, Action("abort")))
    assert not schedule.has_post_copy


@pytest.mark.parametrize("steps", [0, 1])
def test_one_step_is_the_whole_downtime(steps: int) -> None:
    assert Schedule.compute(300, steps) == Schedule((downtime(300),), ((42, downtime(300)), (-1, Action("abort"))))


@given(st.integers(1, 100_000), st.integers(2, 30))
def test_downtimes_rise_to_the_one_that_is_wanted(wanted_ms: int, steps: int) -> None:
    downtimes_ms = list_downtimes_ms(wanted_ms, steps)
    assert len(downtimes_ms) == steps and downtimes_ms == sorted(downtimes_ms)
    assert wanted_ms - 1 <= downtimes_ms[-1] <= wanted_ms


def test_a_given_schedule() -> None:
    item = ConvergenceItem(action=ConvergenceAction(name="postcopy"), limit=3)
    first = ConvergenceAction(name="setDowntime", parameters=["150"])
    schedule = Schedule.parse(ConvergenceSchedule(init=[first], stalling=[item]))
    assert schedule == Schedule((downtime(150),), ((3, Action("postcopy")),)) and schedule.has_post_copy


@pytest.mark.parametrize("given", [[], ["1", "2"], ["x"], ["-1"], ["0"], ["1.5"], ["9" * 30], ["٣"], [""]])
def test_downtimes_that_are_none_are_refused(given: list[str]) -> None:
    action = ConvergenceAction(name="setDowntime", parameters=given)
    with pytest.raises(InvalidArgument):
        Schedule.parse(ConvergenceSchedule(init=[action]))


def test_an_action_is_due_when_more_rounds_than_its_limit_have_passed() -> None:
    steps = Steps(Schedule((), ((1, downtime(1)), (2, downtime(2)), (-1, Action("abort")))))
    seen = [(number, steps.find_due(number)) for number in (5, 6, 7, 7, 8, 9, 10)]
    assert [(number, due) for number, due in seen if due] == [
        (7, downtime(1)),
        (8, downtime(2)),
        (9, Action("abort")),
    ]


def test_nothing_is_done_after_post_copy_began() -> None:
    steps = Steps(Schedule((), ((0, Action("postcopy")), (-1, Action("abort")))))
    assert [steps.find_due(number) for number in (1, 2, 3, 4)] == [None, Action("postcopy"), None, None]


@pytest.mark.parametrize(
    ("total", "remaining", "before", "progress"),
    [(0, 0, 7, 7), (100, 100, 0, 0), (100, 25, 0, 75), (1000, 1, 0, 99), (100, 0, 0, 100), (100, 90, 50, 50)],
)
def test_progress(total: int, remaining: int, before: int, progress: int) -> None:
    assert compute_progress(total, remaining, before) == progress
