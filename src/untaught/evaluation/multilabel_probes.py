"""Probes for several classes a sample: kNN, and one-vs-rest logistic regression with all labels and with few; mAP and F1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from untaught.evaluation import low_label, sparse
from untaught.evaluation.interval import Row, bootstrap, row
from untaught.evaluation.knn import knn_vectors
from untaught.evaluation.low_label import USUAL, Plan
from untaught.evaluation.multilabel import Ranking, f1_scores, mean_average_precision
from untaught.evaluation.one_vs_rest import OneVsRest, SparseOneVsRest


def probes(train: Any, train_labels: np.ndarray, test: Any, test_labels: np.ndarray, plan: Plan = USUAL) -> Iterator[tuple[str, list[Row]]]:
    """See battery.Probes.run; features (N,D), (M,D), labels (N,K), (M,K) of 0 and 1."""
    yield "kNN", []
    rows = knn_rows(train, train_labels, test, test_labels)
    yield "linear", rows
    probe = linear_probe(train, test)
    scores, _ = probe.predict(np.arange(len(train_labels)), train_labels)
    rows = set_rows("linear", "all", scores[None], test_labels)
    for setting in low_label.possible(train_labels, plan):
        yield f"linear {setting}", rows
        rows = set_rows("linear", setting, low_label.guesses(probe, setting, train_labels), test_labels)
    yield "", rows


def linear_probe(train: Any, test: Any) -> OneVsRest | SparseOneVsRest:
    """The probe for dense or sparse features."""
    return OneVsRest(train, test) if isinstance(train, np.ndarray) else SparseOneVsRest(*sparse.weigh(train, test))


def inner(train: Any, train_labels: np.ndarray, test: Any, test_labels: np.ndarray) -> list[Row]:
    """Rows of linear-inner: the probe with all labels, on features of an inner layer."""
    scores, _ = linear_probe(train, test).predict(np.arange(len(train_labels)), train_labels)
    return set_rows("linear-inner", "all", scores[None], test_labels)


def count(train_labels: np.ndarray, plan: Plan = USUAL) -> int:
    """Number of steps of `probes`."""
    return 2 + len(low_label.possible(train_labels, plan))


def knn_rows(bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray) -> list[Row]:
    """Rows of knn20 and knn200: a class is scored by its share of the votes; mAP only, as the shares suggest no threshold."""
    found = _knn(bank, bank_labels, queries)
    return [row for k, votes in found.items() for row in set_rows(f"knn{k}", "all", votes[None], query_labels, decided=False)]


def watch(bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray) -> dict[str, float]:
    """mAP of kNN: knn20_map, knn200_map; {} if no query has a class."""
    found = _knn(bank, bank_labels, queries) if (query_labels == 1).any() else {}
    return {f"knn{k}_map": mean_average_precision(votes, query_labels == 1) for k, votes in found.items()}


def _knn(bank: Any, labels: np.ndarray, queries: Any) -> dict[int, np.ndarray]:
    if isinstance(bank, np.ndarray):
        return knn_vectors(bank, labels, queries)
    bank, queries = sparse.weigh(bank, queries)
    return sparse.knn_vectors(bank, labels, queries)


def set_rows(probe: str, labels: str, scores: np.ndarray, truth: np.ndarray, decided: bool = True) -> list[Row]:
    """scores (draws,M,K), above 0 where a class is predicted, truth (M,K) of 0 and 1 -> rows of mAP and, if `decided`, of F1."""
    draws, rows, _ = scores.shape
    positive = truth == 1
    rankings = [Ranking(one, positive) for one in scores]
    result: list[Row] = []
    if positive.any():
        result.append(
            row(
                probe,
                labels,
                "map",
                *bootstrap(lambda counts: np.array([each.mean_average_precision(counts) for each in rankings]), rows),
                draws,
            )
        )
    if decided:
        claimed = (scores > 0).astype(np.float32)
        hits, actual = claimed * positive, positive.astype(np.float32)

        def f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            weights = counts.astype(np.float32)
            return f1_scores(np.einsum("m,dmk->dk", weights, hits), np.einsum("m,dmk->dk", weights, claimed), weights @ actual)

        for place, name in enumerate(("micro_f1", "macro_f1")):
            result.append(row(probe, labels, name, *bootstrap(lambda counts, place=place: f1(counts)[place], rows), draws))
    return result
