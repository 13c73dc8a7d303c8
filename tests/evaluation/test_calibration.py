"""Temperatures and calibration errors whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from untaught.evaluation.calibration import best_temperature, calibration_error, cross_entropy, softmax


def drawn(rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from just the probabilities that they state."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(rows, 4)) * 2
    return logits, (random.random((rows, 1)) > softmax(logits).cumsum(1)).sum(1).clip(0, 3)


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_a_known_temperature_is_found(factor: float) -> None:
    logits, truth = drawn()
    assert best_temperature(factor * logits, truth) == pytest.approx(factor, rel=0.03)


def test_cross_entropy_is_scikit_learns() -> None:
    logits, truth = drawn(100)
    assert cross_entropy(logits, truth) == pytest.approx(log_loss(truth, softmax(logits)))


def test_the_error_by_loops() -> None:
    random = np.random.default_rng(0)
    confidence, right = random.random(500), random.random(500) < 0.6
    confidence[:2] = 0.0, 1.0
    total = 0.0
    for i in range(15):
        inside = [j for j, c in enumerate(confidence) if max(math.ceil(c * 15) - 1, 0) == i]
        if inside:
            gap = abs(float(np.mean(right[inside])) - float(np.mean(confidence[inside])))
            total += len(inside) / 500 * gap
    assert calibration_error(confidence, right) == pytest.approx(total)


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not() -> None:
    logits, truth = drawn()
    for factor, low, high in ((1.0, 0.0, 0.015), (4.0, 0.1, 1.0)):
        said = softmax(factor * logits)
        assert low <= calibration_error(said.max(1), said.argmax(1) == truth) <= high
