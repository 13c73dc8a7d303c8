"""A small decoder of series of any length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KNOTS = 16  # places along a series at which its vector is first decoded


class SeriesDecoder(nn.Module):
    """A vector (B, inside) and validity (B,T) -> (B,T,channels): a smooth curve over each series' own length, and two convolutions.

    Padding has no effect on valid time steps.
    """

    def __init__(self, inside: int, channels: int, *, width: int = 64) -> None:
        super().__init__()
        self.knots = nn.Linear(inside, KNOTS * width)
        self.first, self.second = nn.Conv1d(width, width, 5, padding=2), nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(width, channels)

    def forward(self, code: Tensor, valid: Tensor) -> Tensor:
        knots = self.knots(code).unflatten(1, (KNOTS, -1))
        steps = torch.arange(valid.shape[1], device=valid.device)
        last = (valid.sum(1, keepdim=True) - 1).clamp(min=1)
        at = (steps / last).clamp(max=1) * (KNOTS - 1)  # (B,T)
        low = at.floor().long().clamp(max=KNOTS - 2)
        share = (at - low).unsqueeze(2).to(knots.dtype)
        take = lambda place: knots.gather(1, place.unsqueeze(2).expand(-1, -1, knots.shape[2]))  # noqa: E731
        shown = valid.unsqueeze(1).to(knots.dtype)
        x = ((1 - share) * take(low) + share * take(low + 1)).transpose(1, 2)  # (B,D,T)
        for conv in (self.first, self.second):
            x = x + conv(F.gelu(x) * shown)
        return self.out(x.transpose(1, 2))
