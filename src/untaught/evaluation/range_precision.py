"""Scores of anomaly detection in series, of which neither a threshold nor a point adjustment is part: VUS-PR and AUC-PR.

VUS-PR is the volume under the surface of precision, recall and buffer length (Paparrizos, Boniol, Palpanas, Tsay, Elmore, Franklin,
PVLDB 2022, https://www.vldb.org/pvldb/vol15/p2774-paparrizos.pdf): steps up to half a buffer before and behind a labelled range count in
part, recall is multiplied by the share of ranges that are hit at all, and the area under precision and recall is averaged over buffers of
0 to the length of a window. As in the authors' code, precision and recall are taken at 250 thresholds.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from untaught.core import UserError

THRESHOLDS = 250
LAGS, SHORTEST, LONGEST, NO_PERIOD = 400, 6, 303, 125  # of the period, as in the authors' code
HEAD = 20_000  # steps that the period is estimated from

Ranges = list[tuple[int, int]]  # first and last step


def auc_pr(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of scores (T,) for labels (T,) bool, step by step."""
    from sklearn.metrics import average_precision_score

    _check(labels)
    return float(average_precision_score(labels, scores))


def vus_pr(labels: np.ndarray, scores: np.ndarray, buffer: int) -> float:
    """labels (T,) bool, scores (T,), higher where more anomalous -> in 0..1. buffer: the longest, in steps.

    Raises UserError if no step or every step is labelled.
    """
    _check(labels)
    ranges = ranges_of(labels)
    order = np.argsort(-scores, kind="stable")
    thresholds = scores[order][np.linspace(0, len(scores) - 1, THRESHOLDS).astype(int)]
    count = np.searchsorted(-scores[order], -thresholds, side="right")  # steps at or above each threshold
    hit = np.concatenate([[0.0], np.cumsum(labels[order])])[count]
    return float(np.mean([_area(labels, ranges, scores, order, thresholds, count, hit, length) for length in range(buffer + 1)]))


def _area(
    labels: np.ndarray,
    ranges: Ranges,
    scores: np.ndarray,
    order: np.ndarray,
    thresholds: np.ndarray,
    count: np.ndarray,
    hit: np.ndarray,
    length: int,
) -> float:
    """The area under precision and recall with a buffer of `length` steps. hit: labelled steps at or above each threshold."""
    near = buffered(ranges, len(labels), length) * ~labels
    part = np.concatenate([[0.0], np.cumsum(near[order])])[count]
    positives = labels.sum() + part / 2  # the mean of the ranges with and without what was hit of the buffers
    found = np.mean([scores[first : last + 1].max() >= thresholds for first, last in merged(ranges, len(labels), length)], 0)
    recall = np.minimum((hit + part) / positives, 1) * found
    return float((np.diff(recall, prepend=0.0) * (hit + part) / count).sum())


def buffered(ranges: Ranges, steps: int, length: int) -> np.ndarray:
    """(T,): 1 in the ranges, falling from their ends over half of `length` as sqrt(1 - distance / length)."""
    label = np.zeros(steps)
    for first, last in ranges:
        label[first : last + 1] = 1
        behind, before = np.arange(last + 1, min(last + length // 2 + 1, steps)), np.arange(max(first - length // 2, 0), first)
        label[behind] += np.sqrt(1 - (behind - last) / max(length, 1))
        label[before] += np.sqrt(1 - (first - before) / max(length, 1))
    return np.minimum(label, 1)


def merged(ranges: Ranges, steps: int, length: int) -> Ranges:
    """The ranges with half of `length` on both sides; those that touch become one."""
    half = length // 2
    breaks = [(one[1] + half, other[0] - half) for one, other in pairwise(ranges) if one[1] + half < other[0] - half]
    starts = [max(ranges[0][0] - half, 0), *(start for _, start in breaks)]
    return list(zip(starts, [*(end for end, _ in breaks), min(ranges[-1][1] + half, steps - 1)], strict=True))


def ranges_of(labels: np.ndarray) -> Ranges:
    """The runs of labelled steps (T,) bool."""
    edges = np.diff(np.concatenate([[0], labels.astype(np.int8), [0]]))
    return [(int(first), int(last) - 1) for first, last in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)]


def period(values: np.ndarray) -> int:
    """The period of a series (T,) in steps: the lag of the highest local maximum of its autocorrelation, 6 to 303; else 125.

    It is the length of the window, and of the longest buffer, in the evaluations of VUS's authors.
    """
    x = values[:HEAD] - values[:HEAD].mean()
    size = 1 << (2 * len(x) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(x, size)) ** 2
    correlation = np.fft.irfft(spectrum, size)[3 : min(LAGS + 1, len(x))]
    middle = correlation[1:-1]
    peaks = 1 + np.flatnonzero((middle > correlation[:-2]) & (middle > correlation[2:]))
    if not len(peaks):
        return NO_PERIOD
    best = int(peaks[correlation[peaks].argmax()]) + 3
    return best if SHORTEST <= best <= LONGEST else NO_PERIOD


def _check(labels: np.ndarray) -> None:
    if labels.all() or not labels.any():
        raise UserError(f"{'every' if labels.any() else 'no'} step of {len(labels):,} is labelled as an anomaly; both kinds are needed")
