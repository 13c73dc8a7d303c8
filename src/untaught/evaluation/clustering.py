"""Class structure without a trained probe: k-means, and the agreement of its clusters with the classes."""

from __future__ import annotations

import warnings

import numpy as np

from untaught.evaluation.interval import Row, bootstrap, row

SEEDS = 10
LOWEST = {"nmi": 0.0, "ari": -0.5, "accuracy": 0.0}


def kmeans_rows(features: np.ndarray, labels: np.ndarray) -> list[Row]:
    """k-means on L2-normalised features (N,D), as many clusters as classes, against labels (N,), over ten initialisations.

    nmi: mutual information over the mean entropy; ari: the Rand index adjusted for chance (Hubert and Arabie 1985);
    accuracy: under the best one-to-one assignment of clusters to classes (Kuhn 1955).
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    classes, truth = np.unique(labels, return_inverse=True)
    points = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # with fewer distinct points than classes, there are fewer clusters
        clusters = [KMeans(min(len(classes), len(points)), max_iter=100, random_state=seed).fit_predict(points) for seed in range(SEEDS)]
    cells = [cluster * len(classes) + truth for cluster in clusters]

    def score(metric: str, counts: np.ndarray) -> np.ndarray:
        size = len(classes) ** 2
        return np.array([METRICS[metric](np.bincount(cell, counts, size).reshape(len(classes), -1)) for cell in cells])

    return [
        row("kmeans", "none", metric, *bootstrap(lambda counts, metric=metric: score(metric, counts), len(labels), LOWEST[metric]), SEEDS)
        for metric in METRICS
    ]


def nmi(table: np.ndarray) -> float:
    """Normalised mutual information (arithmetic mean) of a contingency table (clusters, classes) of counts."""
    p = table / table.sum()
    a, b = p.sum(1), p.sum(0)
    entropy = _entropy(a) + _entropy(b)
    return 1.0 if entropy == 0 else max(0.0, 2 * (entropy - _entropy(p)) / entropy)


def ari(table: np.ndarray) -> float:
    """Adjusted Rand index of a contingency table (clusters, classes) of counts."""
    pairs = lambda n: float((n * (n - 1) / 2).sum())  # noqa: E731
    both, a, b, every = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    chance = a * b / every if every else 0.0
    best = (a + b) / 2
    return 1.0 if best == chance else (both - chance) / (best - chance)


def matched(table: np.ndarray) -> float:
    """Accuracy under the best one-to-one assignment of a contingency table (clusters, classes)."""
    from scipy.optimize import linear_sum_assignment

    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


METRICS = {"nmi": nmi, "ari": ari, "accuracy": matched}
