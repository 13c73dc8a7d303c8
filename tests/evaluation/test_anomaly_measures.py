"""VUS-PR and the detectors on windows, against plain loops over their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from untaught.core import UserError
from untaught.evaluation.anomaly import Windows, anomaly_rows, knn_distance, sub_pca
from untaught.evaluation.range_precision import auc_pr, period, ranges_of, vus_pr


def looped_vus_pr(labels: list[bool], scores: list[float], longest: int) -> float:
    """Paparrizos et al. 2022, sections 3 and 4, step by step."""
    steps = len(labels)
    ranges = [
        (i, next((j for j in range(i, steps) if not labels[j]), steps) - 1) for i in range(steps) if labels[i] and not (i and labels[i - 1])
    ]
    descending = sorted(scores, reverse=True)
    areas = []
    for buffer in range(longest + 1):
        soft = [0.0] * steps
        for t in range(steps):
            for first, last in ranges:
                apart = max(first - t, t - last, 0)
                if apart == 0:
                    soft[t] += 1.0
                elif apart <= buffer // 2:
                    soft[t] += (1 - apart / buffer) ** 0.5
            soft[t] = min(soft[t], 1.0)
        joined: list[list[int]] = []
        for first, last in ranges:
            start, end = max(first - buffer // 2, 0), min(last + buffer // 2, steps - 1)
            if joined and first - buffer // 2 <= joined[-1][1]:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        area = before = 0.0
        for k in range(250):
            threshold = descending[int(k * (steps - 1) / 249)]
            flagged = [score >= threshold for score in scores]
            hit = sum(soft[t] for t in range(steps) if flagged[t])
            beside = sum(soft[t] for t in range(steps) if flagged[t] and not labels[t])
            positives = (sum(labels) + sum(labels) + beside) / 2
            exists = sum(any(flagged[start : end + 1]) for start, end in joined) / len(joined)
            recall = min(hit / positives, 1.0) * exists
            area += (recall - before) * hit / sum(flagged)
            before = recall
        areas.append(area)
    return sum(areas) / len(areas)


@pytest.mark.parametrize("seed", range(4))
def test_vus_pr_is_that_of_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.zeros(140, bool)
    for start in random.integers(0, 130, 3):
        labels[start : start + random.integers(1, 9)] = True
    scores = random.normal(size=140) + 1.5 * labels
    if seed % 2:
        scores = scores.round(1)  # ties
    assert vus_pr(labels, scores, 13) == pytest.approx(looped_vus_pr(labels.tolist(), scores.tolist(), 13), abs=1e-12)


def test_a_score_beside_the_range_counts_in_part_for_vus_pr_and_not_for_auc_pr() -> None:
    labels = np.zeros(400, bool)
    labels[200:220] = True
    late, off = np.roll(labels, 12).astype(float), np.roll(labels, 150).astype(float)
    assert vus_pr(labels, labels.astype(float), 40) > 0.95
    assert vus_pr(labels, late, 40) > vus_pr(labels, late, 4) + 0.1 > vus_pr(labels, off, 40) + 0.1
    assert auc_pr(labels, labels.astype(float)) == 1


def test_labels_of_one_kind_can_not_be_scored() -> None:
    for labels, said in ((np.zeros(9, bool), "no step of 9"), (np.ones(9, bool), "every step of 9")):
        with pytest.raises(UserError, match=said):
            vus_pr(labels, np.arange(9.0), 3)
    assert anomaly_rows([None, np.zeros(9, bool)], [np.arange(9.0)] * 2, [np.arange(9.0)] * 2, ["a", "b"]) == []


def test_ranges_touch_both_ends() -> None:
    assert ranges_of(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 1), (3, 3), (6, 6)]


def test_the_period_is_that_of_a_wave_and_125_without_one() -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 3000)
    assert period(np.sin(2 * np.pi * np.arange(3000) / 48) + noise) == 48
    assert period(np.arange(3000.0)) == period(np.zeros(50)) == 125


def test_neighbours_are_windows_that_do_not_overlap() -> None:
    windows = Windows.of([30, 17], 5, 2)
    x = np.random.default_rng(0).normal(size=(len(windows.starts), 3))
    expected = []
    for i in range(len(x)):
        apart = [
            np.linalg.norm(x[i] - x[j])
            for j in range(len(x))
            if windows.series[i] != windows.series[j] or abs(int(windows.starts[i]) - int(windows.starts[j])) >= 5
        ]
        expected.append(sorted(apart)[2])
    np.testing.assert_allclose(knn_distance(x, x, 3, windows), expected, rtol=1e-6)
    np.testing.assert_allclose(knn_distance(x[:4], x[4:5], 99), max(np.linalg.norm(x[:4] - x[4], axis=1)), rtol=1e-6)


def test_windows_reach_the_end_and_scores_lie_in_their_middles() -> None:
    windows = Windows.of([10, 6], 4, 4)
    assert list(zip(windows.series.tolist(), windows.starts.tolist(), strict=True)) == [(0, 0), (0, 4), (0, 6), (1, 0), (1, 2)]
    first, second = windows.spread(np.array([1.0, 5.0, 9.0, 2.0, 4.0]), [10, 6])
    np.testing.assert_allclose(first[[0, 1, 3, 9]], [1, 1, 2.5, 9])
    np.testing.assert_allclose(second[[0, 2, 5]], [2, 2.5, 4])


def test_sub_pca_is_the_weighted_distance_to_the_components() -> None:
    random = np.random.default_rng(0)
    known, queries = random.normal(size=(40, 4)) * [3, 2, 1, 1], random.normal(size=(5, 4))
    found = sub_pca(known, queries)
    scaler = StandardScaler().fit(known)
    pca: Any = PCA().fit(scaler.transform(known))
    for score, row in zip(found, scaler.transform(queries), strict=True):
        each = zip(pca.components_, pca.explained_variance_ratio_, strict=True)
        assert score == pytest.approx(sum(np.linalg.norm(row - component) / share for component, share in each))
