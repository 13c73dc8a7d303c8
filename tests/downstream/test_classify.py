"""The classifier's loss by loops, its head against the probe it begins as, and its scores against scikit-learn's."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from untaught.core import UserError, View
from untaught.downstream.classify import PROBE_C, Classify
from untaught.downstream.task import Predictions
from untaught.encoders.conv_small import ConvSmall
from untaught.modalities.image import IMAGE

CLASSES = ("ant", "bee", "cat")


def task(truth: np.ndarray, classes: tuple[str, ...] = CLASSES, **knobs: Any) -> Classify:
    torch.manual_seed(0)
    facts = {"classes": classes, "counts": np.bincount(truth, minlength=len(classes)).tolist(), "temperature": 1.0}
    return Classify(ConvSmall(width=2), facts, **knobs).eval()


def labelled(labels: np.ndarray, classes: tuple[str, ...] = ()) -> Any:
    """What a task reads of a store."""
    return SimpleNamespace(labels=labels, classes=classes)


def predicted(logits: Any, temperature: float, classes: tuple[str, ...] = CLASSES) -> tuple[Classify, Predictions]:
    made = Classify(ConvSmall(width=2), {"classes": classes, "temperature": temperature})
    rows = np.arange(len(logits))
    return made, {"logits": np.array(logits, np.float32), "row": rows, "name": rows.astype(str).astype(object)}


@pytest.mark.parametrize("balance", ["none", "weights", "logits"])
def test_the_loss_by_loops(balance: Any) -> None:
    truth = np.array([0] * 6 + [1] * 3 + [2])
    made = task(truth, balance=balance)
    x, target = torch.randn(5, 3, 32, 32), torch.tensor([0, 1, 2, 1, 0])
    terms = made([View(x, target=target)], 0.0)
    counts, total, weights = [6, 3, 1], 0.0, 0.0
    for logits, label in zip(made.network(View(x)).tolist(), target.tolist(), strict=True):
        weight = 10 / (3 * counts[label]) if balance == "weights" else 1.0
        if balance == "logits":
            logits = [z + math.log(n / 10) for z, n in zip(logits, counts, strict=True)]
        total -= weight * (logits[label] - math.log(sum(map(math.exp, logits))))
        weights += weight
    assert terms["cross_entropy"].item() == pytest.approx(total / weights, rel=1e-5)
    assert terms["cross_entropy"].requires_grad
    assert not terms["train_accuracy"].requires_grad


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_begins_as_the_linear_probe(classes: int) -> None:
    random = np.random.default_rng(0)
    truth = np.arange(60) % classes
    made = task(truth, CLASSES[:classes])
    features = random.normal(size=(60, made.exported()["encoder"].width)) * 3 + 1 + truth[:, None]
    made.begin(lambda: features.astype(np.float32), truth)
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    expected = LogisticRegression(C=PROBE_C, max_iter=200).fit(scaled, truth).predict_proba(scaled)
    with torch.no_grad():
        logits = made.network.head(torch.from_numpy(features).float())
    if classes == 2:  # its one row tells the second class from the first
        logits = torch.stack([torch.zeros(60), logits[:, 1] - logits[:, 0]], 1)
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("there", [[0, 2], [0, 1, 3]])
def test_a_class_without_a_training_row_is_never_said(there: list[int]) -> None:
    random = np.random.default_rng(0)
    truth = random.choice(there, 80)
    made = task(truth, ("a", "b", "c", "d"))
    features = random.normal(size=(80, made.exported()["encoder"].width)).astype(np.float32) + truth[:, None]
    made.begin(lambda: features, truth)
    said = made.network.head(torch.from_numpy(features).float()).argmax(1).numpy()
    assert set(said) <= set(there)
    assert (said == truth).mean() > 0.9


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        truth = random.choice([0, 1, 1, 1, 4], 50)
        said = np.where(random.random(50) < 0.5, truth, random.integers(0, 6, 50))
        scores = Classify.scores(np.stack([said, np.full(50, 0.5), truth], 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are said and not there
            assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
        assert scores["accuracy"] == pytest.approx(accuracy_score(truth, said))
        assert scores["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))


def test_predictions_are_calibrated_probabilities() -> None:
    made, predictions = predicted([[2.0, 0.0, -4.0], [0.0, 0.0, 6.0]], 2.0)
    columns = made.table(predictions).to_pydict()
    assert columns["label"] == ["ant", "cat"]
    first = np.exp([1, 0, -2]) / np.exp([1, 0, -2]).sum()
    np.testing.assert_allclose([columns[f"p_{name}"][0] for name in CLASSES], first, rtol=1e-6)
    np.testing.assert_allclose(columns["probability"][0], first.max(), rtol=1e-6)


def test_the_outcome_is_the_class_said_and_its_calibrated_probability() -> None:
    made, predictions = predicted([[4.0, 0.0, 0.0], [0.0, 2.0, 8.0]], 4.0)
    said = made.outcome(predictions, np.array([0, 1]))
    np.testing.assert_allclose(said, [[0, math.e / (math.e + 2), 0], [2, math.e**2 / (1 + math.e**0.5 + math.e**2), 1]], rtol=1e-6)


@pytest.mark.parametrize("balance", ["none", "weights", "logits"])
def test_the_probe_is_balanced_where_the_loss_is(balance: str) -> None:
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [40, 15, 5])
    made = task(truth, balance=balance)
    features = random.normal(size=(60, made.exported()["encoder"].width)) + 0.5 * truth[:, None]
    made.begin(lambda: features.astype(np.float32), truth)
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    weight = None if balance == "none" else "balanced"
    expected = LogisticRegression(C=PROBE_C, max_iter=200, class_weight=weight).fit(scaled, truth).predict_proba(scaled)
    with torch.no_grad():
        np.testing.assert_allclose(made.network.head(torch.from_numpy(features).float()).softmax(1).numpy(), expected, atol=5e-3)


def test_judging_forgives_overconfidence_but_not_errors() -> None:
    made = task(np.array([0, 1, 2]))
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 200)
    logits = random.normal(size=(200, 3))
    logits[np.arange(200), truth] += 1
    assert made.judge({"logits": 10 * logits}, truth) == pytest.approx(made.judge({"logits": logits}, truth), rel=1e-4)
    assert made.judge({"logits": logits}, (truth + 1) % 3) > made.judge({"logits": logits}, truth) + 0.1


def test_measured_labels_are_refused() -> None:
    with pytest.raises(UserError, match=r"continuous numbers \(0.5, 1.5 ...\); use --task regress"):
        Classify.targets(labelled(np.array([0.5, np.nan, 1.5])), IMAGE, "", {})
