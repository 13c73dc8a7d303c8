"""A plain pre-norm decoder with cross-attention. Vaswani et al. 2017, section 3.1, https://arxiv.org/abs/1706.03762"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.transformer import attention, sine_positions


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to a memory, and an MLP, each pre-norm and residual."""

    def __init__(self, width: int, heads: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value, self.read = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, int(width * ratio)), nn.GELU(), nn.Linear(int(width * ratio), width))

    def forward(self, x: Tensor, memory: Tensor, before: Tensor, memory_mask: Tensor | None) -> Tensor:
        """x (B,T,D), memory (B,M,D), before (T,T) and memory_mask (B,1,1,M) bool, true where attended -> (B,T,D)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(attention(q, k, v, before).transpose(1, 2).flatten(2))
        q = self.query(self.norm2(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.read(attention(q, k, v, memory_mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm3(x))


class Decoder(nn.Module):
    """Fixed positions, `depth` blocks and a final LayerNorm; tokens attend to themselves, earlier tokens and the memory."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor, memory_valid: Tensor | None = None) -> Tensor:
        """x (B,T,D), memory (B,M,D), memory_valid (B,M) bool -> (B,T,D)."""
        count = x.shape[1]
        before = torch.ones(count, count, dtype=torch.bool, device=x.device).tril()
        mask = None if memory_valid is None else memory_valid[:, None, None, :]
        x = x + sine_positions((count,), x.shape[2]).to(x)
        for block in self.blocks:
            x = block(x, memory, before, mask)
        return self.norm(x)
