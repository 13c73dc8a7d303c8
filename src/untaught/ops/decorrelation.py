"""How much the dimensions of an embedding say the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def covariance_energy(z: Tensor) -> Tensor:
    """z (...,N,D) -> (...,) the sum of the squared off-diagonal entries of its covariance (divisor N - 1), over D."""
    with torch.autocast(z.device.type, enabled=False):
        z = z - z.mean(-2, keepdim=True)
        covariance = z.mT @ z / (z.shape[-2] - 1)
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        return (covariance.square().sum((-2, -1)) - diagonal.square().sum(-1)) / z.shape[-1]


def spread(z: Tensor, epsilon: float = 1e-4) -> Tensor:
    """z (...,N,D) -> (...,D) the regularised standard deviation of each dimension."""
    return torch.sqrt(z.var(-2) + epsilon)


def vicreg_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a, b (...,N,D), two views of the same samples -> the variance and covariance terms of VICReg (Bardes et al. 2022, equations
    1 to 4), each the sum of both views, scalars."""
    variance = sum(F.relu(1 - spread(z)).mean() for z in (a, b))
    covariance = sum(covariance_energy(z).mean() for z in (a, b))
    return variance, covariance  # type: ignore[return-value]
