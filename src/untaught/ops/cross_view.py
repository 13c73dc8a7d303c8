"""Cross-entropy between views' distributions over prototypes, as in DINO, SwAV and related methods."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_view_entropy(log_student: Tensor, target: Tensor) -> Tensor:
    """log_student (S,B,K) log-probabilities, target (T,B,K) probabilities of the first T <= S of the same views -> a scalar:
    the cross-entropy averaged over the batch and all pairs of different views.
    """
    with torch.autocast(log_student.device.type, enabled=False):
        each = -(target.flatten(1) @ log_student.flatten(1).T) / log_student.shape[1]  # (T,S)
    return (each.sum() - each.diagonal().sum()) / (each.numel() - len(each))


def token_entropy(log_student: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """log_student, target (B,N,K), counted (B,N) bool -> a scalar: the cross-entropy averaged over the counted tokens of a sample, then
    over samples; a sample without counted tokens contributes 0. Zhou et al. 2022, iBOT, equation 3."""
    with torch.autocast(log_student.device.type, enabled=False):
        each = -(target * log_student).sum(-1)
    return ((each * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()
