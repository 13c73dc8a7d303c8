"""When a run is evaluated: at even shares of its schedule, each once, in one go or resumed."""

from __future__ import annotations

from typing import Any

import pytest

from untaught.config.train_config import TrainConfig
from untaught.training.events import Events
from untaught.training.plan import Plan


def evaluated(begin: int, end: int, total: int = 100, **knobs: Any) -> list[int]:
    """The steps after which a run from `begin` to `end` is evaluated."""
    events = Events(TrainConfig(**knobs), Plan(total), begin)
    return [step for step in range(begin + 1, end + 1) if events.evaluates(step)]


def test_quarters_are_evaluated_once_each() -> None:
    assert evaluated(0, 100) == [25, 50, 75, 100]
    assert evaluated(0, 100, evaluate_every=30) == [30, 60, 90]
    assert evaluated(0, 100, evaluate_every=0) == []


@pytest.mark.parametrize("kept", [1, 25, 50, 60, 99])
def test_a_resumed_run_is_evaluated_where_it_would_have_been(kept: int) -> None:
    assert evaluated(0, kept) + evaluated(kept, 100) == evaluated(0, 100)
