"""Colour jitter, including hue and grey, as one affine colour map per sample."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def jitter(channels: int, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, grey: Tensor) -> tuple[Tensor, Tensor]:
    """The four jitters of torchvision's ColorJitter, then grey.

    brightness, contrast, saturation (B,) factors; hue (B,) in turns; grey (B,) bool -> matrix (B,C,C) and pull (B,C,C):
    x -> matrix x + pull (mean colour of the image).
    Differs from torchvision: there is no clamping in between, so that the four commute and need no random order; hue is
    rotated in YIQ, not HSV. Without exactly three channels, only brightness and contrast apply.
    """
    eye = torch.eye(channels, device=hue.device)
    if channels == 3:
        to_grey = torch.tensor(LUMA, device=hue.device).expand(3, 3)
        turn = hue * (-2 * torch.pi)  # red to green is clockwise in the I-Q plane
        cos, sin, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
        spin = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
        yiq = torch.tensor(_YIQ, device=hue.device)
        colours = torch.lerp(to_grey, eye, saturation.view(-1, 1, 1)) @ (torch.linalg.inv(yiq) @ spin @ yiq)
        colours = torch.where(grey.view(-1, 1, 1), to_grey @ colours, colours)
    else:
        to_grey = torch.full((channels, channels), 1 / channels, device=hue.device)
        colours = eye
    colours, contrast = brightness.view(-1, 1, 1) * colours, contrast.view(-1, 1, 1)
    return contrast * colours, (1 - contrast) * (colours @ to_grey)  # contrast pulls towards the image's mean grey


def apply(x: Tensor, matrix: Tensor, pull: Tensor) -> Tensor:
    """x (B,C,H,W) -> matrix x + pull (mean colour of x) at each pixel; matrix and pull (B,C,C)."""
    return torch.baddbmm(pull @ x.mean((2, 3)).unsqueeze(2), matrix, x.flatten(2)).view_as(x)
