"""sRGB and CIELAB with white D65. IEC 61966-2-1 (sRGB), CIE 15:2004 (Lab). Colours are on the third axis from the end; all float32."""

from __future__ import annotations

import torch
from torch import Tensor

TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
KNEE = 6 / 29  # of the cube root, which is linear below


def linear(x: Tensor) -> Tensor:
    """sRGB values in 0..1 -> linear light in 0..1."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def encoded(light: Tensor) -> Tensor:
    """Linear light -> sRGB values, clamped to 0..1; the inverse of `linear`."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def to_lab(x: Tensor) -> Tensor:
    """sRGB (...,3,H,W) in 0..1 -> L in 0..100, a and b, (...,3,H,W). White is the sum of the primaries, so grey has a = b = 0."""
    light = linear(x.float())
    cubed = _mixed(light, _matrix(x) / _matrix(x).sum(1, keepdim=True))
    root = torch.where(cubed > KNEE**3, cubed.clamp(min=1e-8) ** (1 / 3), cubed / (3 * KNEE**2) + 4 / 29)
    fx, fy, fz = root.unbind(-3)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], -3)


def to_srgb(lab: Tensor) -> Tensor:
    """L, a and b (...,3,H,W) -> sRGB (...,3,H,W), clamped to 0..1: colours outside sRGB change in lightness and hue."""
    lightness, a, b = lab.float().unbind(-3)
    fy = (lightness + 16) / 116
    root = torch.stack([fy + a / 500, fy, fy - b / 200], -3)
    cubed = torch.where(root > KNEE, root**3, 3 * KNEE**2 * (root - 4 / 29))
    return encoded(_mixed(cubed, torch.linalg.inv(_matrix(lab) / _matrix(lab).sum(1, keepdim=True))))


def to_grey(x: Tensor) -> Tensor:
    """sRGB (...,3,H,W) in 0..1 -> (...,1,H,W), the sRGB value of the grey with the same lightness L."""
    return encoded((linear(x.float()) * _matrix(x)[1].view(3, 1, 1)).sum(-3, keepdim=True))


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(TO_XYZ, device=like.device)


def _mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """x (...,3,H,W) and a matrix (3,3) -> (...,3,H,W); products of three terms, in float32 under autocast too."""
    return (matrix.view(3, 3, 1, 1) * x.unsqueeze(-4)).sum(-3)
