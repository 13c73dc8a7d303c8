"""Probes of several classes a sample: metrics and the one-vs-rest probe against scikit-learn, and planted data through `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

import untaught as ut
from untaught.core import UserError
from untaught.evaluation import low_label, sparse
from untaught.evaluation.battery import Encoded, battery, steps
from untaught.evaluation.knn import knn_vectors
from untaught.evaluation.multilabel import Ranking, best_threshold, f1_scores, mean_average_precision
from untaught.evaluation.multilabel_probes import set_rows
from untaught.evaluation.one_vs_rest import OneVsRest, SparseOneVsRest


def noisy(rows: int = 200, width: int = 6, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features (N,D), and labels (N,K) of which each depends on one feature and on noise."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, width)).astype(np.float32)
    y = (x[:, :classes] * 2 + random.normal(size=(rows, classes)) > [0.5, 1.5, 2.5][:classes]).astype(np.int8)
    return x, y


def test_average_precision_with_ties_and_counts_is_scikit_learns() -> None:
    random = np.random.default_rng(1)
    scores, truth = random.integers(0, 6, (40, 4)).astype(float), random.random((40, 4)) < 0.3
    truth[:, 3] = False  # no positive: no average precision
    counts = random.integers(0, 4, 40)
    found = Ranking(scores, truth).average_precision(counts)
    for k in range(3):
        assert found[k] == pytest.approx(average_precision_score(truth[:, k], scores[:, k], sample_weight=counts))
    assert np.isnan(found[3])
    each = [average_precision_score(truth[:, k], scores[:, k]) for k in range(3)]
    assert mean_average_precision(scores, truth) == pytest.approx(np.mean(each))


def test_f1_and_the_threshold_with_the_best_micro_f1() -> None:
    x, y = noisy()
    scores = x[:, :3].round(1)
    threshold = best_threshold(scores, y == 1)
    claimed = scores > threshold
    micro, macro = f1_scores((claimed * y).sum(0), claimed.sum(0), y.sum(0))
    assert micro == pytest.approx(f1_score(y, claimed, average="micro"))
    assert macro == pytest.approx(f1_score(y, claimed, average="macro"))
    tried = [f1_score(y, scores > value, average="micro") for value in np.unique(scores) - 0.05]
    assert micro == pytest.approx(max(tried))
    assert not (scores > best_threshold(scores, np.zeros_like(y, bool))).any()


def test_the_linear_probe_is_scikit_learns_one_vs_rest() -> None:
    x, y = noisy()
    probe = OneVsRest(x, x[:20])
    logits = torch.addmm((found := probe.fit(probe.train, torch.from_numpy(y).float(), 0.1))[-1], probe.test, found[:-1])
    scaled = StandardScaler().fit_transform(x)
    weight, bias = probe.unrotated(found)
    assert torch.allclose(torch.from_numpy(x[:20]) @ weight.T + bias, logits, atol=1e-4)
    for k in range(3):
        want = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(scaled, y[:, k]).decision_function(scaled[:20])
        assert np.allclose(logits[:, k].numpy(), want, atol=2e-2)


@pytest.mark.parametrize("probe", [OneVsRest, lambda a, b: SparseOneVsRest(csr_matrix(np.abs(a)), csr_matrix(np.abs(b)))])
def test_penalty_and_threshold_see_no_test_row(probe: Any) -> None:
    x, y = noisy()
    rows = np.arange(len(x))
    scores, c = probe(x, x[:50]).predict(rows, y)
    again, _ = probe(x, x[:5]).predict(rows, y)
    assert np.allclose(scores[:5], again, atol=1e-4)
    assert probe(x, x[:5]).predict(rows, y, 0, c)[1] == c
    assert f1_score(y[:50], scores > 0, average="micro") > 0.45


def test_votes_of_neighbours_are_scikit_learns_where_weights_are_equal() -> None:
    x, y = noisy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = knn_vectors(x[:150], y[:150], x[150:], k=(5,), temperature=1e9)[5]
    want = KNeighborsRegressor(5, metric="cosine").fit(x[:150], y[:150]).predict(x[150:])
    assert np.allclose(found, want, atol=1e-5)
    bank, queries = csr_matrix(np.abs(x[:150])), csr_matrix(np.abs(x[150:]))
    dense = knn_vectors(np.abs(x[:150]), y[:150], np.abs(x[150:]), k=(5,))[5]
    assert np.allclose(sparse.knn_vectors(bank, y[:150], queries, k=(5,))[5], dense, atol=1e-4)


def test_draws_of_few_labels_are_shares() -> None:
    _, y = noisy(400)
    assert low_label.possible(y) == ["10%"]
    assert dict(low_label.settings(y))["1%"]
    drawn = low_label.draw("10%", y, 0)
    assert 35 <= len(drawn) <= 45
    assert y[drawn].any(0).all()


def test_the_battery_gives_rows_of_every_probe() -> None:
    x, y = noisy(300)
    encoded = Encoded(x[200:], x[:200], y[200:], y[:200], kind="multilabel")
    parts = list(battery(encoded, label_free=False))
    rows = [row for _, found in parts for row in found]
    assert len(parts) - 1 == steps(encoded, label_free=False)
    assert {row["probe"] for row in rows} == {"knn20", "knn200", "linear"}
    metrics = {row["metric"]: row for row in rows if row["probe"] == "linear" and row["labels"] == "all"}
    assert set(metrics) == {"map", "micro_f1", "macro_f1"}
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    assert metrics["map"]["mean"] > 0.6 > y[200:].mean()
    assert [row["metric"] for row in set_rows("linear", "all", x[None, :, :3], np.zeros_like(y))] == ["micro_f1", "macro_f1"]


def test_an_encoder_is_evaluated_beside_its_baselines(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    flags = random.random((120, 3)) < 0.4
    pixels = random.integers(0, 60, (120, 12, 12, 1)).astype(np.uint8)
    for place, own in enumerate(flags.T):
        pixels[own, 4 * place : 4 * place + 4] += 150  # a bright band for every class
    names = [[name for name, flag in zip(("high", "middle", "low"), row, strict=True) if flag] for row in flags]
    split = ["train"] * 80 + ["test"] * 40
    frame = pd.DataFrame({"image": list(pixels[..., 0]), "kinds": names, "split": split})
    torch.manual_seed(0)
    how: dict[str, Any] = {"label": "kinds", "split": "split", "modality": "image"}
    ut.pretrain(frame, method="simclr", steps=2, batch_size=16, out=tmp_path / "run", **how)
    rows = ut.evaluate(tmp_path / "run", frame, label="kinds", split="split")
    printed = capfd.readouterr().err
    assert "several classes per sample" in printed
    assert "mAP by chance" in printed
    assert "3 classes" in printed
    score = {(row["features"], row["probe"], row["metric"]): row["mean"] for row in rows if row["labels"] == "all"}
    assert {"encoder", "random_init", "raw"} <= {features for features, _, _ in score}
    assert score["raw", "linear", "map"] > 0.95
    assert score["raw", "linear", "micro_f1"] > 0.9
    assert "knn20_map" in (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="omit --task or give --task multilabel"):
        ut.evaluate(tmp_path / "run", frame, label="kinds", split="split", task="classify")
    assert (tmp_path / "run" / "report.html").exists()
