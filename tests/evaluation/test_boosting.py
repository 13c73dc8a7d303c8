"""Gradient boosting beside the probes: against scikit-learn, with few labels, with wrong ones, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from untaught.core import UserError
from untaught.evaluation import boosting, class_probes
from untaught.evaluation.boosting import boosted, boosting_rows, noisy_linear_rows, trees_win
from untaught.evaluation.low_label import Plan, amounts_of, noisy, settings

Four = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # training rows and targets, test rows and targets


@pytest.fixture
def steps() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A checkerboard, which trees see and lines don't."""
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 4)).astype(np.float32)
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(np.int64)
    return x[:400], y[:400], x[400:], y[400:]


def test_it_is_scikit_learns(steps: Four) -> None:
    x, y, test, _ = steps
    settings: Any = {"min_samples_leaf": 20, "early_stopping": False, "random_state": 0}
    own = HistGradientBoostingClassifier(**settings).fit(x, y).predict(test)
    assert np.array_equal(boosted(x, y, test, "classes"), own)


def test_few_rows_can_be_split() -> None:
    x = np.array([[0.0], [0.1], [1.0], [1.1]], np.float32)
    assert boosted(x, np.array([0, 0, 1, 1]), x, "classes").tolist() == [0, 0, 1, 1]
    assert boosted(x, np.array([2, 2, 2, 2]), x, "classes").tolist() == [2, 2, 2, 2]


def test_rows_for_all_few_and_wrong_labels(steps: Four) -> None:
    plan = Plan(("10/class", "10%"), 0.3)
    x, y, test, want = steps
    rows = {row["labels"]: row for row in boosting_rows(x, y, test, want, "classes", plan) if row["metric"] == "accuracy"}
    assert list(rows) == ["all", "10/class", "10%", "all, 30% wrong"]
    assert rows["all"]["mean"] > 0.9
    assert rows["10/class"]["draws"] == boosting.DRAWS
    assert rows["10/class"]["mean"] < rows["all"]["mean"]
    assert rows["all, 30% wrong"]["mean"] < rows["all"]["mean"]
    linear = noisy_linear_rows(*steps, 0.3)
    assert linear[0]["probe"] == "linear"
    assert linear[0]["mean"] < 0.65
    x, _, test, _ = steps
    numbers = boosting_rows(x, x[:, 0] ** 2.0, test, test[:, 0] ** 2.0, "numbers", plan)
    assert next(row["mean"] for row in numbers if row["metric"] == "r2" and row["labels"] == "all") > 0.75


def test_probes_learn_from_the_labels_that_are_asked_for(steps: Four) -> None:
    plan = Plan(amounts_of("25%, 3/class"), 0.4)
    found = [row for _, rows in class_probes.probes(*steps, plan) for row in rows if row["probe"] == "linear"]
    assert [row["labels"] for row in found if row["metric"] == "accuracy"] == ["all", "25%", "3/class", "all, 40% wrong"]
    assert len(list(class_probes.probes(*steps, plan))) == class_probes.count(steps[1], plan) + 1
    usual = [row["labels"] for _, rows in class_probes.probes(*steps) for row in rows if row["probe"] == "linear"]
    assert "10%" in usual
    assert not any("wrong" in name for name in usual)


def test_an_amount_per_class_is_refused_without_classes() -> None:
    found = dict(settings(np.arange(100.0), Plan(("5/class", "25%"))))
    assert "there is not one class a sample" in found["5/class"]
    assert found["25%"] == ""


@pytest.mark.parametrize("text", ["", "25", "0%", "100%", "x%", "0/class", "1.5/class", "10%,", "10/classes"])
def test_wrong_amounts_are_one_line(text: str) -> None:
    with pytest.raises(UserError, match="must be a share as 1% or a number a class as 10/class"):
        amounts_of(text)


def test_a_share_of_the_labels_becomes_another_class() -> None:
    labels = np.arange(3000) % 3 + 5
    found = noisy(labels, 0.3, seed=0)
    wrong = found != labels
    assert wrong.mean() == pytest.approx(0.3, abs=0.03)
    assert set(found) == {5, 6, 7}
    for name in (5, 6, 7):
        others = found[wrong & (labels == name)]
        assert abs(np.mean(others == others.max()) - 0.5) < 0.07
    assert np.array_equal(noisy(labels, 0.3, seed=0), found)


def test_it_is_said_where_trees_win() -> None:
    def row(features: str, probe: str, labels: str, mean: float) -> dict[str, object]:
        return {"features": features, "probe": probe, "labels": labels, "metric": "accuracy", "mean": mean}

    rows = [row("raw", "boosting", "all", 0.9), row("encoder", "linear", "all", 0.8), row("encoder", "boosting", "all", 0.85)]
    rows += [row("raw", "boosting", "10/class", 0.6), row("encoder", "linear", "10/class", 0.7)]
    assert trees_win(rows) == "gradient boosting on raw rows is better than the encoder: all labels 90.0% against 85.0% (boosting)"
    assert trees_win(rows[3:]) == ""
