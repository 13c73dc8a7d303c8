"""Every view's distribution over prototypes predicts that of the others: what DINO, SwAV and their kin have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_view_entropy(log_said: Tensor, target: Tensor) -> Tensor:
    """log_said (S,B,K) log-probabilities, target (T,B,K) probabilities of the first T <= S of the same views -> a scalar.

    The cross-entropy averaged over the batch and over all pairs of different views.
    """
    with torch.autocast(log_said.device.type, enabled=False):
        each = -(target.flatten(1) @ log_said.flatten(1).T) / log_said.shape[1]  # (T,S)
    return (each.sum() - each.diagonal().sum()) / (each.numel() - len(each))


def token_entropy(log_said: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """log_said, target (B,N,K), counted (B,N) bool -> a scalar: the cross-entropy averaged over the counted tokens of a sample, then
    over the samples; one without any adds 0. Zhou et al. 2022, iBOT, equation 3."""
    with torch.autocast(log_said.device.type, enabled=False):
        each = -(target * log_said).sum(-1)
    return ((each * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()
