"""Probes for numbers: kNN regression, and ridge regression with all labels and with few; R2, MAE and Spearman's correlation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from untaught.evaluation import low_label, sparse
from untaught.evaluation.interval import Row, bootstrap, row
from untaught.evaluation.knn import knn_numbers
from untaught.evaluation.low_label import USUAL, Plan
from untaught.evaluation.ridge import RidgeProbe


def probes(
    train: Any, train_targets: np.ndarray, test: Any, test_targets: np.ndarray, plan: Plan = USUAL
) -> Iterator[tuple[str, list[Row]]]:
    """See battery.Probes.run; features (N,D), (M,D), targets float."""
    yield "kNN", []
    rows = knn_rows(train, train_targets, test, test_targets)
    yield "ridge", rows
    probe = ridge_probe(train, test)
    guess, _ = probe.predict(np.arange(len(train_targets)), train_targets)
    rows = number_rows("ridge", "all", guess[None], test_targets)
    for setting in low_label.possible(train_targets, plan):
        yield f"ridge {setting}", rows
        rows = number_rows("ridge", setting, low_label.guesses(probe, setting, train_targets), test_targets)
    yield "", rows


def ridge_probe(train: Any, test: Any) -> RidgeProbe | sparse.SparseRidge:
    """Ridge regression for dense or sparse features."""
    return RidgeProbe(train, test) if isinstance(train, np.ndarray) else sparse.SparseRidge(*sparse.weigh(train, test))


def inner(train: Any, train_targets: np.ndarray, test: Any, test_targets: np.ndarray) -> list[Row]:
    """Rows of ridge-inner: ridge regression with all labels, on features of an inner layer."""
    guess, _ = ridge_probe(train, test).predict(np.arange(len(train_targets)), train_targets)
    return number_rows("ridge-inner", "all", guess[None], test_targets)


def count(train_targets: np.ndarray, plan: Plan = USUAL) -> int:
    """Number of steps of `probes`."""
    return 2 + len(low_label.possible(train_targets, plan))


def knn_rows(bank: Any, bank_targets: np.ndarray, queries: Any, query_targets: np.ndarray) -> list[Row]:
    """Rows of knn20 and knn200."""
    found = _knn(bank, bank_targets, queries)
    return [row for k, guess in found.items() for row in number_rows(f"knn{k}", "all", guess[None], query_targets)]


def watch(bank: Any, bank_targets: np.ndarray, queries: Any, query_targets: np.ndarray) -> dict[str, float]:
    """R2 of kNN regression: knn20_r2, knn200_r2; {} if the queries' targets are all equal."""
    total = np.square(query_targets - query_targets.mean()).sum()
    found = _knn(bank, bank_targets, queries) if total > 0 else {}
    return {f"knn{k}_r2": float(1 - np.square(guess - query_targets).sum() / total) for k, guess in found.items()}


def _knn(bank: Any, targets: np.ndarray, queries: Any) -> dict[int, np.ndarray]:
    if isinstance(bank, np.ndarray):
        return knn_numbers(bank, targets, queries)
    bank, queries = sparse.weigh(bank, queries)
    return sparse.knn_numbers(bank, targets, queries)


def number_rows(probe: str, labels: str, guess: np.ndarray, truth: np.ndarray) -> list[Row]:
    """guess (draws, M), truth (M,) -> rows of R2, mean absolute error and Spearman's correlation; only the error if the truth has no
    variance."""
    draws, rows = guess.shape
    error, absolute = np.square(guess - truth), np.abs(guess - truth)

    def mae(counts: np.ndarray) -> np.ndarray:
        return absolute @ counts / rows

    def r2(counts: np.ndarray) -> np.ndarray:
        total = (counts * np.square(truth - truth @ counts / rows)).sum()
        return 1 - error @ counts / total if total > 0 else np.full(draws, np.nan)

    orders, order = [Order(one) for one in guess], Order(truth)

    def spearman(counts: np.ndarray) -> np.ndarray:
        own = order.ranks(counts)
        return np.array([correlation(one.ranks(counts), own, counts) for one in orders])

    found = [row(probe, labels, "mae", *bootstrap(mae, rows, 0.0, np.inf), draws)]
    if truth.max() > truth.min():
        more = [("r2", r2, -np.inf), ("spearman", spearman, -1.0)]
        found = [*(row(probe, labels, name, *bootstrap(score, rows, low, 1.0), draws) for name, score, low in more), *found]
    return found


class Order:
    """Values (M,), ranked repeatedly with different counts."""

    def __init__(self, values: np.ndarray) -> None:
        self.place = np.unique(values, return_inverse=True)[1]  # index of each among the distinct values

    def ranks(self, counts: np.ndarray) -> np.ndarray:
        """The rank (M,) of each value, each occurring `counts` (M,) times; ties get the mean of their ranks."""
        each = np.bincount(self.place, counts)
        return (np.cumsum(each) - (each - 1) / 2)[self.place]


def correlation(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> float:
    """Pearson's correlation of a and b (M,) with counts (M,); 0 if either is constant."""
    total = counts.sum()
    a, b = a - a @ counts / total, b - b @ counts / total
    scale = np.sqrt((counts * a * a).sum() * (counts * b * b).sum())
    return float((counts * a * b).sum() / scale) if scale > 0 else 0.0
