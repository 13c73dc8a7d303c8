"""Clustering and spectrum against scikit-learn and plain formulas; intervals against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from untaught.evaluate import clustering, spectrum
from untaught.evaluate.battery import Encoded, battery, steps
from untaught.evaluate.interval import accuracy_rows, bootstrap, wilson

Labels = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def blobs() -> Labels:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 240)
    return (random.normal(size=(3, 12)) * 2)[labels].astype(np.float32) + random.normal(size=(240, 12)).astype(np.float32), labels


def test_clusters_are_scored_as_scikit_learn_does() -> None:
    random = np.random.default_rng(0)
    truth, found = random.integers(0, 4, 200), random.integers(0, 4, 200)
    found[:120] = (truth[:120] + 1) % 4
    table = np.asarray(metrics.cluster.contingency_matrix(found, truth))
    assert clustering.nmi(table) == pytest.approx(metrics.normalized_mutual_info_score(truth, found))
    assert clustering.ari(table) == pytest.approx(metrics.adjusted_rand_score(truth, found))
    assert clustering.matched(table) == pytest.approx(np.mean((found - 1) % 4 == truth), abs=0.05)
    assert clustering.matched(np.diag([3, 1, 2])[::-1]) == 1.0


def test_rankme_counts_directions() -> None:
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 8)))[0]
    assert spectrum.rankme(axes) == pytest.approx(8, rel=1e-3)
    assert spectrum.rankme(axes[:, :1] @ np.ones((1, 8))) == pytest.approx(1, rel=1e-2)
    x = np.random.default_rng(1).normal(size=(40, 5)) * [5, 4, 3, 2, 1]
    p = np.linalg.svd(x, compute_uv=False)
    p = p / p.sum()
    assert spectrum.rankme(x) == pytest.approx(math.exp(-sum(q * math.log(q) for q in p)), rel=1e-4)


def test_alpha_is_the_slope_of_a_power_law() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(4000, 120))
    rows = np.linalg.qr(rows - rows.mean(0))[0]  # no correlation by chance
    for alpha in (0.5, 1.5):
        assert spectrum.alpha_req(rows * np.arange(1, 121) ** (-alpha / 2) + 3) == pytest.approx(alpha, abs=1e-3)


def test_alignment_and_uniformity_are_their_formulas() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(9, 4)), random.normal(size=(9, 4))
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    apart = [sum((unit(x) - unit(y)) ** 2) for x, y in zip(a, b, strict=True)]
    assert spectrum.alignment(a, b) == pytest.approx(np.mean(apart))
    pairs = [math.exp(-2 * sum((unit(a[i]) - unit(a[j])) ** 2)) for i in range(9) for j in range(9) if i != j]
    assert spectrum.uniformity(a) == pytest.approx(math.log(np.mean(pairs)))
    assert spectrum.alignment(a, 3 * a) == pytest.approx(0)
    assert spectrum.uniformity(np.ones((5, 3))) == pytest.approx(0)


def test_the_jackknife_is_near_the_spread_of_new_samples() -> None:
    random = np.random.default_rng(0)
    scale = np.geomspace(1, 0.05, 16)
    found = [spectrum.spectrum_rows(random.normal(size=(300, 16)) * scale)[0] for _ in range(40)]
    half = np.mean([row["high"] - row["mean"] for row in found])
    assert half == pytest.approx(1.96 * np.std([row["mean"] for row in found]), rel=0.5)


def test_an_interval_of_one_draw_is_that_of_a_share() -> None:
    right = np.random.default_rng(0).random((1, 2000)) < 0.7
    row = accuracy_rows("p", "all", right, np.zeros(2000, int))[0]
    half = 1.96 * math.sqrt(row["mean"] * (1 - row["mean"]) / 2000)
    assert (row["low"], row["high"]) == (pytest.approx(row["mean"] - half, abs=0.003), pytest.approx(row["mean"] + half, abs=0.003))


def test_an_interval_knows_of_draws_too() -> None:
    shares = np.linspace(0.3, 0.7, 10)  # draws that differ far more than the test rows let them
    random = np.random.default_rng(0)
    right = random.random((10, 5000)) < shares[:, None]
    row = accuracy_rows("p", "1/class", right, np.zeros(5000, int))[0]
    assert row["draws"] == 10
    assert row["high"] - row["mean"] == pytest.approx(2.262 * shares.std(ddof=1) / math.sqrt(10), rel=0.1)


def test_all_right_is_no_certainty() -> None:
    row = accuracy_rows("p", "all", np.ones((1, 20), bool), np.zeros(20, int))[0]
    assert (row["mean"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(wilson(1.0, 20)[0])
    assert row["low"] < 0.9


def test_classes_of_unlike_size_give_their_mean_as_well() -> None:
    truth = np.repeat([0, 1], [90, 10])
    accuracy, balanced = accuracy_rows("p", "all", (truth == 0)[None], truth)  # always the larger class
    assert (accuracy["mean"], balanced["metric"]) == (pytest.approx(0.9), "balanced_accuracy")
    assert balanced["mean"] == pytest.approx(0.5)


def test_bootstrap_stays_in_its_range() -> None:
    values = np.array([0.0, 1.0, 1.0])
    mean, low, high = bootstrap(lambda counts: np.array([(values * counts).sum() / counts.sum()]), 3)
    assert (mean, high) == (pytest.approx(2 / 3), 1.0)
    assert 0 <= low < mean


def test_the_battery_has_every_probe_once(blobs: Labels) -> None:
    x, y = blobs
    encoded = Encoded(x[180:], x[:180], y[180:], y[:180], (x[:50], x[50:100]))
    found = list(battery(encoded))
    rows = [row for _, step in found for row in step]
    names = [(row["probe"], row["labels"], row["metric"]) for row in rows if row["metric"] != "balanced_accuracy"]
    assert len(set(names)) == len(names)
    curve = {labels for probe, labels, _ in names if probe == "linear"}
    assert curve == {"all", "1/class", "2/class", "5/class", "10/class", "50/class", "10%"}  # 1% of 180 labels are fewer than three classes
    assert {metric for probe, _, metric in names if probe == "spectrum"} == {"rankme", "alpha", "uniformity", "alignment"}
    assert {metric for probe, _, metric in names if probe == "kmeans"} == {"nmi", "ari", "accuracy"}
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows)
    assert len(found) == steps(True, y[:180]) + 1
    by_labels = {row["labels"]: row["mean"] for row in rows if row["probe"] == "linear" and row["metric"] == "accuracy"}
    assert by_labels["1/class"] < by_labels["10/class"] <= by_labels["all"] + 0.1


def test_without_labels_there_is_only_the_spectrum(blobs: Labels) -> None:
    rows = [row for _, step in battery(Encoded(blobs[0])) for row in step]
    assert {row["metric"] for row in rows} == {"rankme", "alpha", "uniformity"}


@pytest.mark.parametrize("features", [np.zeros((30, 4), np.float32), np.ones((2, 3), np.float32)], ids=["all alike", "two rows"])
def test_features_without_content_break_nothing(features: np.ndarray) -> None:
    labels = np.arange(len(features)) % 2
    rows = [row for _, step in battery(Encoded(features, features, labels, labels)) for row in step]
    assert all(np.isfinite([row["mean"], row["low"], row["high"]]).all() for row in rows)
