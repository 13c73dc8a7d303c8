"""Gradient boosting on raw features, on an encoder's, and on both: the baseline to beat where features have a meaning each.

scikit-learn's HistGradientBoosting with its defaults, but for leaves of at least a twentieth of the rows, 20 at most: with the default of
20 it can't split ten labelled rows. Label noise: a share of the training labels is replaced by other classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from untaught.evaluation import low_label
from untaught.evaluation.class_probes import linear_probe
from untaught.evaluation.interval import Row, accuracy_rows
from untaught.evaluation.low_label import Plan
from untaught.evaluation.number_probes import number_rows

DRAWS = 3  # of few labels; fitting takes seconds
NOISE = 0.3  # share of wrong labels, unless another is asked for
TIE = 0.01  # of accuracy or R2: no difference to speak of
LEAF = 20  # training rows per leaf, as far as there are 20 times as many
KINDS = ("classes", "numbers")


def boosting_rows(train: np.ndarray, targets: np.ndarray, test: np.ndarray, truth: np.ndarray, kind: str, plan: Plan) -> list[Row]:
    """Rows of "boosting" with all labels, with few and, for classes, with wrong ones; features (N,D), (M,D), targets as in `battery`."""
    rows: list[Row] = []
    for setting in ("all", *low_label.possible(targets, plan)):
        drawn = [np.arange(len(targets))] if setting == "all" else [low_label.draw(setting, targets, seed) for seed in range(DRAWS)]
        guess = np.stack([boosted(train[some], targets[some], test, kind) for some in drawn])
        rows += (
            accuracy_rows("boosting", setting, guess == truth, truth)
            if kind == "classes"
            else number_rows("boosting", setting, guess, truth)
        )
    if kind == "classes" and plan.noise:
        guess = boosted(train, low_label.noisy(targets, plan.noise, seed=0), test, kind)
        rows += accuracy_rows("boosting", low_label.noise_name(plan.noise), (guess == truth)[None], truth)
    return rows


def noisy_linear_rows(train: Any, targets: np.ndarray, test: Any, truth: np.ndarray, share: float) -> list[Row]:
    """Rows of the linear probe fitted to wrong labels."""
    guess, _ = linear_probe(train, test).predict(np.arange(len(targets)), low_label.noisy(targets, share, seed=0))
    return accuracy_rows("linear", low_label.noise_name(share), (guess == truth)[None], truth)


def boosted(train: np.ndarray, targets: np.ndarray, test: np.ndarray, kind: str) -> np.ndarray:
    """Predictions (M,) of gradient boosting fitted on train (n,D), targets (n,)."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    make: Any = HistGradientBoostingClassifier if kind == "classes" else HistGradientBoostingRegressor
    if len(np.unique(targets)) == 1:
        return np.repeat(targets[:1], len(test))
    leaf = min(LEAF, max(1, len(train) // 20))
    return make(min_samples_leaf=leaf, early_stopping=False, random_state=0).fit(train, targets).predict(test)


def trees_win(rows: list[dict[str, Any]]) -> str:
    """Where gradient boosting on raw features is better than the encoder's best probe, in one line; "" if nowhere."""
    found = []
    for row in (one for one in rows if one["features"] == "raw" and one["probe"] == "boosting" and one["metric"] in ("accuracy", "r2")):
        own = [one for one in rows if one["features"] == "encoder" and one["labels"] == row["labels"] and one["metric"] == row["metric"]]
        own = [one for one in own if one["probe"] in ("linear", "ridge", "boosting")]
        if own and (best := max(own, key=lambda one: one["mean"]))["mean"] + TIE < row["mean"]:
            shown = "all labels" if row["labels"] == "all" else f"{row['labels']} labels" if row["labels"].endswith("%") else row["labels"]
            found.append(f"{shown} {_text(row)} against {_text(best)} ({best['probe']})")
    return f"gradient boosting on raw rows is better than the encoder: {'; '.join(found)}" if found else ""


def _text(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.1f}%" if row["metric"] == "accuracy" else f"R2 {row['mean']:.3f}"
