"""Residual dilated convolutions over time, as in TS2Vec. Yue et al., AAAI 2022, section 3.1. https://arxiv.org/abs/2106.10466

Each time step is projected, then each block has two convolutions of width 3 with twice the dilation of the previous block; the pooled
vector is the maximum over time (section 3.3). Padding is zeroed before every convolution, like the zeros beyond the end of a series, so
that it has no effect.
Differs from TS2Vec: what hides time steps is the view or the method, not the network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Features, UserError, View
from untaught.ranges import Few, Start, Width, in_range


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inside, outside, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv1d(outside, outside, 3, padding=dilation, dilation=dilation)
        self.shortcut = nn.Conv1d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B,D,T), valid (B,1,T) -> (B,E,T)."""
        y = _convolved(F.gelu(x) * valid, self.first)
        return self.shortcut(x) + _convolved(F.gelu(y) * valid, self.second)


def _convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """The convolution. Where its outer taps lie beyond a series of this length on both sides, only the middle one is computed."""
    if torch.compiler.is_compiling() or conv.dilation[0] < x.shape[2]:  # a traced program takes any length, and asks for none
        return conv(x)
    return F.conv1d(x, conv.weight[:, :, 1:2], conv.bias)


class ConvSeries(Encoder):
    """x (B,T,C), valid (B,T) -> pooled (B, width), the maximum over time, tokens (B,T, width), one per time step; any length.

    `embed` gives the projected time steps (B,T, hidden), which `context` takes.
    """

    offers = frozenset({"any_size", "sequence", "steps"})

    @in_range
    def __init__(
        self,
        *,
        channels: int = 1,
        length: int = 128,
        width: Width = 128,
        hidden: Width = 64,
        depth: Few = 5,
        dropout: Start = 0.0,  # share of the outputs that is set to 0 in training
    ) -> None:
        super().__init__()
        self.width = width
        self.inside = nn.Linear(channels, hidden)
        widths = [hidden] * (depth + 1) + [width]
        self.blocks = nn.ModuleList(_Block(widths[i], widths[i + 1], 2**i) for i in range(depth + 1))
        self.dropout = nn.Dropout(dropout)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return self.context(*self.embed(view), want=want)

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        x = view.x if view.valid is None else view.x * view.valid.to(view.x.dtype).unsqueeze(2)
        return self.inside(x), view.valid

    def context(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        causal: bool = False,
        want: tuple[str, ...] = ("tokens",),
    ) -> Features:
        if at is not None or causal:
            raise UserError("conv_series reads all time steps, in both directions; for other methods use patch_series or patch_causal")
        there = tokens.new_ones(tokens.shape[:2]) if valid is None else valid.to(tokens.dtype)
        there = there.unsqueeze(1)
        x = tokens.transpose(1, 2)
        for block in self.blocks:
            x = block(x, there)
        x = self.dropout(x)
        pooled = x.masked_fill(there == 0, float("-inf")).amax(2) if "pooled" in want else None
        return Features(pooled, x.transpose(1, 2) if "tokens" in want else None, valid)


@in_range
def ts2vec(
    *, channels: int = 1, length: int = 128, width: Width = 320, hidden: Width = 64, depth: Few = 10, dropout: Start = 0.1
) -> Encoder:
    """ConvSeries of the size in TS2Vec's code."""
    return ConvSeries(channels=channels, length=length, width=width, hidden=hidden, depth=depth, dropout=dropout)
