"""Piecewise linear encoding of numbers. Gorishniy, Rubachev, Babenko, NeurIPS 2022, section 3.2. https://arxiv.org/abs/2203.05556"""

from __future__ import annotations

import torch
from torch import Tensor


def piecewise_linear(x: Tensor, edges: Tensor, bins: Tensor) -> Tensor:
    """x (B,F), edges (F,T+1) ascending, bins (F,) how many of its T bins each feature uses -> (B,F,T).

    Component t is 0 below bin t, 1 above it, and rises linearly within it; the first and the last bin of a feature go on beyond the
    edges (equation 1). Components of unused bins are 0.
    """
    low, high = edges[:, :-1], edges[:, 1:]
    place = torch.arange(low.shape[1], device=x.device)
    used = place < bins.unsqueeze(1)
    share = (x.unsqueeze(2) - low) / torch.where(used, high - low, 1.0)
    share = torch.where(place > 0, share.clamp(min=0), share)
    share = torch.where(place < bins.unsqueeze(1) - 1, share.clamp(max=1), share)
    return torch.where(used, share, 0.0)
