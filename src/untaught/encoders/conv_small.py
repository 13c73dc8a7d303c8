"""A small convolutional network for images on CPUs, designed for two cores with bfloat16 matrix units.

The stem downsamples at once, since memory traffic of large activations costs more than arithmetic. Downsampling merges 2 x 2 patches
with a linear layer (as in Swin, Liu et al. 2021, section 3.1): a plain matrix product, ten times as fast as the weight gradient of a
strided 3 x 3 convolution on small maps. In between are residual 3 x 3 convolutions (He et al. 2016), where maps are large enough.
Every layer ends in BatchNorm and ReLU.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.convolution import Convolution
from untaught.core import Encoder, Features, View
from untaught.ranges import Few, Width, in_range


class _Convolution(nn.Module):
    def __init__(self, inside: int, outside: int, side: int, stride: int) -> None:
        super().__init__()
        self.conv = Convolution(inside, outside) if side == 3 else nn.Conv2d(inside, outside, side, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)), inplace=True)
        return x + y if self.residual else y


class _Merge(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * inside, outside, bias=False)
        self.norm = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        """x (B,C,H,W) -> (B, outside, ceil(H/2), ceil(W/2))."""
        if x.shape[2] % 2 or x.shape[3] % 2:
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        places = x.permute(0, 2, 3, 1)  # no copy in channels-last memory format
        patches = places.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
        return F.relu(self.norm(self.linear(patches).permute(0, 3, 1, 2)), inplace=True)


class ConvSmall(Encoder):
    """x (B,C,H,W) -> (B, 8 * width), average-pooled; maps from fine to coarse.

    The last map is about 4 x 4: three halvings up to 32 pixels, one more for each doubling of the side. `depth` residual
    convolutions follow the stem and every merge but the last.
    """

    offers = frozenset({"maps", "any_size"})

    @in_range
    def __init__(self, *, channels: int = 3, size: int = 32, width: Width = 32, depth: Few = 1) -> None:
        super().__init__()
        halvings = max(3, (size - 1).bit_length() - 2)
        widths = [2 * width] * (halvings - 2) + [4 * width, 8 * width]
        self.stages = nn.ModuleList()
        for i, (inside, outside) in enumerate(pairwise([channels, *widths])):
            halve = _Convolution(inside, outside, 4, stride=2) if i == 0 else _Merge(inside, outside)
            last = i == len(widths) - 1
            self.stages.append(nn.Sequential(halve, *(_Convolution(outside, outside, 3, stride=1) for _ in range(0 if last else depth))))
        self.width, self.stride = widths[-1], 1 << halvings

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        x = view.x
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(pooled=x.mean((2, 3)), maps=maps if "maps" in want else None)
