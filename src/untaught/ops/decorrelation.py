"""Redundancy between the dimensions of an embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.gather import gather


def covariance_energy(z: Tensor) -> Tensor:
    """z (...,N,D) -> (...,) the sum of the squared off-diagonal entries of its covariance (divisor N - 1), over D."""
    with torch.autocast(z.device.type, enabled=False):
        z = z - z.mean(-2, keepdim=True)
        covariance = z.mT @ z / (z.shape[-2] - 1)
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        return (covariance.square().sum((-2, -1)) - diagonal.square().sum(-1)) / z.shape[-1]


def std(z: Tensor, epsilon: float = 1e-4) -> Tensor:
    """z (...,N,D) -> (...,D) the regularised standard deviation of each dimension."""
    return torch.sqrt(z.var(-2) + epsilon)


def vicreg_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a, b (...,N,D), two views of the same samples -> VICReg's variance and covariance terms (Bardes et al. 2022, equations
    1 to 4), scalars summed over both views."""
    variance = sum(F.relu(1 - std(z)).mean() for z in (a, b))
    covariance = sum(covariance_energy(z).mean() for z in (a, b))
    return variance, covariance  # type: ignore[return-value]


def vicreg(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """VICReg's three terms without weights (the paper's: 25, 25, 1). Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2105.04906

    a, b (B,D), two views of the same samples, or (B,K,D), each of the K ranks separately -> three scalars: invariance (the mean squared
    difference), and variance and covariance by `vicreg_terms` over the gathered batch of all processes.
    """
    a, b = a.float(), b.float()
    return F.mse_loss(a, b), *vicreg_terms(*(gather(z).movedim(0, -2) for z in (a, b)))


def barlow_twins(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Barlow Twins' two terms without weights (the paper's: 1, 0.005). Zbontar et al. 2021, equations 1 and 2, https://arxiv.org/abs/2103.03230

    a, b (B,D), two views of the same samples -> two scalars: sums over the cross-correlation matrix of the gathered batch: the
    squared differences from 1 on the diagonal, and the squared off-diagonal entries.
    """
    a, b = (F.batch_norm(gather(z.float()), None, None, training=True) for z in (a, b))
    with torch.autocast(a.device.type, enabled=False):
        correlation = a.T @ b / len(a)
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum(), correlation.square().sum() - diagonal.square().sum()
