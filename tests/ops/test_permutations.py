"""Permutations that are far apart: the greedy choice of Noroozi and Favaro's algorithm 1, computed apart."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from untaught.ops.permutations import all_permutations, distant_permutations


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("n", "count"), [(2, 2), (3, 6), (4, 24), (5, 40)])
def test_each_has_the_largest_sum_of_distances_to_those_before(n: int, count: int) -> None:
    rows = [tuple(row) for row in distant_permutations(n, count).tolist()]
    assert len(set(rows)) == count
    for number in range(1, count):
        before, left = rows[:number], [one for one in itertools.permutations(range(n)) if one not in rows[:number]]
        best = max(sum(distance(one, other) for other in before) for one in left)
        assert sum(distance(rows[number], other) for other in before) == best


def test_a_hundred_of_nine_are_as_far_apart_as_the_papers() -> None:
    """The paper's ablation: 100 permutations with an average Hamming distance of 8.08."""
    rows = distant_permutations(9, 100)
    apart = (rows.unsqueeze(0) != rows.unsqueeze(1)).sum(2)[~torch.eye(100, dtype=torch.bool)]
    assert round(apart.float().mean().item(), 2) == 8.08
    assert apart.min() >= 2
    assert torch.equal(rows.sort(1).values, torch.arange(9).expand(100, -1))


def test_a_larger_set_begins_with_the_smaller() -> None:
    assert torch.equal(distant_permutations(5, 30)[:12], distant_permutations(5, 12))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_all_permutations_are_all(n: int) -> None:
    assert sorted(map(tuple, all_permutations(n).tolist())) == sorted(itertools.permutations(range(n)))


@pytest.mark.parametrize(("n", "count"), [(1, 1), (10, 5), (3, 0), (3, math.factorial(3) + 1)])
def test_impossible_sets_are_refused(n: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}"):
        distant_permutations(n, count)
