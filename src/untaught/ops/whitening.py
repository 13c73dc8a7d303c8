"""Batch whitening, and the distance between two whitened views. Ermolov, Siarohin, Sangineto, Sebe 2021, https://arxiv.org/abs/2007.06346"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.groups import groups

SAFETY = 1e-6  # added to the variances


def whiten(z: Tensor) -> Tensor:
    """z (...,N,D), N > D -> (...,N,D) with mean 0 and identity covariance (divisor N - 1): W (z - mean), where W is the inverse of the
    lower triangular Cholesky factor of the covariance. Section 3."""
    with torch.autocast(z.device.type, enabled=False):
        z = z - z.mean(-2, keepdim=True)
        one = torch.eye(z.shape[-1], device=z.device)
        factor, _ = torch.linalg.cholesky_ex(
            z.mT @ z / (z.shape[-2] - 1) + SAFETY * one
        )  # unchecked: a check would synchronise with the device
        return torch.linalg.solve_triangular(factor, z.mT, upper=False).mT


def w_mse(a: Tensor, b: Tensor, slice: int) -> Tensor:
    """W-MSE's loss, section 3: a, b (B,D), two views of the same samples -> a scalar from 0 to 4.

    The mean squared distance of the whitened, then normalised vectors. `slice` samples (or slightly more) are whitened together; there
    must be more than D.
    """
    a, b = (whiten(groups(z.float(), slice)) for z in (a, b))
    return (2 - 2 * F.cosine_similarity(a, b, dim=-1)).mean()
