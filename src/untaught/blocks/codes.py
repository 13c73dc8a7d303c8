"""Scores of discrete codes at every place: which are chosen, for the health check."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CodeHead(nn.Conv2d):
    """A map (B, inside, h, w) -> the logits of its codes at every place (B, codes, h, w)."""

    def __init__(self, inside: int, codes: int) -> None:
        super().__init__(inside, codes, 1)

    def chosen(self, logits: Tensor) -> Tensor:
        """-> the code of the largest logit at every place (B,h,w)."""
        return logits.argmax(1)

    def chances(self, logits: Tensor) -> Tensor:
        """-> the mean chance of every code in each sample (B, codes)."""
        return logits.float().softmax(1).mean((2, 3))


class GroupedCodes(nn.Module):
    """Tokens x (B,M,C), counted (B,M) bool -> the logits of the codes of each group at every place (B,M,G,V)."""

    def __init__(self, inside: int, groups: int, codes: int) -> None:
        super().__init__()
        self.groups, self.codes = groups, codes
        self.linear = nn.Linear(inside, groups * codes)
        nn.init.normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, counted: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, (self.groups, self.codes))

    def chosen(self, logits: Tensor, counted: Tensor) -> Tensor:
        """-> the numbers of the codes of the largest logits at counted places, in one dimension; those of each group are apart."""
        return (logits.argmax(-1) + self.codes * torch.arange(self.groups, device=logits.device))[counted].flatten()

    def chances(self, logits: Tensor, counted: Tensor) -> Tensor:
        """-> the mean chance of every code in each sample, over counted places (B, G * V)."""
        weight = counted.float().unsqueeze(2)
        return (logits.float().softmax(-1).flatten(2) * weight).sum(1) / weight.sum(1).clamp(min=1)
