"""Transformers over sequences of items, causal and bidirectional.

Kang and McAuley, ICDM 2018, SASRec, https://arxiv.org/abs/1808.09781: item and learned position embeddings, blocks of self-attention and
a position-wise network of the same width with ReLU, dropout on embeddings, attention and both residual branches; an item's score is the
product of the last output with its embedding (section 3.4). Sun et al., CIKM 2019, BERT4Rec, https://arxiv.org/abs/1904.06690: the same
without the causal mask, the inner network four times as wide with GELU.
Differs from both: normalisation comes before each branch (SASRec's code normalises only the queries, BERT4Rec after the branch);
padding is on the right, so that positions count from the first event of the window. Differs from BERT4Rec: scores have no projection and
no bias per item (its equation 7), so that the encoder alone ranks items.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.dropout import Dropout
from untaught.blocks.transformer import attention
from untaught.core import Encoder, Features, Options, UserError, View
from untaught.ranges import Few, Start, Width, in_range


class EventTransformer(Encoder):
    """x (B,T) int64, valid (B,T) -> pooled (B,D), the mean over valid tokens; tokens and layers (B,T,D)."""

    def __init__(
        self, *, vocabulary: int, length: int, width: int, depth: int, heads: int, inner: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"encoder.width={width}: must be a multiple of its {heads} heads")
        self.shape: Options = {"width": width, "depth": depth, "heads": heads, "inner": inner, "dropout": dropout, "causal": causal}
        self.width, self.causal = width, causal
        self.offers = frozenset({"tokens", "layers", "words", "any_size", "causal" if causal else "bidirectional"})
        self.items, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.drop = Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, inner, dropout, nn.ReLU() if causal else nn.GELU()) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return self.context(*self.embed(view), want=want)

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        return self.items(view.x) * self.width**0.5, view.valid

    def context(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        causal: bool = False,
        want: tuple[str, ...] = ("tokens",),
    ) -> Features:
        if causal and not self.causal:
            raise UserError("bert4rec is bidirectional; causal methods need the encoder sasrec")
        order = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0) if at is None else at
        x, layers = self.drop(tokens + self.positions(order)), []
        mask = None if valid is None else valid[:, None, None, :]
        if self.causal:
            before = (order.unsqueeze(2) >= order.unsqueeze(1)).unsqueeze(1)  # (1 or B,1,N,N)
            mask = before if mask is None else before & mask
        for block in self.blocks:
            x = block(x, mask)
            layers.append(x)
        x = self.norm(x)
        pooled = None
        if "pooled" in want:
            pooled = x.mean(1) if valid is None else (x * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        return Features(pooled, x if "tokens" in want else None, valid, layers if "layers" in want else None)

    def grid(self, view: View) -> tuple[int, ...]:
        return (view.x.shape[1],)

    def words(self) -> nn.Module:
        return ItemScores(self.items)

    def shallower(self, share: float) -> Encoder:
        depth = max(1, round(share * self.shape["depth"]))
        vocabulary, length = self.items.num_embeddings, self.positions.num_embeddings
        smaller = EventTransformer(vocabulary=vocabulary, length=length, **{**self.shape, "depth": depth})
        smaller.items = self.items
        return smaller


class ItemScores(nn.Module):
    """Scores of all items: products with their embeddings. No weights of its own."""

    def __init__(self, items: nn.Embedding) -> None:
        super().__init__()
        self.items = items

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return tokens, self.items.weight, None

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.items.weight)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float, activation: nn.Module) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), activation, Dropout(dropout), nn.Linear(inner, width))
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B,N,D), mask (B,1,N,N) or (B,1,1,N), true where attended -> (B,N,D)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = attention(q, k, v, mask, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2)
        x = x + self.drop(self.out(read))
        return x + self.drop(self.mlp(self.norm2(x)))


@in_range
def sasrec(
    *, vocabulary: int, length: int, special: Options, width: Width = 64, depth: Few = 2, heads: Few = 2, dropout: Start = 0.2
) -> Encoder:
    """SASRec (Kang and McAuley 2018) at random init: an event attends to itself and those before. ids (B,T) -> pooled (B, width)."""
    shape: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "inner": width, "dropout": dropout, "causal": True}
    return EventTransformer(vocabulary=vocabulary, length=length, **shape)


@in_range
def bert4rec(
    *, vocabulary: int, length: int, special: Options, width: Width = 64, depth: Few = 2, heads: Few = 2, dropout: Start = 0.2
) -> Encoder:
    """BERT4Rec (Sun et al. 2019) at random init: an event attends to all. ids (B,T) -> pooled (B, width)."""
    shape: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "inner": 4 * width, "dropout": dropout, "causal": False}
    return EventTransformer(vocabulary=vocabulary, length=length, **shape)
