"""Words drawn from their scores, which are never all there at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 24  # scores held at once


@torch.no_grad()
def linear_sample(x: Tensor, weight: Tensor, bias: Tensor | None, unit: Tensor) -> Tensor:
    """Draws from softmax(x weight^T + bias), by the uniform number of each row -> (N,) int64; without gradient.

    x (N,D), weight (V,D), bias (V,), unit (N,) in [0, 1). Products run in autocast's dtype, the softmax in float32.
    """
    rows = max(1, CHUNK // len(weight))
    found = []
    for some, at in zip(x.split(rows), unit.split(rows), strict=True):
        share = F.linear(some, weight, bias).float().softmax(1).cumsum(1)
        # The last share is 1 but for rounding: where it is a little less, no number may lie behind it.
        found.append(torch.searchsorted(share, (at * share[:, -1]).unsqueeze(1), right=True).squeeze(1))
    return torch.cat(found).clamp(max=len(weight) - 1)
