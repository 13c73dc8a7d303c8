"""Projectors and predictors."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(*widths: int, last_norm: bool = False) -> nn.Sequential:
    """Linear layers from widths[0] to widths[-1], with BatchNorm and ReLU between them; last_norm appends a BatchNorm."""
    layers: list[nn.Module] = []
    for i, (inside, outside) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        normed = last_norm or not last
        layers.append(nn.Linear(inside, outside, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(outside))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
