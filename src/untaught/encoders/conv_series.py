"""Residual dilated convolutions over time, as in TS2Vec. Yue et al., AAAI 2022, section 3.1. https://arxiv.org/abs/2106.10466

Each time step is projected, then each block has two convolutions of width 3 with twice the dilation of the previous block; the pooled
vector is the maximum over time (section 3.3). Padding is zeroed before every convolution, like the zeros beyond the end of a series, so
that it has no effect.
Differs from TS2Vec: dropped time steps are an option of the view, not of the network.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Features, View
from untaught.ranges import Few, Width, in_range


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inside, outside, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv1d(outside, outside, 3, padding=dilation, dilation=dilation)
        self.shortcut = nn.Conv1d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B,D,T), valid (B,1,T) -> (B,E,T)."""
        y = self.first(F.gelu(x) * valid)
        return self.shortcut(x) + self.second(F.gelu(y) * valid)


class ConvSeries(Encoder):
    """x (B,T,C), valid (B,T) -> (B, width), the maximum over time; any length."""

    offers = frozenset({"any_size"})

    @in_range
    def __init__(self, *, channels: int = 1, length: int = 128, width: Width = 128, hidden: Width = 64, depth: Few = 5) -> None:
        super().__init__()
        self.width = width
        self.inside = nn.Linear(channels, hidden)
        widths = [hidden] * (depth + 1) + [width]
        self.blocks = nn.ModuleList(_Block(widths[i], widths[i + 1], 2**i) for i in range(depth + 1))

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        valid = view.x.new_ones(view.x.shape[:2]) if view.valid is None else view.valid.to(view.x.dtype)
        valid = valid.unsqueeze(1)
        x = self.inside(view.x * valid.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, valid)
        return Features(pooled=x.masked_fill(valid == 0, float("-inf")).amax(2))
