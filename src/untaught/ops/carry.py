"""Gaps in series, filled without a look ahead."""

from __future__ import annotations

import torch
from torch import Tensor


def carried(x: Tensor) -> Tensor:
    """x (B,T,C), NaN where missing -> every missing value is the last one before it; those before the first are the first; 0 where a
    channel has none."""
    known = x.isfinite()
    steps = torch.arange(x.shape[1], device=x.device).view(1, -1, 1)
    last = torch.where(known, steps, -1).cummax(1).values
    first = known.int().argmax(1, keepdim=True)
    return x.gather(1, torch.where(last < 0, first, last)).nan_to_num(0.0)
