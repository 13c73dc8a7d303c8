"""Cross-entropy over a large vocabulary in chunks, without storing all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from untaught.ops.masking import joined_count

CHUNK = 1 << 25  # logits stored at once, in the dtype of the products
CACHED = 1 << 20  # logits processed at once in float32 on a CPU, so that they fit into its cache


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """The sum of -log softmax(x weight^T + bias)[target] over counted rows -> a scalar, float32.

    x (N,D), weight (V,D), bias (V,), target (N,) int64, counted (N,) bool, by default all. Products use autocast's dtype, the softmax
    float32. Rows are processed in chunks, and gradients are computed in the forward pass, so that logits need not be kept.
    """
    if counted is not None:
        target = torch.where(counted, target, -1)
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    needed = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (x, weight, bias))
    with torch.autocast(x.device.type, enabled=False):
        return _LinearCrossEntropy.apply(x, weight, bias, target, dtype, needed)  # type: ignore[return-value]


def mean_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean version of `linear_cross_entropy` over the counted tokens of all processes: x (...,D), target, counted (...) -> a scalar."""
    counted = torch.ones_like(target, dtype=torch.bool) if counted is None else counted
    return linear_cross_entropy(x.flatten(0, -2), weight, bias, target.flatten(), counted.flatten()) / joined_count(counted)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, dtype: torch.dtype, needed: bool
    ) -> Tensor:
        low, w = x.to(dtype), weight.to(dtype)
        rows = min(len(x), max(1, CHUNK // len(weight)))
        few = max(1, CACHED // len(weight)) if x.device.type == "cpu" else rows
        loss = torch.zeros((), device=x.device)
        dx = torch.empty_like(low) if needed else None
        dw: Tensor | None = None
        db = torch.zeros_like(bias, dtype=torch.float32) if needed and bias is not None else None
        held = low.new_empty(rows, len(weight))
        for start in range(0, len(x), rows):
            some, wanted = low[start : start + rows], target[start : start + rows]
            slopes = torch.mm(some, w.T, out=held[: len(some)])
            for part, their in zip(slopes.split(few), wanted.split(few), strict=True):
                scores = part.float()
                if bias is not None:
                    scores += bias.float()
                real = their >= 0
                at = their.clamp(min=0).unsqueeze(1)
                picked = scores.gather(1, at)
                top = scores.amax(1, keepdim=True)
                total = scores.sub_(top).exp_().sum(1, keepdim=True)
                loss += torch.where(real, (total.log() + top - picked).squeeze(1), 0.0).sum()
                if not needed:
                    continue
                scores.mul_(real.unsqueeze(1) / total).scatter_add_(1, at, -real.float().unsqueeze(1))
                if db is not None:
                    db += scores.sum(0)
                part.copy_(scores)
            if needed:
                assert dx is not None
                torch.mm(slopes, w, out=dx[start : start + rows])
                part = slopes.T @ some
                dw = part if dw is None else dw.float().add_(part)  # summing many chunks in bfloat16 would lose small values
        ctx.save_for_backward(dx, dw, db)
        ctx.kinds = x.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        dx, dw, db = ctx.saved_tensors
        kind_x, kind_w, kind_b = ctx.kinds
        return (
            None if dx is None else (dx * gradient.to(dx.dtype)).to(kind_x),
            None if dw is None else dw.to(kind_w) * gradient.to(kind_w),
            None if db is None else (db * gradient).to(kind_b),
            None,
            None,
            None,
        )
