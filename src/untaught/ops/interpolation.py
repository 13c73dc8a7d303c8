"""Linear interpolation of sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_at(values: Tensor, at: Tensor) -> Tensor:
    """values (B,T,C), positions at (B,K) in 0..T - 1 -> (B,K,C), linearly interpolated."""
    low = at.floor().long().clamp(max=values.shape[1] - 1)
    high = (low + 1).clamp(max=values.shape[1] - 1)
    share = (at - low).unsqueeze(2)
    take = lambda place: values.gather(1, place.unsqueeze(2).expand(-1, -1, values.shape[2]))  # noqa: E731
    return torch.where(share > 0, (1 - share) * take(low) + share * take(high), take(low))
