"""Forecasts without an encoder, against loops and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from untaught.data.windows import FUTURE, Windows
from untaught.evaluation.forecasts import (
    baselines_win,
    best_period,
    chosen_penalty,
    classical,
    measured,
    seasonal_naive,
    summed_errors,
    window_ridge,
)
from untaught.ops.least_squares import LeastSquares

CONTEXT, HORIZON = 20, 4


def windows(length: int = 300, gaps: bool = False) -> Windows:
    random = np.random.default_rng(0)
    time = np.arange(length)[:, None]
    values = np.concatenate([np.sin(time * 2 * np.pi / 7), 10 * np.cos(time * 2 * np.pi / 7) + 50], 1) + 0.05 * random.normal(
        size=(length, 2)
    )
    if gaps:
        values[random.random(values.shape) < 0.1] = np.nan
    column: Any = SimpleNamespace(columns={"values": values.astype(np.float32)}, offsets={"values": np.array([0, length])})
    return Windows(column, CONTEXT, HORIZON)


def test_seasonal_naive_by_loops() -> None:
    past = torch.randn(3, 9, 2)
    for period in (1, 4, 9, 20):
        made = seasonal_naive(past, period, 6)
        for h in range(6):
            back = min(period, 9)
            assert torch.equal(made[:, h], past[:, 9 - back + h % back])


def test_the_period_is_found() -> None:
    found, rows = windows(), np.arange(200)
    assert best_period(found, rows, np.arange(200, 260), np.ones(2)) in (7, 14)


@pytest.mark.parametrize("gaps", [False, True])
def test_forecasts_of_two_waves_are_near_and_in_order(gaps: bool) -> None:
    found, (train, held_out, test) = windows(gaps=gaps), np.split(np.arange(277), [180, 220])
    std = np.array([0.7, 7.0])
    errors = {name: each.sum(0) for name, each in classical(found, train, held_out, test, std, 0, lambda text: None)}
    mse = {name: squares / count for name, (squares, _, count) in errors.items()}
    assert list(mse) == ["window_ridge", "seasonal_naive", "last_value"]
    assert mse["window_ridge"] < (0.1 if gaps else 0.02)
    assert mse["window_ridge"] < mse["seasonal_naive"] < mse["last_value"]


def test_the_ridge_on_the_window_is_scikit_learns() -> None:
    found, rows = windows(), np.arange(150)
    make, chosen = window_ridge(found, rows, np.arange(150, 200), torch.tensor([0.7, 7.0]))
    batch = found.gather(np.arange(200, 230))
    made = make(torch.from_numpy(batch["values"])).numpy()
    assert np.abs(made - batch[FUTURE])[:, :, 0].mean() < 0.2
    level = "last" if "less the last" in chosen else "mean"
    train = found.gather(rows)
    base = lambda past: past[:, -1:] if level == "last" else past.mean(1, keepdims=True)  # noqa: E731
    if "one per channel" in chosen:
        penalty = float(chosen.rsplit("penalty ", 1)[1].split(", ")[1])
        x, y = (train["values"] - base(train["values"]))[:, :, 1], (train[FUTURE] - base(train["values"]))[:, :, 1]
        mean, scale = x.mean(0), x.std(0)
        scale[scale < 1e-5 * scale.max()] = np.inf
        model = Ridge(penalty * len(x)).fit((x - mean) / scale, y)
        new = (batch["values"] - base(batch["values"]))[:, :, 1]
        expected = model.predict((new - mean) / scale) + base(batch["values"])[:, :, 1]
        np.testing.assert_allclose(made[:, :, 1], expected, atol=0.02)


def test_the_penalty_is_the_best_on_validation_rows() -> None:
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(80, 40)), random.normal(size=(80, 1))
    y = x[:, :1] + 3 * noise
    sums = [LeastSquares(40, 1) for _ in range(2)]
    for own, rows in zip(sums, (slice(0, 50), slice(50, 80)), strict=True):
        own.add(torch.from_numpy(x[rows]).float(), torch.from_numpy(y[rows]).float())
    penalty, solution = chosen_penalty(*sums)
    assert penalty >= 0.1
    assert sums[1].error(solution) < sums[1].error(sums[0].solve(1e-6))


def test_missing_values_do_not_count() -> None:
    truth = np.array([[[1.0, np.nan], [2.0, 4.0]]])
    made = np.zeros_like(truth)
    assert summed_errors(made, truth, [1.0, 2.0]).tolist() == [[1 + 4 + 4, 1 + 2 + 2, 3]]
    assert measured(windows(gaps=True), np.arange(5), np.ones(2), lambda past: past[:, -HORIZON:])[:, 2].sum() < 5 * HORIZON * 2


def test_a_baseline_that_wins_is_named_by_horizon() -> None:
    row = lambda features, metric, mean: {"features": features, "metric": metric, "mean": mean, "data": "d"}  # noqa: E731
    rows = [row("encoder", "mse@96", 0.4), row("window_ridge", "mse@96", 0.37), row("last_value", "mse@96", 1.0)]
    rows += [row("encoder", "mse@24", 0.3), row("window_ridge", "mse@24", 0.31)]
    rows += [row("random_init", "mse@96", 0.39), row("window_ridge", "mse@96", 0.37)]  # measured by two probes
    expected = "ridge on the window 0.370, the same network without pretraining 0.390 against 0.400 at horizon 96"
    assert baselines_win(rows) == f"forecasts without pretraining have a lower MSE: {expected}"
    assert baselines_win(rows[3:5]) == ""
