"""Convolutions that see what comes before a value in raster order: rows above, places to the left, channels before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Masked(nn.Conv2d):
    """A convolution over a place and those left of it; at the place itself, output group c sees input groups up to c (mask B of Pixel
    RNN), or those before c (`strict`, mask A). inside, outside: the group of each map."""

    mask: Tensor

    def __init__(self, inside: Tensor, outside: Tensor, taps: int = 1, strict: bool = False) -> None:
        super().__init__(len(inside), len(outside), (1, taps))
        mask = torch.ones_like(self.weight)
        sees = outside.unsqueeze(1) > inside if strict else outside.unsqueeze(1) >= inside
        mask[:, :, 0, -1] = sees.to(mask)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B,I,H,W) -> (B,O,H,W)."""
        return F.conv2d(F.pad(x, (self.kernel_size[1] - 1, 0)), self.weight * self.mask, self.bias)


def with_ones(x: Tensor) -> Tensor:
    """x (B,C,H,W) -> (B,C+1,H,W), with a map of ones: what is outside the image (zeros) differs from an average pixel."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def image_groups(channels: int) -> Tensor:
    """The group of each map of `with_ones`: that of ones, -1, may be seen by all."""
    return torch.arange(-1, channels).roll(-1)


def shifted_down(x: Tensor) -> Tensor:
    """x (B,D,H,W), one row down: zeros at the top, without the last row."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def draw_weights(network: nn.Module) -> None:
    """Normal weights with unit gain in all convolutions, zero biases: gates shrink what goes through them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
