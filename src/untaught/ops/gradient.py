"""Gradients that are scaled on their way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * ctx.scale, None


def scaled_gradient(x: Tensor, scale: float) -> Tensor:
    """x itself, whose gradient is multiplied by `scale`. Baevski et al. 2020, section 4.2, https://arxiv.org/abs/2006.11477"""
    return x if scale == 1 else _Scaled.apply(x, scale)  # type: ignore[return-value]
