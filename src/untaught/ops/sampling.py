"""Sampling tokens from logits in chunks, without storing all logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 24  # logits stored at once


@torch.no_grad()
def linear_sample(x: Tensor, weight: Tensor, bias: Tensor | None, unit: Tensor) -> Tensor:
    """Samples from softmax(x weight^T + bias) by one uniform number per row -> (N,) int64; without gradient.

    x (N,D), weight (V,D), bias (V,), unit (N,) in [0, 1). Products use autocast's dtype, the softmax float32.
    """
    rows = max(1, CHUNK // len(weight))
    found = []
    for some, at in zip(x.split(rows), unit.split(rows), strict=True):
        share = F.linear(some, weight, bias).float().softmax(1).cumsum(1)
        # rounding can make the last cumulative probability less than 1; rescale so that no number exceeds it
        found.append(torch.searchsorted(share, (at * share[:, -1]).unsqueeze(1), right=True).squeeze(1))
    return torch.cat(found).clamp(max=len(weight) - 1)
