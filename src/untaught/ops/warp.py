"""Geometry of views: affine maps from view to source coordinates, both in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_affine(box: Tensor, flip: Tensor) -> Tensor:
    """box (B,4) left, top, width, height as fractions of the source, flip (B,) bool, horizontal -> affine (B,2,3)."""
    left, top, width, height = box.unbind(1)
    zero = torch.zeros_like(left)
    sign = torch.where(flip, -1.0, 1.0)
    across = torch.stack([width * sign, zero, 2 * left + width - 1], 1)
    down = torch.stack([zero, height, 2 * top + height - 1], 1)
    return torch.stack([across, down], 1)


def turn_affine(angle: Tensor, shift: Tensor, shear: Tensor) -> Tensor:
    """angle (B,) in radians, shift (B,2) in half sides, shear (B,) in radians -> affine (B,2,3) of a square view."""
    cos, sin, slant = angle.cos(), angle.sin(), shear.tan()
    across = torch.stack([cos, cos * slant - sin, shift[:, 0]], 1)
    down = torch.stack([sin, sin * slant + cos, shift[:, 1]], 1)
    return torch.stack([across, down], 1)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """affine (B,2,3) after affine (B,2,3): first inner, then outer."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    offset = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([linear, offset], 2)


def warp(pixels: Tensor, affine: Tensor, size: int) -> Tensor:
    """pixels (B,C,H,W) float, sampled through affine (B,2,3) -> (B,C,size,size): bilinear, reflected at the borders."""
    grid = F.affine_grid(affine, [pixels.shape[0], 1, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def warp_classes(classes: Tensor, affine: Tensor, size: int) -> Tensor:
    """classes (B,H,W) uint8, sampled through affine (B,2,3) -> (B,size,size) uint8: nearest neighbour, reflected at the borders."""
    grid = F.affine_grid(affine, [len(classes), 1, size, size], align_corners=False)
    return F.grid_sample(classes[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False)[:, 0].byte()
