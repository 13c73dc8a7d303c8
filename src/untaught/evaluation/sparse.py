"""Bags of words as features: weighted by TF-IDF, compared by cosine, told apart by scikit-learn's logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np

from untaught.evaluation.knn import CHUNK
from untaught.evaluation.linear import FEW

PENALTIES = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C
ITERATIONS = 200


def weigh(train: Any, test: Any) -> tuple[Any, Any]:
    """Counts (N,D), (M,D), sparse -> TF-IDF of length 1 a row, document frequencies of the training rows alone."""
    from sklearn.feature_extraction.text import TfidfTransformer

    used = np.flatnonzero(np.asarray((train != 0).sum(0)).ravel())  # what no training row has can't be learned
    weights = TfidfTransformer()
    return weights.fit_transform(train[:, used]), weights.transform(test[:, used])


def knn_right(
    bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray, k: tuple[int, ...] = (20, 200), temperature: float = 0.07
) -> dict[int, np.ndarray]:
    """As knn.knn_right, of rows of length 1 (N,D), (M,D), sparse."""
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    most = min(max(k), bank.shape[0])
    right: dict[int, list[np.ndarray]] = {count: [] for count in k}
    height = max(1, CHUNK // bank.shape[0])
    for start in range(0, queries.shape[0], height):
        near = (queries[start : start + height] @ bank.T).toarray()
        index = np.argpartition(-near, most - 1, axis=1)[:, :most]
        found = np.take_along_axis(near, index, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        index, found = np.take_along_axis(index, order, 1), np.take_along_axis(found, order, 1)
        votes, weight = bank_labels[index], np.exp(found / temperature)
        for count in k:
            scores = np.zeros((len(near), classes))
            np.add.at(scores, (np.arange(len(near))[:, None], votes[:, :count]), weight[:, :count])
            right[count].append(scores.argmax(1) == query_labels[start : start + height])
    return {count: np.concatenate(parts) for count, parts in right.items()}


class SparseProbe:
    """`predict` as LinearProbe's, of sparse features; C is chosen by the accuracy on a fifth of the rows."""

    def __init__(self, train: Any, test: Any) -> None:
        self.train, self.test = train, test

    def predict(self, rows: np.ndarray, labels: np.ndarray, seed: int = 0, c: float | None = None) -> tuple[np.ndarray, float]:
        """Fits on these training rows (n,) with labels (n,) -> the test part's labels (M,), and the C that was given or chosen."""
        if c is None:
            c = 1.0 if len(rows) < FEW * len(np.unique(labels)) else self._choose(rows, labels, seed)
        return _fitted(self.train[rows], labels, c).predict(self.test), c

    def _choose(self, rows: np.ndarray, labels: np.ndarray, seed: int) -> float:
        from sklearn.model_selection import StratifiedKFold

        least = np.unique(labels, return_counts=True)[1].min()
        if least < 2:
            return 1.0
        folds = StratifiedKFold(min(5, least), shuffle=True, random_state=seed)
        kept, judging = next(folds.split(rows, labels))
        scores = [
            (_fitted(self.train[rows[kept]], labels[kept], c).predict(self.train[rows[judging]]) == labels[judging]).mean()
            for c in PENALTIES
        ]
        return PENALTIES[int(np.argmax(scores))]


def _fitted(x: Any, labels: np.ndarray, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=ITERATIONS).fit(x, labels)
