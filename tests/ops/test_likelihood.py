"""Log-likelihoods against their definitions in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from untaught.ops import likelihood
from untaught.ops.likelihood import LEVELS

LEVEL = torch.arange(LEVELS)
PLACES = [(0.0, -1.0), (0.7, -5.0), (-1.2, -6.9), (0.3, 2.0), (1.5, -3.0), (0.0, -7.0)]  # mean, log scale


def everywhere(value: float) -> Tensor:
    return torch.full((LEVELS,), value)


@pytest.mark.parametrize(("mean", "log_scale"), PLACES)
@pytest.mark.parametrize("density", [likelihood.discretised_logistic, likelihood.discretised_logit_laplace])
def test_the_probabilities_of_all_levels_sum_to_one(density, mean: float, log_scale: float) -> None:  # type: ignore[no-untyped-def]
    found = density(LEVEL, everywhere(mean), everywhere(log_scale))
    assert found.isfinite().all()
    assert found.double().exp().sum().item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, -1.0), (0.4, -3.0), (-0.9, -2.0)])
def test_discretised_logistic_is_the_mass_of_half_a_step_to_either_side(mean: float, log_scale: float) -> None:
    """PixelCNN++, equation 2, with levels evenly from -1 to 1."""
    cumulative = lambda x: 1 / (1 + math.exp(-(x - mean) / math.exp(log_scale)))  # noqa: E731
    found = likelihood.discretised_logistic(LEVEL, everywhere(mean), everywhere(log_scale))
    for level in (0, 1, 100, 200, 254, 255):
        x = level / 127.5 - 1
        above = 1.0 if level == 255 else cumulative(x + 1 / 255)
        below = 0.0 if level == 0 else cumulative(x - 1 / 255)
        assert found[level].item() == pytest.approx(math.log(above - below), abs=1e-3)


def test_far_levels_have_finite_gradients() -> None:
    mean, log_scale = everywhere(0.9).requires_grad_(), everywhere(-9.0).requires_grad_()
    for density in (likelihood.discretised_logistic, likelihood.discretised_logit_laplace):
        density(LEVEL, mean, log_scale).sum().backward()
        for value in (mean, log_scale):
            assert value.grad is not None
            assert value.grad.isfinite().all()


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, -1.0), (0.8, -2.5), (-1.5, 0.0)])
def test_logit_laplace_is_its_density_and_its_levels_the_mass_of_a_step(mean: float, log_scale: float) -> None:
    """Ramesh et al. 2021, equation 2, of intensities mapped to 0.1..0.9."""
    scale = math.exp(log_scale)
    logit = lambda x: math.log(x / (1 - x))  # noqa: E731
    density = lambda x: math.exp(-abs(logit(x) - mean) / scale) / (2 * scale * x * (1 - x))  # noqa: E731
    levels = likelihood.discretised_logit_laplace(LEVEL, everywhere(mean), everywhere(log_scale))
    step = 0.8 / 255
    for level in (1, 60, 127, 128, 200, 254):
        x = 0.1 + step * level
        share = torch.tensor([level / 255])
        found = likelihood.logit_laplace(share, torch.tensor([mean]), torch.tensor([log_scale])).item()
        assert found == pytest.approx(math.log(density(x)), abs=1e-3)
        mass = sum(density(x - step / 2 + step * (i + 0.5) / 400) for i in range(400)) * step / 400
        assert levels[level].item() == pytest.approx(math.log(mass), abs=2e-3)


def test_gaussian_bernoulli_and_divergences() -> None:
    x, mean, log_scale = torch.tensor([0.3]), torch.tensor([-0.2]), torch.tensor([0.4])
    want = -0.5 * ((0.3 + 0.2) / math.exp(0.4)) ** 2 - math.log(math.exp(0.4) * math.sqrt(2 * math.pi))
    assert likelihood.gaussian(x, mean, log_scale).item() == pytest.approx(want, rel=1e-5)
    p = 1 / (1 + math.exp(0.7))
    assert likelihood.bernoulli(x, torch.tensor([-0.7])).item() == pytest.approx(0.3 * math.log(p) + 0.7 * math.log(1 - p), rel=1e-5)
    assert likelihood.kl_to_normal(torch.tensor([0.5]), torch.tensor([0.3])).item() == pytest.approx(
        0.5 * (0.25 + math.exp(0.3) - 1 - 0.3), rel=1e-5
    )
    probability = [0.7, 0.2, 0.1]
    found = likelihood.kl_to_uniform(torch.tensor([probability]).log(), 1)
    assert found.item() == pytest.approx(sum(q * math.log(3 * q) for q in probability), rel=1e-5)
