"""Metrics of several classes a sample: mean average precision, micro and macro F1, and the threshold that maximises micro F1."""

from __future__ import annotations

import numpy as np


class Ranking:
    """The samples ranked by the scores (M,K) of each class, whose truth is (M,K) bool: average precision under different counts."""

    def __init__(self, scores: np.ndarray, truth: np.ndarray) -> None:
        order = np.argsort(-scores, axis=0, kind="stable")
        ranked, self.order = np.take_along_axis(scores, order, 0), order
        self.truth = np.take_along_axis(truth, order, 0).astype(np.float64)
        places = np.where(
            np.vstack([ranked[1:] != ranked[:-1], np.ones((1, ranked.shape[1]), bool)]), np.arange(len(ranked))[:, None], len(ranked)
        )
        self.last = np.minimum.accumulate(places[::-1], 0)[::-1]  # samples with equal scores pass a threshold together: the last of them

    def average_precision(self, counts: np.ndarray) -> np.ndarray:
        """(K,) sum over thresholds of the precision times the gain in recall, each sample counted `counts` (M,) times; NaN without a
        positive. As scikit-learn's average_precision_score."""
        weight = counts[self.order]
        hits = np.cumsum(self.truth * weight, 0)
        precision = np.take_along_axis(hits / np.maximum(np.cumsum(weight, 0), 1e-12), self.last, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (precision * self.truth * weight).sum(0) / hits[-1]

    def mean_average_precision(self, counts: np.ndarray) -> float:
        """mAP over the classes with a positive; NaN if there is none."""
        each = self.average_precision(counts)
        known = ~np.isnan(each)
        return float(each[known].mean()) if known.any() else float("nan")


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """scores, truth (M,K) -> mAP over the classes with a positive; NaN if there is none."""
    return Ranking(scores, truth).mean_average_precision(np.ones(len(truth)))


def f1_scores(hits: np.ndarray, claimed: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts per class (..., K) of true positives, predictions and positives -> micro F1 (...), over all pairs of sample and class, and
    macro F1 (...), the mean over the classes that occur or are predicted."""
    micro = 2 * hits.sum(-1) / np.maximum((claimed + actual).sum(-1), 1)
    there = claimed + actual > 0
    each = 2 * hits / np.maximum(claimed + actual, 1)
    return micro, (each * there).sum(-1) / np.maximum(there.sum(-1), 1)


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """scores, truth (M,K) -> the threshold, one for all classes, above which predicting a class maximises micro F1.

    It lies midway between two scores; with no positive, above all scores.
    """
    flat, right = scores.ravel().astype(np.float64), np.asarray(truth, bool).ravel()
    order = np.argsort(-flat, kind="stable")
    ranked, hits = flat[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + right.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = -1  # equal scores pass together
    best = int(f1.argmax())
    if not right.any():
        return float(ranked[0] + 1)
    return float((ranked[best] + ranked[best + 1]) / 2 if best + 1 < len(ranked) else ranked[best] - 1)
