"""A head that predicts at every position of an image from an encoder's feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.convolution import Convolution


class DenseHead(nn.Module):
    """Feature maps (B,Di,hi,wi), fine to coarse -> (B,outside,h,w) at the resolution of the finest map that is used.

    Those with at least `stride` pixels of the view per position are used (or the last). Each is projected to `width`, upsampled to the
    finest and added, like the semantic branch of Panoptic FPN (Kirillov et al., CVPR 2019, section 3, https://arxiv.org/abs/1901.02446);
    a 3 x 3 convolution and a linear layer follow. BatchNorm and ReLU follow the sum and the convolution.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], side: int, stride: int, width: int, outside: int) -> None:
        super().__init__()
        self.used = [i for i, (_, height, _) in enumerate(shapes) if stride * height <= side] or [len(shapes) - 1]
        self.size = shapes[self.used[0]][1:]
        self.into = nn.ModuleList(nn.Conv2d(shapes[i][0], width, 1, bias=False) for i in self.used)
        self.mix = nn.Sequential(
            *(nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(Convolution(width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        )
        self.out = nn.Conv2d(width, outside, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[self.used[0]].shape[-2:]
        same = [
            F.interpolate(into(maps[i]), size, mode="bilinear", align_corners=False) for i, into in zip(self.used, self.into, strict=True)
        ]
        return self.out(self.mix(torch.stack(same).sum(0)))
