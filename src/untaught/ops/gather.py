"""All-gather that gradients flow through.

One convention holds for every loss: the mean over processes of what each returns is the loss of the joined batch. A mean over a
process's own share keeps it, and so does a loss of gathered rows that is the same everywhere. The backward of a gather sums
what all processes ask of a row, and the engine averages the gradients of parameters over processes; together they give exactly
the gradient of the joined batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may hand the same one to others
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """x (B, ...) of every process, equally long, joined in rank order -> (world x B, ...); x itself with one process."""
    return _Gather.apply(x) if world_size() > 1 else x  # type: ignore[return-value]
