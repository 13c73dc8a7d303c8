"""Intervals against those that the textbook gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from untaught.evaluation.interval import Measured, accuracy_rows, measure


def share(outcome: np.ndarray) -> dict[str, float]:
    return {"accuracy": float((outcome == 0).mean())}


def test_one_draw_has_the_binomial_interval() -> None:
    outcome = (np.arange(1000) >= 700).astype(float)
    score = measure(share, [outcome])["accuracy"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert score.mean == pytest.approx(0.7)
    assert score.interval == pytest.approx((0.7 - half, 0.7 + half), abs=0.006)


def test_draws_widen_it_by_students_t() -> None:
    values = np.array([0.5, 0.6, 0.55, 0.62])
    low, high = Measured(values, np.full(400, values.mean())).interval
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, values.mean(), stats.sem(values)))


def test_a_share_stays_a_share_but_a_difference_may_be_negative() -> None:
    few = Measured(np.array([0.99, 0.9]), np.full(400, 0.945), (0.0, 1.0))
    assert few.interval[0] < few.interval[1] == 1
    assert (few - few).limits == (-np.inf, np.inf)


def test_a_difference_is_paired() -> None:
    random = np.random.default_rng(0)
    outcome = (random.random(500) < 0.5).astype(float)
    better = outcome.copy()
    better[np.flatnonzero(outcome)[:25]] = 0
    a, b = (measure(share, [each])["accuracy"] for each in (better, outcome))
    assert (a - a).interval == (0, 0)
    assert (a - b).mean == pytest.approx(0.05)
    assert (a - b).interval[0] > 0.025  # 25 of 500 samples differ: far narrower than either score's own
    assert a.interval[1] - a.interval[0] > 0.07


def test_all_right_is_no_certainty() -> None:
    score = measure(share, [np.zeros(69)], (0.0, 1.0))["accuracy"]
    assert score.interval == pytest.approx((stats.binomtest(69, 69).proportion_ci(method="wilson").low, 1.0), abs=1e-3)
    assert (score - score).interval == (0, 0)


def test_nor_are_all_right_in_classes_of_unequal_size() -> None:
    truth = np.repeat([0, 1], [50, 10])
    plain, balanced = accuracy_rows("linear", "all", np.ones((1, 60), bool), truth)
    assert (plain["low"], plain["high"]) == (balanced["low"], balanced["high"]) == pytest.approx((0.94, 1.0), abs=0.01)
