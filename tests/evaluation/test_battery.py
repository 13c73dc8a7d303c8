"""Clustering and spectrum against scikit-learn and plain formulas; intervals against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from untaught.evaluation import clustering, low_label, spectrum
from untaught.evaluation.battery import Encoded, battery, steps
from untaught.evaluation.interval import accuracy_rows, bootstrap, wilson

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


def test_clusters_are_those_of_directions_whatever_the_lengths() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = np.eye(8)[labels] + 0.05 * random.normal(size=(60, 8))
    features *= random.choice([0.1, 30.0], 60)[:, None]  # short and long ones lie further apart than the classes
    rows = clustering.kmeans_rows(features.astype(np.float32), labels)
    assert [row["mean"] for row in rows] == [1.0, 1.0, 1.0]


def test_a_cluster_score_is_the_mean_over_ten_initialisations() -> None:
    random = np.random.default_rng(0)
    labels, features = np.arange(90) % 6, random.normal(size=(90, 5)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    each = [metrics.normalized_mutual_info_score(labels, KMeans(6, random_state=seed).fit_predict(unit)) for seed in range(10)]
    found = {row["metric"]: row for row in clustering.kmeans_rows(features, labels)}
    assert np.ptp(each) > 0.02  # no clusters are there to be found: each initialisation ends in others
    assert found["nmi"]["mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert {row["draws"] for row in found.values()} == {10}


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


def test_half_an_interval_is_tukeys_jackknife() -> None:
    values = [3.0, 5.0, 4.0, 6.0]
    row = spectrum._jackknife("rankme", 4.5, values)
    deviation = math.sqrt(3 / 4 * sum((value - 4.5) ** 2 for value in values))
    assert (row["low"], row["mean"], row["high"]) == pytest.approx((4.5 - 1.96 * deviation, 4.5, 4.5 + 1.96 * deviation))


def test_the_interval_of_an_alignment_is_that_of_a_mean() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(50, 6)), random.normal(size=(50, 6))
    row = spectrum.spectrum_rows(a, (a, b))[-1]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    apart = ((unit(a) - unit(b)) ** 2).sum(1)
    half = 1.96 * apart.std() / math.sqrt(50)
    assert row["metric"] == "alignment"
    assert (row["low"], row["mean"], row["high"]) == pytest.approx((apart.mean() - half, apart.mean(), apart.mean() + half))


def test_uniformity_is_of_rows_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "PAIRS", 40)
    random = np.random.default_rng(0)
    sorted_by_class = np.repeat(np.eye(5), 40, 0) + 0.01 * random.normal(size=(200, 5))
    found = {row["metric"]: row["mean"] for row in spectrum.spectrum_rows(sorted_by_class)}
    assert found["uniformity"] == pytest.approx(spectrum.uniformity(sorted_by_class), abs=0.1)
    assert found["uniformity"] < -1  # of one class it is about 0


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


def test_the_interval_of_a_mean_over_classes_is_that_of_its_classes() -> None:
    truth = np.repeat([0, 1], [180, 20])
    right = np.r_[np.arange(180) < 162, np.arange(20) < 10]  # 90% and 50%
    balanced = accuracy_rows("p", "all", right[None], truth)[1]
    half = 1.96 * math.sqrt((0.9 * 0.1 / 180 + 0.5 * 0.5 / 20) / 4)
    assert balanced["mean"] == pytest.approx(0.7)
    assert balanced["high"] - balanced["mean"] == pytest.approx(half, rel=0.1)


def test_a_class_of_one_row_counts_in_every_resample_that_has_it() -> None:
    truth = np.array([0, 0, 0, 0, 0, 1])
    balanced = accuracy_rows("p", "all", (truth == 0)[None], truth)[1]
    without = (5 / 6) ** 6  # of the resamples have no row of class 1: their mean is 1, that of all others 1/2
    assert balanced["high"] - balanced["mean"] == pytest.approx(1.96 * 0.5 * math.sqrt(without * (1 - without)), rel=0.04)


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
    assert len(found) == steps(encoded) + 1
    by_labels = {row["labels"]: row["mean"] for row in rows if row["probe"] == "linear" and row["metric"] == "accuracy"}
    assert by_labels["1/class"] < by_labels["10/class"] <= by_labels["all"] + 0.1


def test_every_score_is_of_the_test_rows_with_their_own_labels() -> None:
    """Parts of one size, so that rows of the wrong one are not refused; the training part is sorted by class; 30% of the test
    labels are wrong, so that right is 70% and the training rows would give 100%."""
    random = np.random.default_rng(0)
    train_truth, truth = np.repeat([0, 1, 2], 60), random.permutation(np.repeat([0, 1, 2], 60))
    made = lambda labels: (5 * np.eye(3)[labels] + 0.3 * random.normal(size=(180, 3))).astype(np.float32)  # noqa: E731
    train, test = made(train_truth), made(truth)
    told = truth.copy()
    for label in range(3):
        told[np.flatnonzero(truth == label)[:18]] = (label + 1) % 3
    rows = [row for _, step in battery(Encoded(test, train, told, train_truth)) for row in step if row["metric"] == "accuracy"]
    assert {row["probe"] for row in rows} == {"knn20", "knn200", "linear", "kmeans"}
    assert len(rows) == 3 + 1 + 6
    assert [row["mean"] for row in rows] == pytest.approx([0.7] * len(rows), abs=0.01)


def test_a_low_label_score_is_the_mean_over_ten_draws(blobs: Labels) -> None:
    x, y = blobs[0] + np.random.default_rng(1).normal(size=(240, 12)).astype(np.float32) * 4, blobs[1]
    found = [row for _, step in battery(Encoded(x[180:], x[:180], y[180:], y[:180])) for row in step]
    (score,) = (row for row in found if (row["probe"], row["labels"], row["metric"]) == ("linear", "2/class", "accuracy"))
    scaled = (x - x[:180].mean(0)) / x[:180].std(0)
    drawn = [low_label.draw("2/class", y[:180], seed) for seed in range(10)]
    each = [LogisticRegression(C=1.0, max_iter=1000).fit(scaled[rows], y[rows]).score(scaled[180:], y[180:]) for rows in drawn]
    assert score["draws"] == 10
    assert score["mean"] == pytest.approx(np.mean(each), abs=0.005)
    assert np.std(each) > 0.02  # one draw ten times over would be another number


def test_without_labels_there_is_only_the_spectrum(blobs: Labels) -> None:
    rows = [row for _, step in battery(Encoded(blobs[0])) for row in step]
    assert {row["metric"] for row in rows} == {"rankme", "alpha", "uniformity"}


@pytest.mark.parametrize("features", [np.zeros((30, 4), np.float32), np.ones((2, 3), np.float32)], ids=["all alike", "two rows"])
def test_features_without_content_break_nothing(features: np.ndarray) -> None:
    labels = np.arange(len(features)) % 2
    rows = [row for _, step in battery(Encoded(features, features, labels, labels)) for row in step]
    assert all(np.isfinite([row["mean"], row["low"], row["high"]]).all() for row in rows)
