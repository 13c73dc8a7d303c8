"""Anomaly scores of the windows of series, by distance to other windows and by classical detectors, and their measures.

Every detector gives one number per window, higher where more anomalous. It is the score of the step in the middle of the window; between
middles, scores are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from untaught.evaluation.interval import Row, measure, row
from untaught.evaluation.range_precision import auc_pr, period, vus_pr

PROBE = "anomaly"
CHUNK = 1 << 24  # distances at once
TREES = 100
LEAST_SHARE = 1e-12  # of the variance, of a component


class Windows(NamedTuple):
    """Where the windows of several series lie."""

    length: int
    series: np.ndarray  # (N,) number of the series
    starts: np.ndarray  # (N,) first step

    @classmethod
    def of(cls, steps: Sequence[int], length: int, stride: int) -> Windows:
        """One every `stride` steps of series of these numbers of steps, none shorter than `length`, and one at the end of each."""
        starts = [np.unique(np.append(np.arange(0, count - length, stride), count - length)) for count in steps]
        return cls(length, np.repeat(np.arange(len(steps)), [len(each) for each in starts]), np.concatenate(starts))

    def spread(self, scores: np.ndarray, steps: Sequence[int]) -> list[np.ndarray]:
        """Scores of windows (N,) -> of the steps of every series (T,)."""
        middles = self.starts + (self.length - 1) / 2
        own = [self.series == number for number in range(len(steps))]
        return [np.interp(np.arange(count), middles[rows], scores[rows]) for count, rows in zip(steps, own, strict=True)]


def knn_distance(known: np.ndarray, queries: np.ndarray, neighbours: int, windows: Windows | None = None) -> np.ndarray:
    """known (N,D), queries (M,D) -> Euclidean distance to the `neighbours`-th nearest of the known ones (M,).

    windows: of both, if the queries are the known ones; then windows that overlap with a query are not its neighbours. With fewer
    neighbours than asked for, the distance is to the farthest.
    """
    squares = (known.astype(np.float64) ** 2).sum(1)
    found = np.empty(len(queries))
    each = max(1, CHUNK // len(known))
    for first in range(0, len(queries), each):
        part = queries[first : first + each]
        distance = squares - 2.0 * (part @ known.T) + (part.astype(np.float64) ** 2).sum(1)[:, None]
        if windows is not None:
            rows = slice(first, first + len(part))
            near = np.abs(windows.starts[rows, None] - windows.starts) < windows.length
            distance[near & (windows.series[rows, None] == windows.series)] = np.inf
        others = np.isfinite(distance).sum(1).clip(min=1)
        kth = np.minimum(neighbours, others) - 1
        ordered = np.sort(np.partition(distance, min(neighbours, len(known)) - 1, axis=1)[:, :neighbours], axis=1)
        chosen = ordered[np.arange(len(part)), kth]
        found[first : first + each] = np.sqrt(np.maximum(np.where(np.isfinite(chosen), chosen, 0.0), 0.0))
    return found


def sub_pca(known: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """known (N,D), queries (M,D), windows as rows -> (M,): the sum over the principal components of standardised known windows of a
    window's distance to the unit vector of the component, over the share of variance that it explains.

    Sub-PCA as in TSB-AD (Liu, Paparrizos, NeurIPS 2024), which takes the score from PyOD.
    """
    mean, std = known.mean(0), known.std(0)
    std = np.where(std > 0, std, 1.0)
    known, queries = (known - mean) / std, (queries - mean) / std
    _, values, components = np.linalg.svd(known, full_matrices=False)
    largest = components[np.arange(len(components)), np.abs(components).argmax(1)]
    components = (
        components * np.where(largest < 0, -1.0, 1.0)[:, None]
    )  # scikit-learn's choice of sign, on which the score depends a little
    share = np.maximum(values**2 / max(float((values**2).sum()), 1e-300), LEAST_SHARE)
    square = (queries**2).sum(1)[:, None] - 2 * queries @ components.T + 1
    return (np.sqrt(np.maximum(square, 0.0)) / share).sum(1)


def isolation_forest(known: np.ndarray, queries: np.ndarray, seed: int) -> np.ndarray:
    """Isolation forest of windows as rows (Liu, Ting, Zhou, ICDM 2008): known (N,D), queries (M,D) -> (M,)."""
    from sklearn.ensemble import IsolationForest

    return -IsolationForest(n_estimators=TREES, random_state=seed).fit(known).score_samples(queries)


def anomaly_rows(
    labels: Sequence[np.ndarray | None], scores: Sequence[np.ndarray], first: Sequence[np.ndarray], names: Sequence[str]
) -> list[Row]:
    """Rows of VUS-PR and AUC-PR: the mean over series, its interval from a bootstrap over them if there are several, and one of each.

    labels, scores, first: (T,) of each series, the last its first channel; the longest buffer is its period. Series with None, or of which
    no step or every step is labelled, are left out.
    """
    usable = [i for i, marks in enumerate(labels) if marks is not None and 0 < marks.sum() < len(marks)]
    if not usable:
        return []
    outcome = []
    for i in usable:
        marks = labels[i]
        assert marks is not None
        outcome.append((vus_pr(marks, scores[i], period(first[i])), auc_pr(marks, scores[i])))
    metrics = ("vus_pr", "auc_pr")
    found: list[Row] = []
    means = measure(lambda part: dict(zip(metrics, part.mean(0), strict=True)), [np.array(outcome)], (0.0, 1.0))
    for metric, one in means.items():
        made = row(PROBE, "none", metric, one.mean, *one.interval, 1)
        found.append(made if len(usable) > 1 else {key: value for key, value in made.items() if key not in ("low", "high")})
    for place, metric in enumerate(metrics):
        for i, values in zip(usable, outcome, strict=True):
            found.append({"probe": PROBE, "labels": "none", "metric": metric, "mean": values[place], "draws": 1, "group": names[i]})
    return found
