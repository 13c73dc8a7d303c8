"""Ridge regression from sums, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from untaught.ops.least_squares import LeastSquares


def rows(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 5)) * [1, 10, 0.1, 2, 1] + [0, 5, 1, -3, 0]
    return x, x @ random.normal(size=(5, 3)) + random.normal(size=(count, 3)), random.uniform(0, 2, count)


def summed(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> LeastSquares:
    sums = LeastSquares(x.shape[1], y.shape[1])
    for part in np.array_split(np.arange(len(x)), 3):
        own = None if weight is None else torch.from_numpy(weight[part]).float()
        sums.add(torch.from_numpy(x[part]).float(), torch.from_numpy(y[part]).float(), own)
    return sums


@pytest.mark.parametrize("penalty", [1e-3, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_solution_is_scikit_learns(penalty: float, weighted: bool) -> None:
    x, y, weight = rows()
    weight = weight if weighted else np.ones(len(x))
    mean = np.average(x, 0, weight)
    scaled = (x - mean) / np.sqrt(np.average((x - mean) ** 2, 0, weight))
    expected = Ridge(penalty * weight.sum()).fit(scaled, y, weight).predict(scaled)
    solution = summed(x, y, weight if weighted else None).solve(penalty).numpy()
    np.testing.assert_allclose(x @ solution[:-1] + solution[-1], expected, atol=1e-3)


def test_the_error_is_that_of_the_rows_and_parts_add_up() -> None:
    x, y, weight = rows()
    sums = summed(x[:20], y[:20], weight[:20]) + summed(x[20:], y[20:], weight[20:])
    solution = sums.solve(0.1)
    error = ((y - x @ solution[:-1].numpy() - solution[-1].numpy()) ** 2).mean(1)
    assert sums.error(solution) == pytest.approx(np.average(error, weights=weight), rel=1e-4)
    assert sums.weight == pytest.approx(weight.sum(), rel=1e-5)


def test_a_constant_input_has_no_weight() -> None:
    x, y, _ = rows()
    x[:, 2] = 7.0
    solution = summed(x, y).solve(1e-3)
    assert solution.isfinite().all()
    assert (solution[2] == 0).all()


def test_it_is_float32_under_autocast() -> None:
    x, y, _ = rows()
    with torch.autocast("cpu", torch.bfloat16):
        again = summed(x, y)
    assert torch.equal(again.gram, summed(x, y).gram)
