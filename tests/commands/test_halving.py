"""Successive halving: what every candidate gets, beside loops that spend the budget coin by coin."""

from __future__ import annotations

import pytest

from untaught.commands.halving import Round, rounds_for, schedule, survivors


@pytest.mark.parametrize("candidates", range(1, 40))
def test_rounds_end_with_one(candidates: int) -> None:
    left, rounds = candidates, 0
    while left > 1:
        left = left // 2 + left % 2
        rounds += 1
        assert survivors(2 * left - 1) == survivors(2 * left) == left
    assert rounds_for(candidates) == max(rounds, 1)


@pytest.mark.parametrize("candidates", [1, 2, 3, 5, 8, 9, 16])
@pytest.mark.parametrize("budget", [40.0, 7.5])
def test_the_whole_budget_is_spent_in_equal_rounds_and_equal_parts(candidates: int, budget: float) -> None:
    plan = schedule(candidates, budget)
    rounds, left = rounds_for(candidates), candidates
    assert len(plan) == rounds
    for one in plan:
        assert one.candidates == left
        assert one.each * left == pytest.approx(budget / rounds)
        left = -(-left // 2)
    assert left == 1
    assert sum(one.candidates * one.each for one in plan) == pytest.approx(budget)


def test_eight_methods_in_forty_minutes() -> None:
    assert [one.candidates for one in schedule(8, 40.0)] == [8, 4, 2]
    assert [one.each for one in schedule(8, 40.0)] == pytest.approx([5 / 3, 10 / 3, 20 / 3])


@pytest.mark.parametrize("candidates", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("budget", [24, 100, 301])
def test_steps_are_whole_and_never_more_than_the_budget(candidates: int, budget: int) -> None:
    plan, spent, left = schedule(candidates, budget), 0, rounds_for(candidates)
    for one in plan:
        assert isinstance(one.each, int)
        assert one.each == (budget - spent) // (left * one.candidates)
        spent += one.each * one.candidates
        left -= 1
    assert budget - plan[-1].candidates < spent <= budget


@pytest.mark.parametrize("candidates", [3, 8, 13])
def test_planning_again_after_a_round_changes_nothing(candidates: int) -> None:
    """The rounds are planned one at a time, from what is left: without failures they are those planned at the start."""
    plan, budget, left = schedule(candidates, 60.0), 60.0, rounds_for(candidates)
    for expected in plan:
        found = schedule(candidates, budget, left)[0]
        assert found == pytest.approx(expected)
        budget -= found.each * found.candidates
        candidates, left = survivors(candidates), left - 1


def test_a_last_candidate_gets_all_that_is_left_at_once() -> None:
    assert schedule(1, 30.0, 3) == [Round(1, 30.0)]


def test_more_candidates_than_planned_share_the_rounds_that_are_left() -> None:
    assert schedule(4, 20.0, 1) == [Round(4, 5.0)]
