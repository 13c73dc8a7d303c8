"""Measures of colour: CIEDE2000, and the colourfulness of an image."""

from __future__ import annotations

import torch
from torch import Tensor

FADE = 25.0**7


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """Lab colours (...,3,H,W) of each -> the colour difference (...,H,W), about 1 where it is just noticeable.

    Sharma, Wu, Dalal 2005, https://doi.org/10.1002/col.20070, with kL = kC = kH = 1. In float64.
    """
    (l1, a1, b1), (l2, a2, b2) = (lab.double().unbind(-3) for lab in (first, second))
    mean_chroma = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * (mean_chroma**7 / (mean_chroma**7 + FADE)).sqrt()
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = (torch.rad2deg(torch.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0  # one colour has no hue

    turn = (h2 - h1 + 180) % 360 - 180
    turn = torch.where((h2 - h1).abs() <= 180, h2 - h1, turn)
    turn = torch.where(grey, 0.0, turn)
    d_l, d_c, d_h = l2 - l1, c2 - c1, 2 * (c1 * c2).sqrt() * torch.sin(torch.deg2rad(turn / 2))

    light, chroma, hue = (l1 + l2) / 2, (c1 + c2) / 2, h1 + h2
    far = (h1 - h2).abs() > 180
    hue = torch.where(grey, hue, torch.where(far, torch.where(hue < 360, hue + 360, hue - 360), hue) / 2)
    cosine = lambda factor, offset: torch.cos(torch.deg2rad(factor * hue + offset))  # noqa: E731
    t = 1 - 0.17 * cosine(1, -30) + 0.24 * cosine(2, 0) + 0.32 * cosine(3, 6) - 0.20 * cosine(4, -63)
    s_l = 1 + 0.015 * (light - 50) ** 2 / (20 + (light - 50) ** 2).sqrt()
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    rotation = 60 * (-(((hue - 275) / 25) ** 2)).exp()
    blue = -2 * (chroma**7 / (chroma**7 + FADE)).sqrt() * torch.sin(torch.deg2rad(rotation))
    l_term, c_term, h_term = d_l / s_l, d_c / s_c, d_h / s_h
    return (l_term**2 + c_term**2 + h_term**2 + blue * c_term * h_term).clamp(min=0).sqrt()


def colourfulness(x: Tensor) -> Tensor:
    """sRGB (B,3,H,W) in 0..1 -> (B,): Hasler and Suesstrunk 2003, https://doi.org/10.1117/12.477378, M3 of values in 0..255.

    0 is grey, 15 slightly, 33 moderately, 59 quite and 109 extremely colourful (table 2).
    """
    red, green, blue = (255 * x.double()).flatten(2).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])
    spread, mean = opponents.var(2, unbiased=False).sum(0).sqrt(), opponents.mean(2).square().sum(0).sqrt()
    return spread + 0.3 * mean
