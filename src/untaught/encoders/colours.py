"""The pixels themselves as features: the baseline of dense probes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Encoder, Features, View

SCALES = (1, 4, 16)  # pixels over which colours are averaged


class Colours(Encoder):
    """x (B,C,H,W) -> a map (B, 3 * C, H, W): at every pixel, its colour and the mean colours of blocks of 4 x 4 and 16 x 16 around it."""

    offers = frozenset({"maps", "any_size"})
    stride = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = len(SCALES) * channels

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        x: Tensor = view.x.float()
        height, width = x.shape[2:]
        coarse = [F.adaptive_avg_pool2d(x, (max(1, height // scale), max(1, width // scale))) for scale in SCALES]
        every = torch.cat([F.interpolate(y, (height, width), mode="bilinear", align_corners=False) for y in coarse], 1)
        return Features(pooled=every.mean((2, 3)), maps=[every] if "maps" in want else None)
