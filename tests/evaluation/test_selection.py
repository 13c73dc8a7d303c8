"""What an encoder is chosen by: fifths of the labelled training samples, and an order without labels."""

from __future__ import annotations

import numpy as np
import pytest

from untaught.evaluation.selection import fifths, label_free_order

ALONE = lambda count: np.arange(count)  # noqa: E731  # every sample its own group


def test_fifths_are_disjoint_equal_and_stratified() -> None:
    labels = np.repeat([0, 1, 2], [50, 100, 7])
    found = fifths(labels, 3, ALONE(157))
    assert sorted(np.bincount(found)) == [31, 31, 31, 32, 32]
    for label, least in ((0, 10), (1, 20), (2, 1)):
        counts = np.bincount(found[labels == label], minlength=5)
        assert least <= counts.min()
        assert counts.max() <= least + 1
    assert (found == fifths(labels, 3, ALONE(157))).all()
    assert (found != fifths(labels, 4, ALONE(157))).any()


def test_rare_classes_are_spread_over_the_fifths() -> None:
    found = fifths(np.arange(20), 0, ALONE(20))  # one sample a class
    assert (np.bincount(found) == 4).all()


def test_a_group_is_in_one_fifth() -> None:
    groups = np.random.default_rng(0).integers(0, 40, 300)
    for targets in (groups % 3, np.random.default_rng(1).normal(size=300), np.eye(4, dtype=int)[groups % 4]):
        found = fifths(targets, 0, groups)
        for group in np.unique(groups):
            assert len(np.unique(found[groups == group])) == 1
        assert set(found) == set(range(5))


def test_numbers_are_divided_at_random() -> None:
    assert (np.bincount(fifths(np.linspace(0, 1, 50), 0, ALONE(50))) == 10).all()


def order_by_loops(results: dict[str, dict[str, float]]) -> tuple[list[str], float]:
    names, ranks = list(results), []
    bad = [
        {name: -one["rankme"] for name, one in results.items()},
        {name: abs(one["alpha"] - 1) for name, one in results.items()},
        {name: (one["loss"] - one["first_loss"]) / abs(one["first_loss"]) for name, one in results.items()},
    ]
    for table in bad:
        rank = {}
        for name in names:
            below = sum(table[other] < table[name] for other in names)
            ties = sum(table[other] == table[name] for other in names)
            rank[name] = below + (ties - 1) / 2
        ranks.append(rank)
    mean = {name: sum(rank[name] for rank in ranks) / 3 for name in names}
    correlations = []
    for i in range(3):
        for j in range(i + 1, 3):
            a, b = [ranks[i][name] for name in names], [ranks[j][name] for name in names]
            correlations.append(np.corrcoef(a, b)[0, 1])
    return sorted(names, key=lambda name: mean[name]), float(np.mean(correlations))


@pytest.mark.parametrize("seed", range(5))
def test_without_labels_methods_are_ordered_by_their_mean_rank(seed: int) -> None:
    random = np.random.default_rng(seed)
    results = {
        name: {"rankme": random.uniform(1, 90), "alpha": random.uniform(0.2, 3), "loss": random.uniform(0, 4), "first_loss": 5.0}
        for name in "abcdef"
    }
    expected, agreement = order_by_loops(results)
    order, found = label_free_order(results)
    assert found == pytest.approx(agreement)
    ranked = dict(zip(expected, range(6), strict=True))
    assert set(order) == set(expected)
    assert ranked[order[0]] == 0 or found < 1  # ties of the mean rank keep the order in which they were given


def test_criteria_that_agree_and_that_disagree() -> None:
    agreeing = {
        name: {"rankme": 10.0 * (4 - i), "alpha": 1 + 0.1 * i, "loss": 1.0 + i, "first_loss": 6.0} for i, name in enumerate(("a", "b", "c"))
    }
    assert label_free_order(agreeing) == (["a", "b", "c"], pytest.approx(1.0))
    opposed = {name: {**one, "alpha": 2 - 0.1 * i} for i, (name, one) in enumerate(agreeing.items())}
    assert label_free_order(opposed)[1] == pytest.approx(-1 / 3)


def test_a_criterion_that_is_missing_for_one_is_left_out() -> None:
    results = {
        "a": {"rankme": 5.0, "alpha": float("nan"), "loss": 3.0, "first_loss": 4.0},
        "b": {"rankme": 9.0, "alpha": 1.0, "loss": 2.0, "first_loss": 4.0},
    }
    assert label_free_order(results) == (["b", "a"], pytest.approx(1.0))
    results["a"]["alpha"] = None  # type: ignore[assignment]  # as read from a file
    assert label_free_order(results)[0] == ["b", "a"]
