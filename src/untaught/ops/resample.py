"""Crop, flip, resize and blur as two small matrices per sample: out = rows @ image @ columns^T.

Resampling along one axis is linear, so crop, flip and antialiased resize form one banded matrix, into which a Gaussian blur can be
multiplied. A batch with a different crop per sample then takes two batched matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6  # blur weights below this are set to 0, since denormal numbers are slow


def resize_matrix(start: Tensor, length: Tensor, flip: Tensor, side: int, size: int) -> Tensor:
    """The triangle-filter (bilinear, antialiased) resize of [start, start + length) pixels of an axis of `side` to `size` pixels.

    start, length (B,) float, flip (B,) bool -> (B, size, side), rows sum to 1. The filter is Pillow's and torchvision's
    (antialias=True); it may read one pixel beyond the crop, inside the image.
    """
    step = (length / size).view(-1, 1, 1)
    place = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    place = torch.where(flip.view(-1, 1), size - place, place).unsqueeze(-1)
    centre = (start.view(-1, 1, 1) + place * step).clamp(0.5, side - 0.5)
    pixel = torch.arange(side, device=start.device, dtype=torch.float32) + 0.5
    weight = (pixel - centre).div_(step.clamp(min=1)).abs_().sub_(1).clamp_(max=0)  # in place; the sign cancels in the division
    return weight.div_(weight.sum(-1, keepdim=True))


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur along one axis: sigma (B,) in pixels, 0 for none -> (B, size, size), rows sum to 1."""
    distance = torch.arange(1 - size, size, device=sigma.device, dtype=torch.float32)
    weight = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-2).unsqueeze(1)).square())
    weight.masked_fill_(weight < NEGLIGIBLE, 0.0)
    rows = weight.unfold(1, size, 1).flip(1)  # each row is the same kernel, shifted by one
    return rows.div_(rows.sum(-1, keepdim=True))


def resample(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """pixels (B,C,H,W), rows (B,h,H), columns (B,w,W) -> (B,C,h,w) in the matrices' dtype."""
    batch, channels, height, width = pixels.shape
    x = torch.bmm(pixels.to(columns.dtype).reshape(batch, channels * height, width), columns.transpose(1, 2))
    return torch.matmul(rows.unsqueeze(1), x.view(batch, channels, height, -1))
