"""A pre-norm transformer, and fixed positions for a grid of tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.dropout import dropout as drop

LARGE = 1 << 28  # attention weights stored for the backward pass per call, at most


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, causal: bool = False, scale: float | None = None
) -> Tensor:
    """q (...,N,D), k (...,M,D), v (...,M,E), mask (...,N or 1,M) bool true where attended -> (...,N,E). Vaswani et al. 2017, equation 1.

    Uses the fused kernel except for training on a CPU, where its bfloat16 backward takes 30 times as long as plain products.
    """
    weighed = math.prod(q.shape[:-1]) * k.shape[-2]  # not numel(), which would make a traced size constant
    if q.device.type != "cpu" or not torch.is_grad_enabled() or weighed > LARGE:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal and mask is None, scale=scale)
    if causal and mask is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    weights = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)  # not -inf: padding may attend to nothing at all
    weights = weights.softmax(-1)
    return (drop(weights, dropout) if dropout else weights) @ v


class Block(nn.Module):
    """Self-attention and an MLP, each pre-norm and residual. Dosovitskiy et al. 2021, section 3.1."""

    def __init__(self, width: int, heads: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, int(width * ratio)), nn.GELU(), nn.Linear(int(width * ratio), width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B,N,D), mask (B,1,1,N) bool true where attended, or None -> (B,N,D)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm. x (B,N,D), valid (B,N) -> (B,N,D)."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        mask = None if valid is None else valid[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


def rows_for(positions: Tensor, count: int) -> Tensor:
    """The first `count` rows of sine_positions; computed if the table is too short, which can only happen for one-dimensional grids."""
    return positions[:count] if count <= len(positions) else sine_positions((count,), positions.shape[1]).to(positions)


def sine_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Sines and cosines of the positions along each axis of the grid, each with an equal share of the width -> (N, width).

    Vaswani et al. 2017, section 3.5; for two axes as in MAE.
    """
    share = width // (2 * len(grid))
    frequency = 1 / 10000 ** (torch.arange(share, dtype=torch.float64) / share)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in axes]
    table = torch.cat([f for angle in angles for f in (angle.sin(), angle.cos())], 1)
    return F.pad(table, (0, width - table.shape[1])).float()
