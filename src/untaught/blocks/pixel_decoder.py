"""A small convolutional decoder of images, the mirror image of conv_small.

Upsampling splits each place into 2 x 2 with a linear layer, as conv_small merges them: on small maps and CPUs half the time of a 4 x 4
transposed convolution with stride 2. In between are pre-activation residual 3 x 3 convolutions (He et al. 2016,
https://arxiv.org/abs/1603.05027), which join what was split.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.convolution import Convolution

COARSE = 7  # largest side in pixels of the map that a vector is first decoded to


class PixelDecoder(nn.Module):
    """Codes (B, inside), or a map of them (B, inside, *grid) if `grid` is given -> (B, channels, height, width), without a final
    nonlinearity.

    shape: (channels, height, width). width: channels at half the resolution; twice and four times as many at the coarsest two.
    """

    def __init__(self, inside: int, shape: tuple[int, int, int], *, grid: tuple[int, int] | None = None, width: int = 32) -> None:
        super().__init__()
        channels, *self.size = shape
        self.start = start_of(self.size) if grid is None else grid
        doublings = max(math.ceil(math.log2(max(side / own for side, own in zip(self.size, self.start, strict=True)))), 0)
        widths = [width << max(2 - i, 0) for i in range(max(doublings, 1))]  # from coarse to fine
        first = widths[0]
        self.inside = nn.Linear(inside, first * math.prod(self.start)) if grid is None else nn.Conv2d(inside, first, 1)
        layers: list[nn.Module] = [_Residual(first)]
        for before, after in pairwise(widths):
            layers += [_Split(before, after), _Residual(after)]
        last = _Split(widths[-1], channels) if doublings else _last(widths[-1], channels)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, code: Tensor) -> Tensor:
        x = self.inside(code)
        x = x if x.ndim == 4 else x.unflatten(1, (-1, *self.start))
        return self.layers(x)[:, :, : self.size[0], : self.size[1]]


class _Split(nn.Module):
    """x (B,C,h,w) -> (B, outside, 2h, 2w)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inside)
        self.linear = nn.Linear(inside, 4 * outside)

    def forward(self, x: Tensor) -> Tensor:
        places = F.relu(self.norm(x)).permute(0, 2, 3, 1)  # no copy in channels-last memory format
        split = self.linear(places).unflatten(3, (2, 2, -1)).transpose(2, 3)  # (B,h,2,w,2,D)
        return split.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), Convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.norm(x)))


def _last(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), nn.Conv2d(inside, outside, 1))


def start_of(size: list[int]) -> tuple[int, int]:
    """The size halved (rounded up) until no side exceeds 7 pixels."""
    high, wide = size
    while max(high, wide) > COARSE:
        high, wide = -(-high // 2), -(-wide // 2)
    return high, wide
