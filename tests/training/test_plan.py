"""Plans of minutes, on machines whose load changes, by a clock of our own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from untaught.training.plan import Plan

BUDGET = 600.0
Cost = Callable[[float, int], float]  # (seconds so far, step) -> seconds of the next step


def followed(cost: Cost, budget: float = BUDGET) -> tuple[float, list[float]]:
    """-> the seconds that a run takes, and the progress that each step was trained at."""
    plan, seconds, step, progress = Plan(), 0.0, 0, []
    while plan.total is None or step < plan.total:
        progress.append(plan.progress(step))
        seconds += cost(seconds, step)
        step += 1
        assert step < 100_000, "it has no end"
        if step >= plan.due:
            plan.renew(step, plan.estimate(step, seconds, budget))
    return seconds, progress


def slower(times: float, share: float) -> Cost:
    """A tenth of a second, and so many times that after a share of the budget."""
    return lambda seconds, step: 0.1 * (times if seconds > share * BUDGET else 1)


def noisy() -> Cost:
    draws = random.Random(0)
    return lambda seconds, step: 0.1 * draws.paretovariate(1.5)


LOADS: dict[str, Cost] = {
    "even": lambda seconds, step: 0.3,
    "half a minute to compile": lambda seconds, step: 30.0 if step == 0 else 0.3,
    "noisy": noisy(),
    "waves": lambda seconds, step: 0.1 * (2.5 + 1.5 * math.sin(seconds / 20)),
    "four times as fast": slower(0.25, 0.5),
    "a pass over all samples every 100 steps": lambda seconds, step: 15.0 if step % 100 == 99 else 0.1,
    "a pause of 15 s near the end": lambda seconds, step: 15.0 if step == 5800 else 0.1,
    **{f"{times} times as slow after {share:.0%}": slower(times, share) for times in (2, 4, 10) for share in (0.1, 0.5, 0.8, 0.95, 0.99)},
}


@pytest.mark.parametrize("load", LOADS)
def test_a_budget_is_kept_and_the_schedule_finished(load: str) -> None:
    seconds, progress = followed(LOADS[load])
    assert seconds == pytest.approx(BUDGET, rel=0.05)
    assert progress[-1] > 0.98
    assert progress == sorted(progress)


def test_a_long_pause_ends_the_schedule_late_but_whole() -> None:
    """200 of 600 s are lost when 480 are over."""
    seconds, progress = followed(lambda seconds, step: 200.0 if step == 4800 else 0.1)
    assert 680 < seconds < 700
    assert progress[-1] > 0.98


def test_progress_is_a_line_that_new_plans_bend_but_do_not_break() -> None:
    plan = Plan(100)
    assert [plan.progress(step) for step in (0, 21, 50, 100, 120)] == [0, 0.21, 0.5, 1, 1]
    plan.renew(50, 60)
    assert [plan.progress(step) for step in (50, 51, 60)] == [0.5, pytest.approx(0.55), 1]
    plan.renew(55, 1055)
    assert [plan.progress(step) for step in (55, 555)] == [0.75, 0.875]


def test_the_state_of_a_plan_is_all_of_it() -> None:
    plan = Plan()
    for step in (1, 2, 3):
        plan.renew(step, plan.estimate(step, 0.1 * step, 5.0))
    assert Plan.restored(plan.state()) == plan
    with pytest.raises((TypeError, ValueError, KeyError)):
        Plan.restored({"total": "many"})
