"""Probes for class labels: kNN, the linear probe with all labels and with few, and k-means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from untaught.evaluation import low_label, sparse
from untaught.evaluation.clustering import kmeans_rows
from untaught.evaluation.interval import Row, accuracy_rows
from untaught.evaluation.knn import knn_right
from untaught.evaluation.linear import LinearProbe
from untaught.evaluation.low_label import USUAL, Plan


def probes(train: Any, train_labels: np.ndarray, test: Any, test_labels: np.ndarray, plan: Plan = USUAL) -> Iterator[tuple[str, list[Row]]]:
    """See battery.Probes.run; features (N,D), (M,D), labels int from 0."""
    yield "kNN", []
    rows = knn_rows(train, train_labels, test, test_labels)
    yield "linear", rows
    probe = linear_probe(train, test)
    guess, _ = probe.predict(np.arange(len(train_labels)), train_labels)
    rows = accuracy_rows("linear", "all", (guess == test_labels)[None], test_labels)
    for setting in low_label.possible(train_labels, plan):
        yield f"linear {setting}", rows
        rows = accuracy_rows("linear", setting, low_label.guesses(probe, setting, train_labels) == test_labels, test_labels)
    if plan.noise:
        yield "linear, wrong labels", rows
        guess, _ = probe.predict(np.arange(len(train_labels)), low_label.noisy(train_labels, plan.noise, seed=0))
        rows = accuracy_rows("linear", low_label.noise_name(plan.noise), (guess == test_labels)[None], test_labels)
    del probe
    if isinstance(test, np.ndarray):
        yield "k-means", rows
        rows = kmeans_rows(test, test_labels)
    yield "", rows


def inner(train: Any, train_labels: np.ndarray, test: Any, test_labels: np.ndarray) -> list[Row]:
    """Rows of linear-inner: the linear probe with all labels, on features of an inner layer."""
    guess, _ = linear_probe(train, test).predict(np.arange(len(train_labels)), train_labels)
    return accuracy_rows("linear-inner", "all", (guess == test_labels)[None], test_labels)


def count(train_labels: np.ndarray, plan: Plan = USUAL) -> int:
    """Number of steps of `probes`."""
    return 3 + len(low_label.possible(train_labels, plan)) + bool(plan.noise)


def linear_probe(train: Any, test: Any) -> LinearProbe | sparse.SparseProbe:
    """The linear probe for dense or sparse features."""
    return LinearProbe(train, test) if isinstance(train, np.ndarray) else sparse.SparseProbe(*sparse.weigh(train, test))


def knn_rows(bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray) -> list[Row]:
    """Rows of knn20 and knn200."""
    found = _knn(bank, bank_labels, queries, query_labels)
    return [row for k, right in found.items() for row in accuracy_rows(f"knn{k}", "all", right[None], query_labels)]


def watch(bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray) -> dict[str, float]:
    """kNN accuracy: knn20, knn200."""
    return {f"knn{k}": float(right.mean()) for k, right in _knn(bank, bank_labels, queries, query_labels).items()}


def _knn(bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray) -> dict[int, np.ndarray]:
    if isinstance(bank, np.ndarray):
        return knn_right(bank, bank_labels, queries, query_labels)
    bank, queries = sparse.weigh(bank, queries)
    return sparse.knn_right(bank, bank_labels, queries, query_labels)
