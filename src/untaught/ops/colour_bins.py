"""The ab plane of CIELAB in bins. Zhang, Isola, Efros 2016, section 2, https://arxiv.org/abs/1603.08511

The bins are the cells of a grid of 10 that contain a colour of sRGB: 261. The authors' list has 313, in which these and 52 cells around
them, without any sRGB colour, are contained.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from untaught.ops.lab import to_lab

GRID = 10  # side of a bin, in units of a and b
GREY = 5.0  # an image whose a and b are all within this is grey; the authors' code
LEVELS = 256  # of a channel, by which the surface of the sRGB cube is sampled


@cache
def bins() -> Tensor:
    """(Q,2): a and b of the centres of the bins, in ascending order.

    The ab plane is a projection of the sRGB cube, and every point of a projected solid is that of a point of its surface.
    """
    level = torch.linspace(0, 1, LEVELS)
    first, second = torch.meshgrid(level, level, indexing="ij")
    faces = []
    for end in (0.0, 1.0):
        third = torch.full_like(first, end)
        faces += [torch.stack(order) for order in ((third, first, second), (first, third, second), (first, second, third))]
    found = to_lab(torch.stack(faces))[:, 1:].permute(0, 2, 3, 1).reshape(-1, 2)
    return GRID * (found / GRID).round().unique(dim=0)


def has_colours(ab: Tensor) -> Tensor:
    """a and b of images (B,2,H,W) -> (B,) bool: False for grey ones."""
    return (ab.abs() > GREY).flatten(1).any(1)


def soft_encoded(ab: Tensor, centres: Tensor, neighbours: int, sigma: float) -> tuple[Tensor, Tensor]:
    """ab (...,2) -> the nearest bins, nearest first, (...,K) int64, and their weights (...,K): a Gaussian of the distance, of sum 1."""
    a, b = ab.float().unsqueeze(-2).unbind(-1)  # (...,1)
    distance = (a - centres[:, 0]).square() + (b - centres[:, 1]).square()
    near, index = distance.topk(neighbours, largest=False)
    weight = (-(near - near[..., :1]) / (2 * sigma**2)).exp()  # the common factor cancels, and keeps far colours from a sum of 0
    return index, weight / weight.sum(-1, keepdim=True)


def rebalancing(counts: Tensor, centres: Tensor, sigma: float, uniform: float) -> Tensor:
    """How often each bin was seen (Q,) -> the weight of a pixel of each bin (Q,) float32 (equation 4).

    The distribution is smoothed by a Gaussian of `sigma` in the ab plane and mixed with a share `uniform` of the uniform one; the weights
    are its inverse, and 1 on average over the smoothed distribution. One count is added to each bin: weights are nearly equal at first.
    """
    seen = counts.float() + 1
    kernel = (-(centres[:, None] - centres).square().sum(2) / (2 * sigma**2)).exp()
    smoothed = (kernel * (seen / seen.sum() / kernel.sum(0))).sum(1)  # no matrix product, which autocast would round to bfloat16
    weights = 1 / ((1 - uniform) * smoothed + uniform / len(counts))
    return weights / (smoothed * weights).sum()


def annealed_mean(logits: Tensor, centres: Tensor, temperature: float) -> Tensor:
    """logits (B,Q,H,W) -> ab (B,2,H,W): the mean of the distribution sharpened by a temperature below 1 (equation 5)."""
    sharp = (logits.float() / temperature).softmax(1)
    return torch.stack([(sharp * axis.view(-1, 1, 1)).sum(1) for axis in centres.to(sharp).unbind(1)], 1)
