"""Bags of words as features: TF-IDF, kNN by cosine, and scikit-learn's logistic regression or ridge regression as the linear probe."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from untaught.evaluation.knn import CHUNK
from untaught.evaluation.linear import FEW

PENALTIES = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C
ITERATIONS = 200
ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of ridge regression on L2-normalised rows
FOLDS = 5


def weigh(train: Any, test: Any) -> tuple[Any, Any]:
    """Counts (N,D), (M,D), sparse -> L2-normalised TF-IDF rows, with document frequencies of the training rows only."""
    from sklearn.feature_extraction.text import TfidfTransformer

    used = np.flatnonzero(np.asarray((train != 0).sum(0)).ravel())  # drops features absent from all training rows
    weights = TfidfTransformer()
    return weights.fit_transform(train[:, used]), weights.transform(test[:, used])


def knn_right(
    bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray, k: tuple[int, ...] = (20, 200), temperature: float = 0.07
) -> dict[int, np.ndarray]:
    """knn.knn_right for sparse L2-normalised rows (N,D), (M,D)."""
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    right: dict[int, list[np.ndarray]] = {count: [] for count in k}
    for start, weight, index in _neighbours(bank, queries, max(k), temperature):
        votes = bank_labels[index]
        for count in k:
            scores = np.zeros((len(index), classes))
            np.add.at(scores, (np.arange(len(index))[:, None], votes[:, :count]), weight[:, :count])
            right[count].append(scores.argmax(1) == query_labels[start : start + len(index)])
    return {count: np.concatenate(parts) for count, parts in right.items()}


def knn_numbers(
    bank: Any, bank_targets: np.ndarray, queries: Any, k: tuple[int, ...] = (20, 200), temperature: float = 0.07
) -> dict[int, np.ndarray]:
    """knn.knn_numbers for sparse L2-normalised rows (N,D), (M,D)."""
    found: dict[int, list[np.ndarray]] = {count: [] for count in k}
    for _, weight, index in _neighbours(bank, queries, max(k), temperature):
        for count in k:
            found[count].append((weight[:, :count] * bank_targets[index[:, :count]]).sum(1) / weight[:, :count].sum(1))
    return {count: np.concatenate(parts) for count, parts in found.items()}


def knn_vectors(
    bank: Any, bank_targets: np.ndarray, queries: Any, k: tuple[int, ...] = (20, 200), temperature: float = 0.07
) -> dict[int, np.ndarray]:
    """knn.knn_vectors for sparse L2-normalised rows (N,D), (M,D)."""
    found: dict[int, list[np.ndarray]] = {count: [] for count in k}
    targets = np.asarray(bank_targets, np.float64)
    for _, weight, index in _neighbours(bank, queries, max(k), temperature):
        for count in k:
            votes = np.zeros((len(index), len(targets)))
            np.put_along_axis(votes, index[:, :count], weight[:, :count] / weight[:, :count].sum(1, keepdims=True), 1)
            found[count].append(votes @ targets)
    return {count: np.concatenate(parts) for count, parts in found.items()}


def _neighbours(bank: Any, queries: Any, most: int, temperature: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """See knn._neighbours."""
    most, height = min(most, bank.shape[0]), max(1, CHUNK // bank.shape[0])
    for start in range(0, queries.shape[0], height):
        near = (queries[start : start + height] @ bank.T).toarray()
        index = np.argpartition(-near, most - 1, axis=1)[:, :most]
        found = np.take_along_axis(near, index, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        yield start, np.exp(np.take_along_axis(found, order, 1) / temperature), np.take_along_axis(index, order, 1)


class SparseProbe:
    """LinearProbe for sparse features; C is chosen by the accuracy on a held-out fifth of the rows."""

    def __init__(self, train: Any, test: Any) -> None:
        self.train, self.test = train, test

    def predict(self, rows: np.ndarray, labels: np.ndarray, seed: int = 0, c: float | None = None) -> tuple[np.ndarray, float]:
        """Fits on these training rows (n,) with labels (n,) -> predicted test labels (M,), and C, given or chosen."""
        if c is None:
            c = 1.0 if len(rows) < FEW * len(np.unique(labels)) else self._choose(rows, labels, seed)
        return _fitted(self.train[rows], labels, c).predict(self.test), c

    def _choose(self, rows: np.ndarray, labels: np.ndarray, seed: int) -> float:
        from sklearn.model_selection import StratifiedKFold

        least = np.unique(labels, return_counts=True)[1].min()
        if least < 2:
            return 1.0
        folds = StratifiedKFold(min(5, least), shuffle=True, random_state=seed)
        fitting, judging = next(folds.split(rows, labels))
        scores = [
            (_fitted(self.train[rows[fitting]], labels[fitting], c).predict(self.train[rows[judging]]) == labels[judging]).mean()
            for c in PENALTIES
        ]
        return PENALTIES[int(np.argmax(scores))]


def _fitted(x: Any, labels: np.ndarray, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # a few labels of many classes
        return LogisticRegression(C=c, max_iter=ITERATIONS).fit(x, labels)


class SparseRidge:
    """RidgeProbe for sparse features; alpha is chosen by the squared error in five-fold cross-validation."""

    def __init__(self, train: Any, test: Any) -> None:
        self.train, self.test = train, test

    def predict(self, rows: np.ndarray, targets: np.ndarray, seed: int = 0, alpha: float | None = None) -> tuple[np.ndarray, float]:
        """Fits on these training rows (n,) with targets (n,) -> predicted test targets (M,), and alpha, given or chosen."""
        if alpha is None:
            alpha = self._choose(rows, targets, seed) if len(rows) >= FOLDS else 1.0
        return _ridge(self.train[rows], targets, alpha).predict(self.test), alpha

    def _choose(self, rows: np.ndarray, targets: np.ndarray, seed: int) -> float:
        from sklearn.model_selection import KFold

        errors = np.zeros(len(ALPHAS))
        for fitting, judging in KFold(FOLDS, shuffle=True, random_state=seed).split(rows):
            for i, alpha in enumerate(ALPHAS):
                fitted = _ridge(self.train[rows[fitting]], targets[fitting], alpha)
                errors[i] += np.square(fitted.predict(self.train[rows[judging]]) - targets[judging]).sum()
        return ALPHAS[int(np.argmin(errors))]


def _ridge(x: Any, targets: np.ndarray, alpha: float) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha, solver="sparse_cg", max_iter=ITERATIONS).fit(x, targets)
