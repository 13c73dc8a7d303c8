"""The length of a run in steps, and the progress at a step. `minutes` are converted into steps by the measured time per step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

MOST_STEPS = 1 << 48
SHARE, REST = 50, 10  # a plan of minutes is renewed after 2% of the steps so far or a tenth of those left, whichever is less
GRACE = 0.04  # after a stall has used up the time, the schedule still gets this share of the steps so far to reach its end


@dataclass
class Plan:
    """The schedule as a line from (`start`, `begun`) to (`total`, 1): progress by step. A new plan changes its slope, never its value.

    total: the last step; None if only a budget of seconds is given, until the second step has been timed. `renew` then replans at
    every step that is `due`. Those steps and the progress depend only on the totals, so that a resumed run with the same totals is the
    same run.
    """

    total: int | None = None
    start: int = 0
    begun: float = 0.0  # progress at `start`
    due: int = 1  # step at which to replan; unused without a budget
    timed: list[list[float]] = field(default_factory=list)  # [step, seconds of the run] at each replanning

    def progress(self, step: int) -> float:
        """Share of the schedule done before a step: 0 until the first plan, 1 at the end."""
        if self.total is None or step <= self.start:
            return self.begun
        return min(self.begun + (1 - self.begun) * (step - self.start) / (self.total - self.start), 1.0)

    def renew(self, step: int, total: int | None) -> None:
        """From `step` on, the schedule ends at `total` (None: not yet known)."""
        if total is not None:
            self.begun, self.start, self.total = self.progress(step), step, total
        self.due = step + max(1, min(step // 4, step // SHARE, ((total or 0) - step) // REST))

    def estimate(self, step: int, seconds: float, budget: float) -> int | None:
        """The step at which the budget will be spent (seconds and budget count from the start of the run); None before two timings.

        The time per step is averaged over half as many recent steps as are left, so that it follows changes of load near the end, and
        never includes the first step, which allocates and compiles.
        """
        self.timed.append([step, seconds])
        if len(self.timed) < 2:
            return step if seconds >= budget else None
        left = (self.total or 0) - step
        since, mark = next((at for at in reversed(self.timed) if at[0] <= step - max(1, left // 2)), self.timed[0])
        each = max((seconds - mark) / (step - since), 1e-9)
        return step + max(round((budget - seconds) / each), round(GRACE * step * (1 - self.progress(step))))

    def state(self) -> dict[str, Any]:
        """Plain numbers and lists, for a checkpoint."""
        return asdict(self)

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Plan:
        """The plan of such a state; only "total" is required. Raises TypeError, ValueError or KeyError for anything else."""
        plan = cls(state["total"], *(state.get(name, default) for name, default in (("start", 0), ("begun", 0.0), ("due", 1))))
        plan.timed = [[int(step), float(seconds)] for step, seconds in state.get("timed", ())]
        valid = is_total(plan.total) and all(type(step) is int and 0 <= step < MOST_STEPS for step in (plan.start, plan.due))
        if not valid or plan.start > (plan.total or plan.start) or not 0 <= plan.begun <= 1 or not _in_order(plan.timed):
            raise ValueError(f"invalid plan {state}")
        return plan


def is_total(value: Any) -> bool:
    """Whether a value read from a file can be the last step of a run, or None (not yet known)."""
    return value is None or (type(value) is int and 0 <= value < MOST_STEPS)


def _in_order(timed: list[list[float]]) -> bool:
    """Whether steps and seconds increase from 0 on: the time per step is the quotient of their differences."""
    steps, seconds = [0.0, *(at[0] for at in timed)], [0.0, *(at[1] for at in timed)]
    rising = all(before < after for before, after in pairwise(steps[1:]))
    return rising and min(steps) >= 0 and all(0 <= before <= after < math.inf for before, after in pairwise(seconds))
