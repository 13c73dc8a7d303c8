"""A head of cosines to prototypes. Caron et al. 2021, DINO, https://arxiv.org/abs/2104.14294"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PrototypeHead(nn.Module):
    """x (..., D) -> (..., K), cosines to the prototypes: two hidden layers with GELU, L2-normalised bottleneck and prototypes."""

    def __init__(self, inside: int, hidden: int, bottleneck: int, prototypes: int, normed: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm1d if normed else nn.Identity
        self.mlp = nn.Sequential(
            *(nn.Linear(inside, hidden), norm(hidden), nn.GELU()),
            *(nn.Linear(hidden, hidden), norm(hidden), nn.GELU()),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.cosines(self.mlp(x.flatten(0, -2)).unflatten(0, x.shape[:-1]))

    def cosines(self, z: Tensor) -> Tensor:
        """z (..., bottleneck) -> (..., K)."""
        return F.linear(F.normalize(z, dim=-1), F.normalize(self.prototypes.weight))


def prototypes_for(rows: int) -> int:
    """One prototype per 20 samples, the ratio of DINO's 65,536 to ImageNet; from 1024 to 65,536."""
    return min(65_536, max(1024, rows // 20))
