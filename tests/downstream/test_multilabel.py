"""Fine-tuning on several classes a sample: loss by loops, head, threshold, scores, and the whole command on images, text and series."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

import untaught as ut
from untaught.core import UserError, View
from untaught.downstream.multilabel import Multilabel
from untaught.encoders.conv_small import ConvSmall

CLASSES = ("ant", "bee", "cat")


def task(**facts: Any) -> Multilabel:
    torch.manual_seed(0)
    return Multilabel(ConvSmall(width=2), {"classes": CLASSES, "temperature": 1.0, "threshold": 0.5, **facts}).eval()


def predictions(rows: int = 60) -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(0)
    truth = (random.random((rows, 3)) < 0.3).astype(np.int8)
    logits = (4 * truth - 6 + 2 * random.normal(size=truth.shape)).astype(np.float32)  # all too low for a threshold of one half
    return {"logits": logits, "row": np.arange(rows), "name": np.array([f"{i}" for i in range(rows)], object)}, truth


def test_the_loss_by_loops() -> None:
    model, x = task(), torch.randn(4, 3, 8, 8)
    target = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.int8)
    loss = model([View(x, target=target)], 0.0)["binary_cross_entropy"].item()
    want = 0.0
    for logits, row in zip(model.network(View(x)).tolist(), target.tolist(), strict=True):
        for logit, flag in zip(logits, row, strict=True):
            p = 1 / (1 + math.exp(-logit))
            want -= math.log(p if flag else 1 - p)
    assert loss == pytest.approx(want / 4, rel=1e-5)


def test_scores_are_scikit_learns_at_the_chosen_threshold() -> None:
    model, (found, truth) = task(), predictions()
    before = model.scores(model.outcome(found, truth))
    model.settle(found, truth)
    outcome = model.outcome(found, truth)
    scores = model.scores(outcome)
    claimed = outcome[:, :, 0] > model.threshold
    assert scores["micro_f1"] == pytest.approx(f1_score(truth, claimed, average="micro"))
    assert scores["micro_f1"] > before["micro_f1"]
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, claimed, average="macro"))
    assert scores["map"] == pytest.approx(average_precision_score(truth, found["logits"], average="macro")) == before["map"]
    assert scores["calibration_error"] < before["calibration_error"]
    table = model.table(found)
    assert table.column_names == ["row", "name", "labels", "p_ant", "p_bee", "p_cat"]
    for labels, row in zip(table["labels"].to_pylist(), claimed, strict=True):
        assert [name for name in labels.split(";") if name] == [name for name, flag in zip(CLASSES, row, strict=True) if flag]
    assert not truth.all()
    assert task(**model.facts).threshold == model.threshold


def test_the_head_begins_as_the_probe() -> None:
    random = np.random.default_rng(0)
    features = random.normal(3, 5, size=(200, 256)).astype(np.float32)
    truth = (features[:, :3] > 5).astype(np.int8)
    model = task()
    width = model.network.head.in_features
    model.begin(lambda: features[:, :width], truth)  # type: ignore[index]
    with torch.no_grad():
        logits = model.network.head(torch.from_numpy(features[:, :width])).numpy()  # type: ignore[index]
    assert ((logits > 0) == truth).mean() > 0.9


@pytest.mark.parametrize("facts", [{"classes": ()}, {"temperature": math.nan}, {"threshold": 2}, {"threshold": "a"}, {"classes": [1]}])
def test_facts_that_cannot_be_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        task(**facts)


def bands(rows: int = 120) -> tuple[np.ndarray, list[list[str]]]:
    """Images (N,12,12) with a bright band for every class of a sample."""
    random = np.random.default_rng(0)
    flags = random.random((rows, 3)) < 0.4
    pixels = random.integers(0, 60, (rows, 12, 12)).astype(np.uint8)
    for place, own in enumerate(flags.T):
        pixels[own, 4 * place : 4 * place + 4] += 150
    return pixels, [[name for name, flag in zip(CLASSES, row, strict=True) if flag] for row in flags]


def data(modality: str) -> tuple[Any, dict[str, Any]]:
    """Labelled data, and how to pretrain on it."""
    pixels, names = bands()
    split = ["train"] * 90 + ["test"] * 30
    if modality == "text":
        texts = [" ".join(["the", *names_of, "house", f"number{i % 7}"]) for i, names_of in enumerate(names)]
        return pd.DataFrame({"text": texts, "kinds": names, "split": split}), {
            "method": "simclr", "tokenizer": "characters", "length": 32,
        }  # fmt: skip
    field = "image" if modality == "image" else "series"
    values = list(pixels) if modality == "image" else [row.astype(np.float32).mean(1).repeat(2).tolist() for row in pixels]
    return pd.DataFrame({field: values, "kinds": names, "split": split}), {"method": "simclr"}


@pytest.mark.parametrize("modality", ["image", "text", "series"])
def test_it_is_fine_tuned_and_predicts(modality: str, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    frame, how = data(modality)
    chosen: dict[str, Any] = {"label": "kinds", "split": "split"}
    run = ut.pretrain(frame, modality=modality, steps=2, batch_size=16, evaluate_every=0, out=tmp_path / "run", **how, **chosen)
    model = run.finetune(frame, task="multilabel", steps=6, batch_size=16, **chosen)
    printed = capfd.readouterr().err
    assert "several of 3 classes each" in printed
    assert "from scratch" in printed
    scores = {(row["features"], row["metric"]) for row in model.scores}
    assert {(features, metric) for features in ("encoder", "random_init") for metric in ("map", "micro_f1", "macro_f1")} <= scores
    out = tmp_path / "predictions.csv"
    ut.predict(tmp_path / "run" / "finetuned", frame.drop(columns="kinds"), out)
    table = pd.read_csv(out, keep_default_na=False)
    assert list(table.columns) == ["row", "name", "labels", *(f"p_{name}" for name in CLASSES)]
    assert len(table) == 120
    with pytest.raises(UserError, match="use --task multilabel"):
        run.finetune(frame, steps=2, **chosen)
    with pytest.raises(UserError, match="each has one label"):
        run.finetune(frame.assign(kinds=["a", "b"] * 60), task="multilabel", steps=2, **chosen)
