"""KoLeo against its formula, and against lightly's."""

from __future__ import annotations

import math

import pytest
import torch

from untaught.ops.koleo import koleo

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def test_it_is_the_mean_logarithm_of_the_nearest_distance() -> None:
    z = [row / row.norm() for row in X]
    nearest = [min(float((z[i] - z[j]).norm()) for j in range(6) if j != i) for i in range(6)]
    assert koleo(X).item() == pytest.approx(-sum(map(math.log, nearest)) / 6, rel=1e-5)


def test_it_is_lightlys() -> None:
    torch.testing.assert_close(koleo(X), pytest.importorskip("lightly.loss").KoLeoLoss()(X))


def test_vectors_that_are_the_same_have_a_finite_gradient() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    koleo(x).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_nearest_of_opposite_vectors_is_not_the_vector_itself() -> None:
    assert koleo(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).item() == pytest.approx(-math.log(2), rel=1e-5)
