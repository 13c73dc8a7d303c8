"""The regression's loss and scores by their definitions, its head against the probe it begins as."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from untaught.core import UserError, View
from untaught.downstream.regress import Regress
from untaught.encoders.conv_small import ConvSmall
from untaught.modalities.image import IMAGE

TRUTH = np.array([100.0, 300.0, 200.0, 700.0])


def task(truth: np.ndarray = TRUTH) -> Regress:
    torch.manual_seed(0)
    return Regress(ConvSmall(width=2), {"mean": float(truth.mean()), "std": float(truth.std())}).eval()


def labelled(labels: np.ndarray, classes: tuple[str, ...] = ()) -> Any:
    """What a task reads of a store."""
    return SimpleNamespace(labels=labels, classes=classes)


def test_the_loss_is_the_squared_error_in_deviations() -> None:
    made, x = task(), torch.randn(4, 3, 32, 32)
    terms = made([View(x, target=torch.from_numpy(TRUTH))], 0.0)
    outputs = {**made.predict(View(x)), "row": np.arange(4), "name": np.array(list("abcd"), object)}
    assert (made.mean, made.std) == (325.0, pytest.approx(np.sqrt((225**2 + 25**2 + 125**2 + 375**2) / 4)))
    values = made.table(outputs)["value"].to_numpy()
    assert terms["squared_error"].item() == pytest.approx((((values - TRUTH) / TRUTH.std()) ** 2).mean(), rel=1e-5)
    assert made.judge(outputs, TRUTH) == pytest.approx(terms["squared_error"].item(), rel=1e-5)


def test_the_head_begins_as_a_ridge_regression() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 16)).astype(np.float32) * 3 + 1
    truth = 50 * features[:, 0] - 20 * features[:, 1] + random.normal(size=60) + 1000
    made = task(truth)
    made.begin(lambda: features, truth)
    with torch.no_grad():
        said = made.outcome({"output": made.network.head(torch.from_numpy(features)).numpy()[:, 0]}, truth)[:, 0]
    scaled = (features - features.mean(0)) / features.std(0)
    expected = RidgeCV(np.logspace(-1, 5, 13)).fit(scaled, truth).predict(scaled)
    np.testing.assert_allclose(said, expected, atol=0.02 * truth.std())
    assert r2_score(truth, said) > 0.99


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, said = random.normal(size=30), random.normal(size=30)
    scores = Regress.scores(np.stack([said, truth], 1))
    assert scores["mae"] == pytest.approx(mean_absolute_error(truth, said))
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(truth, said))
    assert scores["r2"] == pytest.approx(r2_score(truth, said))


def test_labels_that_are_numbers_by_name_are_numbers() -> None:
    found = Regress.targets(labelled(np.array([0, -1, 1]), ("3", "-7.5")), IMAGE, "", {})
    np.testing.assert_array_equal(found.strata, [3, np.nan, -7.5])
    np.testing.assert_array_equal(found.known, [True, False, True])
    assert Regress.targets(labelled(np.array([np.inf, np.nan, 1.5])), IMAGE, "", {}).known.tolist() == [False, False, True]


def test_labels_that_are_words_are_refused() -> None:
    with pytest.raises(UserError, match="--task regress needs numbers, but found the label 'cat'; use --task classify"):
        Regress.targets(labelled(np.array([0, 1]), ("3", "cat")), IMAGE, "", {})
