"""Crop, flip, resize and blur as two small matrices a sample: out = rows @ image @ columns^T.

A resampling along one axis is linear, so crop, flip and an antialiased resize are one banded matrix, and a Gaussian blur
multiplies into it. A whole batch with its own crop a sample is then two batched matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6  # weights of a blur under this are 0: the tail would be denormal numbers, which processors multiply slowly


def resize_matrix(start: Tensor, length: Tensor, flip: Tensor, side: int, size: int) -> Tensor:
    """The triangle-filter (bilinear, antialiased) resize of [start, start + length) pixels of an axis of `side` to `size` pixels.

    start, length (B,) float, flip (B,) bool -> (B, size, side), rows sum to 1. The filter is Pillow's and torchvision's
    (antialias=True); it may read one pixel beyond the crop where the image goes on.
    """
    step = (length / size).view(-1, 1, 1)
    place = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    place = torch.where(flip.view(-1, 1), size - place, place).unsqueeze(-1)
    centre = (start.view(-1, 1, 1) + place * step).clamp(0.5, side - 0.5)
    pixel = torch.arange(side, device=start.device, dtype=torch.float32) + 0.5
    weight = (pixel - centre).div_(step.clamp(min=1)).abs_().sub_(1).clamp_(max=0)  # in place; the sign goes with the sum's
    return weight.div_(weight.sum(-1, keepdim=True))


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur along one axis: sigma (B,) in pixels, 0 for none -> (B, size, size), rows sum to 1."""
    distance = torch.arange(1 - size, size, device=sigma.device, dtype=torch.float32)
    weight = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-2).unsqueeze(1)).square())
    weight.masked_fill_(weight < NEGLIGIBLE, 0.0)
    rows = weight.unfold(1, size, 1).flip(1)  # every row is the same kernel, one place further
    return rows.div_(rows.sum(-1, keepdim=True))


def resample(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """pixels (B,C,H,W), rows (B,h,H), columns (B,w,W) -> (B,C,h,w) in the matrices' dtype."""
    batch, channels, height, width = pixels.shape
    x = torch.bmm(pixels.to(columns.dtype).reshape(batch, channels * height, width), columns.transpose(1, 2))
    return torch.matmul(rows.unsqueeze(1), x.view(batch, channels, height, -1))
