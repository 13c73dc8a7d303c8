"""A small convolutional network on log-mel spectrograms, for CPUs.

Frames and bands are merged 2 x 4, then 2 x 2 and 2 x 2, by linear layers, with residual 3 x 3 convolutions in between; LayerNorm over
channels at every place. All bands of a span of 80 ms become one vector, and the pooled vector is the mean of these over time plus their
maximum, as in BYOL-A (Niizumi et al. 2021, section III, https://arxiv.org/abs/2103.06695). What lies beyond the end is set to 0 before
every convolution, so that padding has no effect.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Features, UserError, View
from untaught.ranges import Few, Width, in_range

BANDS = (4, 2, 2)  # bands merged by each stage; frames are merged in pairs


class _Convolution(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B,F,M,D), valid (B,F,1,1) -> the same shape."""
        y = self.conv((x * valid).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + F.relu(self.norm(y))


class ConvMel(Encoder):
    """x (B,F,M), valid (B,F) -> (B, 16 * width), and as tokens the vectors of all spans of 8 frames; any length."""

    offers = frozenset({"any_size", "sequence"})

    @in_range
    def __init__(self, *, channels: int = 64, length: int = 100, width: Width = 32, depth: Few = 1) -> None:
        super().__init__()
        if channels % 16:
            raise UserError(f"conv_mel takes spectrograms whose number of bands is a multiple of 16, not {channels}")
        inside, places = 1, channels
        self.merges, self.norms, self.stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for bands, outside in zip(BANDS, (2 * width, 4 * width, 8 * width), strict=True):
            self.merges.append(nn.Linear(2 * bands * inside, outside, bias=False))
            self.norms.append(nn.LayerNorm(outside))
            self.stages.append(nn.ModuleList(_Convolution(outside) for _ in range(depth)))
            inside, places = outside, places // bands
        self.width, self.stride = 16 * width, 1 << len(BANDS)
        self.out = nn.Sequential(nn.Linear(inside * places, self.width, bias=False), nn.LayerNorm(self.width), nn.ReLU())

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        valid = view.x.new_ones(view.x.shape[:2], dtype=torch.bool) if view.valid is None else view.valid
        count = (view.x.shape[1] + self.stride - 1) // self.stride
        behind = count * self.stride - view.x.shape[1]  # always padded, even by 0: a traced program must not branch on the length
        valid = F.pad(valid, (0, behind))
        x = (F.pad(view.x, (0, 0, 0, behind)) * valid.unsqueeze(2)).unsqueeze(3)
        for bands, merge, norm, stage in zip(BANDS, self.merges, self.norms, self.stages, strict=True):
            long, high, deep = x.shape[1:]
            x = x.reshape(x.shape[0], long // 2, 2, high // bands, bands, deep).transpose(2, 3).flatten(3)  # (B,F/2,M/bands,2*bands*D)
            valid = valid.reshape(x.shape[0], long // 2, 2).any(2)
            seen = valid[:, :, None, None]
            x = F.relu(norm(merge(x)))
            for convolution in stage:  # type: ignore[union-attr]
                x = convolution(x, seen)
        x = self.out(x.flatten(2))
        mean = (x * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        pooled = mean + x.masked_fill(~valid.unsqueeze(2), float("-inf")).amax(1)
        return Features(pooled, x if "tokens" in want else None, valid)
