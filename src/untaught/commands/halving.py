"""Successive halving: how a budget is spent on fewer and fewer candidates. Jamieson and Talwalkar, AISTATS 2016, https://arxiv.org/abs/1502.07943."""

from __future__ import annotations

from typing import NamedTuple

ETA = 2  # a round keeps one of so many candidates


class Round(NamedTuple):
    """candidates: how many are trained; each: what every one of them gets in addition to earlier rounds, in the unit of the budget."""

    candidates: int
    each: float


def survivors(candidates: int) -> int:
    """How many go on after a round: one of ETA, rounded up."""
    return -(-candidates // ETA)


def rounds_for(candidates: int) -> int:
    """Rounds until one candidate is left, at least one."""
    count = 0
    while candidates > 1:
        candidates, count = survivors(candidates), count + 1
    return max(count, 1)


def schedule(candidates: int, budget: float, rounds: int | None = None) -> list[Round]:
    """The rounds in which `budget` is spent: equal parts of it a round, and equal parts of that for each candidate.

    budget: in total; an int (steps) is divided into whole numbers, rounded down. rounds: how many are left, if it is not what as many
    candidates need: after a failure there are fewer candidates, after an undecided round more. A last candidate gets all that is left.
    """
    plan: list[Round] = []
    left = rounds or rounds_for(candidates)
    while left:
        left = left if candidates > 1 else 1
        each = budget // (left * candidates) if isinstance(budget, int) else budget / (left * candidates)
        plan.append(Round(candidates, each))
        budget -= each * candidates
        left, candidates = left - 1, survivors(candidates)
    return plan
