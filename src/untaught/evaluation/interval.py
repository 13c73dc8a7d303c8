"""Uncertainty of a score from the choice of test samples and of labels, as one 95% interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

Row = dict[str, Any]  # of evaluation.json, without "features"
RESAMPLES = 400
Z = 1.96


def row(probe: str, labels: str, metric: str, mean: float, low: float, high: float, draws: int) -> Row:
    return {"probe": probe, "labels": labels, "metric": metric, "mean": mean, "low": low, "high": high, "draws": draws}


@dataclass
class Measured:
    """A score for each of D label draws (D,), and its mean over draws in each of R bootstrap resamples of the test samples (R,)."""

    draws: np.ndarray
    resampled: np.ndarray
    limits: tuple[float, float] = (-np.inf, np.inf)  # range of the score
    rows: int = 0  # test samples, of a share

    @property
    def mean(self) -> float:
        return float(self.draws.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95%: 1.96 std over resampled test samples and Student's t over draws, combined as independent errors. Wilson's of a share of 0
        or 1 in all resamples and draws, which have no variance."""
        count = len(self.draws)
        draw_error = stdtrit(count - 1, 0.975) * self.draws.std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
        half = np.hypot(Z * self.resampled.std(), draw_error)
        if self.rows and half == 0 and self.mean in (0.0, 1.0):
            low, high = wilson(self.mean, self.rows)
            return min(low, self.mean), max(high, self.mean)
        return float(max(self.mean - half, self.limits[0])), float(min(self.mean + half, self.limits[1]))

    def __sub__(self, other: Measured) -> Measured:
        """The paired difference, on the same draws and resamples."""
        return Measured(self.draws - other.draws, self.resampled - other.resampled)


def measure(
    scores: Callable[[np.ndarray], dict[str, float]],
    outcomes: list[np.ndarray],
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> dict[str, Measured]:
    """Scores by name from outcomes (N, ...), one per draw, on the same test samples; every call uses the same resamples."""
    random = np.random.default_rng(0)
    plain = [scores(outcome) for outcome in outcomes]
    again = {name: np.zeros(RESAMPLES) for name in plain[0]}
    for number in range(RESAMPLES):
        rows = random.integers(0, len(outcomes[0]), len(outcomes[0]))
        for outcome in outcomes:
            for name, value in scores(outcome[rows]).items():
                again[name][number] += value / len(outcomes)
    share = len(outcomes[0]) if limits == (0.0, 1.0) else 0
    return {name: Measured(np.array([draw[name] for draw in plain]), again[name], limits, share) for name in again}


def bootstrap(
    score: Callable[[np.ndarray], np.ndarray], rows: int, lowest: float = 0.0, highest: float = 1.0
) -> tuple[float, float, float]:
    """(mean, low, high) as in `measure`, for a score computed for all draws at once.

    score: multiplicity of each test row (rows,) -> score of every draw (draws,). Resamples in which it is undefined (NaN) are skipped.
    """
    random = np.random.default_rng(0)
    resampled = np.array([score(np.bincount(random.integers(rows, size=rows), minlength=rows)).mean() for _ in range(RESAMPLES)])
    share = rows if (lowest, highest) == (0.0, 1.0) else 0
    found = Measured(score(np.ones(rows, np.int64)), resampled[~np.isnan(resampled)], (lowest, highest), share)
    return min(max(found.mean, lowest), highest), *found.interval


def accuracy_rows(probe: str, labels: str, right: np.ndarray, truth: np.ndarray) -> list[Row]:
    """right (draws, M) bool, truth (M,) -> a row of accuracy, and one of balanced accuracy if class sizes differ by more than 2x."""
    draws, rows = right.shape
    correct = right.astype(np.float32)

    def accuracy(counts: np.ndarray) -> np.ndarray:
        return correct @ counts.astype(np.float32) / rows

    result = [row(probe, labels, "accuracy", *bootstrap(accuracy, rows), draws)]
    present, sizes = np.unique(truth, return_counts=True)
    if len(present) > 1 and sizes.max() > 2 * sizes.min():
        member = (truth[:, None] == present).astype(np.float32)  # (M, classes)

        def balanced(counts: np.ndarray) -> np.ndarray:
            weights = member * counts[:, None].astype(np.float32)
            there = weights.sum(0) > 0
            return (correct @ weights[:, there] / weights[:, there].sum(0)).mean(1)

        result.append(row(probe, labels, "balanced_accuracy", *bootstrap(balanced, rows), draws))
    return result


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of `rows` rows."""
    middle = (share + Z * Z / (2 * rows)) / (1 + Z * Z / rows)
    half = Z * np.sqrt(share * (1 - share) / rows + Z * Z / (4 * rows * rows)) / (1 + Z * Z / rows)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
