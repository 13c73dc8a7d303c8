"""Probes of numbers against scikit-learn and scipy, and on planted data: fitted and chosen on training rows, measured on test rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import SIDE, Pixels, dataset, planted
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.neighbors import KNeighborsRegressor

import untaught as ut
from untaught.core import UserError
from untaught.evaluation import layers, low_label, sparse
from untaught.evaluation.battery import Encoded, battery, steps
from untaught.evaluation.evaluate import as_text
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.knn import knn_numbers
from untaught.evaluation.number_probes import Order, number_rows
from untaught.evaluation.ridge import ALPHAS, RidgeProbe
from untaught.report.page import content
from untaught.report.run_summary import gather

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return stats.spearmanr(a, b)[0]  # type: ignore[return-value]


def made(train: int, width: int, test: int = 40, noise: float = 4.0) -> Data:
    """Features of unlike scales and numbers that five of them tell, with noise: train (N,D), its targets, test (M,D), its targets."""
    random = np.random.default_rng(0)
    x = (random.normal(size=(train + test, width)) * random.uniform(0.1, 9, width) + 3).astype(np.float32)
    y = 100 + x[:, :5] @ random.normal(size=5) + noise * random.normal(size=train + test)
    return x[:train], y[:train], x[train:], y[train:]


# ------------------------------------------------------------------------------------------------------ against others


@pytest.mark.parametrize(("rows", "width"), [(300, 20), (40, 90), (50, 50)])
def test_ridge_is_scikit_learns_by_leave_one_out(rows: int, width: int) -> None:
    train, targets, test, _ = made(rows, width)
    mean, std = train.mean(0), train.std(0)
    peer = RidgeCV(ALPHAS).fit((train - mean) / std, targets)
    probe = RidgeProbe(train, test)
    found, alpha = probe.predict(np.arange(rows), targets)
    assert alpha == pytest.approx(peer.alpha_)
    np.testing.assert_allclose(found, peer.predict((test - mean) / std), atol=1e-3)
    some = np.arange(0, rows, 2)
    found, _ = probe.predict(some, targets[some], alpha=3.0)  # standardised as before, fitted on some rows
    np.testing.assert_allclose(found, Ridge(3.0).fit((train[some] - mean) / std, targets[some]).predict((test - mean) / std), atol=1e-3)


def test_neighbours_are_scikit_learns() -> None:
    train, targets, test, _ = made(60, 8)
    votes: Any = lambda distance: np.exp((1 - distance) / 0.07)  # noqa: E731
    found = knn_numbers(train, targets, test, k=(5, 999))
    for k, count in ((5, 5), (999, 60)):
        peer = KNeighborsRegressor(count, weights=votes, metric="cosine", algorithm="brute").fit(train, targets)
        np.testing.assert_allclose(found[k], peer.predict(test), rtol=1e-4)


def test_sparse_counts_have_the_same_probes() -> None:
    random = np.random.default_rng(0)
    counts = random.poisson(0.5, (90, 30)).astype(np.float32)
    targets = counts[:, :4] @ np.array([1.0, -2.0, 3.0, 1.0]) + 0.1 * random.normal(size=90)
    train, test = sparse.weigh(csr_matrix(counts[:60]), csr_matrix(counts[60:]))
    found = sparse.knn_numbers(train, targets[:60], test, k=(7,))[7]
    np.testing.assert_allclose(found, knn_numbers(train.toarray(), targets[:60], test.toarray(), k=(7,))[7], rtol=1e-4)
    guess, alpha = sparse.SparseRidge(train, test).predict(np.arange(60), targets[:60])
    assert alpha in sparse.ALPHAS
    np.testing.assert_allclose(guess, Ridge(alpha).fit(train.toarray(), targets[:60]).predict(test.toarray()), atol=1e-2)
    rows = [
        row
        for _, step in battery(
            Encoded(csr_matrix(counts[60:]), csr_matrix(counts[:60]), targets[60:], targets[:60], None, "numbers"), False
        )
        for row in step
    ]
    assert {row["probe"] for row in rows} == {"knn20", "knn200", "ridge"}


def test_metrics_are_those_of_scikit_learn_and_scipy() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 6, 50) / 2  # many ties
    guess = np.round(truth + random.normal(size=50))
    found = {row["metric"]: row["mean"] for row in number_rows("p", "all", guess[None], truth)}
    assert found == pytest.approx(
        {"r2": r2_score(truth, guess), "mae": mean_absolute_error(truth, guess), "spearman": spearman(truth, guess)}
    )


def test_intervals_are_of_resampled_test_rows() -> None:
    random, draws = np.random.default_rng(1), np.random.default_rng(0)
    truth = random.normal(size=30)
    guess = truth + 0.5 * random.normal(size=30)
    resampled = [draws.integers(30, size=30) for _ in range(400)]
    rows = {row["metric"]: row for row in number_rows("p", "all", guess[None], truth)}
    peers = {"r2": r2_score, "mae": mean_absolute_error, "spearman": spearman}
    for metric, peer in peers.items():
        half = 1.96 * np.std([peer(truth[rows_], guess[rows_]) for rows_ in resampled])
        assert rows[metric]["mean"] - rows[metric]["low"] == pytest.approx(half, rel=1e-6), metric


def test_ranks_count_rows_as_often_as_they_are_drawn() -> None:
    values, counts = np.array([3.0, 1.0, 3.0, 2.0]), np.array([2, 1, 1, 0])
    assert Order(values).ranks(counts).tolist()[:3] == [3.0, 1.0, 3.0]  # of 1 3 3 3: the mean of 2, 3 and 4


def test_without_variance_there_is_an_error_alone() -> None:
    alike = number_rows("p", "all", np.ones((1, 9)), np.full(9, 3.0))
    assert [(row["metric"], row["mean"]) for row in alike] == [("mae", 2.0)]
    constant = {row["metric"]: row["mean"] for row in number_rows("p", "all", np.ones((1, 9)), np.arange(9.0))}
    assert constant["spearman"] == 0.0
    two = number_rows("p", "all", np.array([[0.0, 1.0]]), np.array([0.0, 2.0]))  # half of the resamples are one row twice
    assert all(np.isfinite([row["mean"], row["low"], row["high"]]).all() for row in two)


def test_a_score_of_few_labels_is_the_mean_over_ten_draws() -> None:
    train, targets, test, truth = made(200, 6)
    encoded = Encoded(test, train, truth, targets, None, "numbers")
    found = list(battery(encoded))
    assert len(found) == steps(encoded) + 1
    rows = [row for _, step in found for row in step]
    assert {row["labels"] for row in rows if row["probe"] == "ridge"} == {"all", "10%"}  # 1% are two
    assert {row["metric"] for row in rows if row["probe"] == "spectrum"} >= {"rankme", "uniformity"}
    (score,) = (row for row in rows if (row["probe"], row["labels"], row["metric"]) == ("ridge", "10%", "r2"))
    drawn = [low_label.draw("10%", targets, seed) for seed in range(10)]
    assert all(len(rows_) == 20 for rows_ in drawn)
    scaled = lambda x: (x - train.mean(0)) / train.std(0)  # noqa: E731
    alpha: Any = RidgeCV(ALPHAS).fit(scaled(train[drawn[0]]), targets[drawn[0]]).alpha_
    each = [Ridge(alpha).fit(scaled(train[rows_]), targets[rows_]).predict(scaled(test)) for rows_ in drawn]
    assert score["draws"] == 10
    assert score["mean"] == pytest.approx(np.mean([r2_score(truth, guess) for guess in each]), abs=1e-3)


def test_a_mixture_of_layers_is_learned_from_numbers() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=400) * 30 + 500
    told = np.stack([targets / 30, random.normal(size=400)], 1)
    weights, _ = layers.choose(np.stack([told, random.normal(size=(400, 2))], 1).astype(np.float32), targets, seed=0)
    assert weights[0] > 0.7, "the first layer tells the numbers, the last one nothing"


# ---------------------------------------------------------------------------------------------------------- planted data


def brightness(train: int = 120, val: int = 30, test: int = 30) -> pd.DataFrame:
    """Images of one brightness each, which is the label in training and validation; in the test part the label falls where it rises.

    A probe that has learned from training rows alone predicts the opposite of every test label: errors of twice the distance from the
    mean, R2 = -3. Fitted on a test row it would be better, and so with a strength that test rows choose (R2 = 0), or measured on the
    validation part (R2 = 1).
    """
    levels = np.concatenate([np.linspace(50, 200, count) for count in (train, val, test)])
    parts = np.repeat(["train", "val", "test"], [train, val, test])
    images = [np.full((SIDE, SIDE), level, np.uint8) for level in levels.astype(np.uint8)]
    labels = np.where(parts == "test", 250 - levels, levels) / 10 + 0.25
    return pd.DataFrame({"image": images, "label": labels, "split": parts})


class Levels(Pixels):
    """x (B,1,16,16) -> (B,2), whose direction and first number tell the brightness."""

    width = 2

    def features(self, view: Any, want: tuple[str, ...] = ("pooled",)) -> Any:
        found = super().features(view, want)
        assert found.pooled is not None
        level = found.pooled.mean(1, keepdim=True)
        found.pooled = torch.cat([level, torch.ones_like(level)], 1)
        return found


def scorer(frame: pd.DataFrame) -> Scorer:
    return Scorer(dataset(frame), "whole", torch.device("cpu"), False, 0)


def r2(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["probe"], row["labels"]): row["mean"] for row in rows if row["metric"] == "r2"}


def test_no_test_row_teaches_or_chooses() -> None:
    made = scorer(brightness())
    assert made.kind == "numbers"
    assert (made.held_out, len(made.bank), len(made.queries)) == ("test", 120, 30)
    found = r2(made.battery("encoder", Levels()))
    assert found["ridge", "all"] == pytest.approx(-3, abs=0.05)
    assert found["ridge", "10%"] == pytest.approx(-3, abs=0.2)
    assert found["knn20", "all"] < -1.5


def test_the_val_part_is_measured_where_there_is_no_test_part() -> None:
    frame = brightness()
    made = scorer(frame.drop(index=range(150, 180)))
    assert made.held_out == "val"
    assert r2(made.battery("encoder", Levels()))["ridge", "all"] > 0.99


def test_on_the_way_only_the_training_part_is_looked_at() -> None:
    made, encoder = scorer(brightness()), Levels()
    found = made.watch(encoder)
    assert set(found) == {"knn20_r2", "knn200_r2"}
    assert found["knn20_r2"] > 0.8
    assert sum(map(len, encoder.shown)) == 120


def test_rows_without_a_number_are_in_no_part() -> None:
    frame = brightness()
    frame.loc[[0, 1, 150], "label"] = np.nan
    made = scorer(frame)
    assert (made.bank.tolist(), made.queries.tolist()) == (list(range(2, 120)), list(range(151, 180)))
    assert "3 of 180 images have no label" in made.doubts()[0]
    frame.loc[frame["split"] == "test", "label"] = 1.5
    assert "have the same label: R2 is undefined" in scorer(frame).doubts()[-1]
    frame.loc[frame["split"] == "train", "label"] = 1.5
    assert "have the same label" in scorer(frame).why_not


def test_whole_numbers_are_classes_or_numbers_as_asked() -> None:
    frame = brightness().assign(label=lambda frame: frame["label"].round().astype(int))
    found = dataset(frame)
    make = lambda kind: Scorer(found, "whole", torch.device("cpu"), False, 0, kind=kind)  # noqa: E731
    assert (make(None).kind, make("numbers").kind) == ("classes", "numbers")
    assert make("numbers").labels(np.arange(180)).tolist() == frame["label"].tolist()
    with pytest.raises(UserError, match="the labels are numbers, not classes"):
        Scorer(dataset(brightness()), "whole", torch.device("cpu"), False, 0, kind="classes")
    with pytest.raises(UserError, match="found the label 'a'"):
        Scorer(dataset(planted()), "whole", torch.device("cpu"), False, 0, kind="numbers")


# ------------------------------------------------------------------------------------------------------------ whole runs


def test_a_run_on_numbers_is_measured_printed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str], bare_runs: None) -> None:
    knobs: dict[str, Any] = {"steps": 2, "batch_size": 8, "precision": "float32", "encoder__width": 4, "size": SIDE, "evaluate_every": 1}
    run = ut.pretrain(brightness(), "simclr", label="label", split="split", out=tmp_path / "run", **knobs)
    printed = capsys.readouterr().err
    assert "kNN k=20  R2 encoder " in printed
    assert "%" not in next(line for line in printed.splitlines() if line.startswith("kNN k=20"))
    rows = ut.evaluate(run, brightness(), label="label", split="split", out=tmp_path / "run")
    assert "numbers from 5.25 to 20.25 on 120 training images; evaluated on 30 of test" in capsys.readouterr().err
    assert {row["features"] for row in rows} == {"encoder", "random_init", "raw"}
    assert {row["metric"] for row in rows if row["probe"] == "ridge"} == {"r2", "mae", "spearman"}
    table = as_text(rows, 100)
    assert "ridge R2" in table
    assert "kNN k=20 Spearman" in table
    shown = content(gather(tmp_path / "run"))
    assert [title for _, title, _ in shown["tiles"][:2]] == ["Ridge regression: R2", "kNN, k = 20: R2"]
    assert not any("%" in value for value, _, _ in shown["tiles"][:2])
    assert any(title == "Ridge regression: R2 by labels" for title, _, _ in shown["label_curves"])
    titles = [group["title"] for group in shown["battery"]]
    assert {"Ridge regression: MAE", "Ridge regression: Spearman, 10% of the labels"} <= set(titles)
    json.dumps(rows)
