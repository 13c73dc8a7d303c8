"""A transformer whose tokens are patches of a series, as in PatchTST. Nie et al., ICLR 2023, section 3.1. https://arxiv.org/abs/2211.14730

Differs from PatchTST: a token contains all channels of its time steps (one, of series read `apart`), patches do not overlap, positions are
fixed sines (which work for any length) and blocks are pre-norm, with LayerNorm. The pooled vector is the mean over valid tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.local import Local
from untaught.blocks.transformer import Transformer, sine_positions
from untaught.core import Encoder, Features, UserError, View
from untaught.ops.gradient import scaled_gradient
from untaught.ranges import Few, Width, in_range

TOKENS = 20  # approximate number in the longest series, if patch is not given


class PatchSeries(Encoder):
    """x (B,T,C), valid (B,T) -> pooled (B,D), tokens and layers (B,N,D), N = ceil(T / patch); a token is valid if any time step is."""

    offers = frozenset({"tokens", "layers", "local", "any_size"})

    @in_range
    def __init__(
        self,
        *,
        channels: int = 1,
        length: int = 128,
        width: Width = 96,
        depth: Few = 4,
        heads: Few = 4,
        causal: bool = False,  # whether a token attends only to itself and those before
        patch: Few | None = None,  # time steps per token; if none, the longest series has about 20 tokens
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"encoder.width={width}: must be a multiple of its {heads} heads")
        self.local_width = width
        self.width, self.patch = width, max(1, round(length / TOKENS)) if patch is None else patch
        self.inside = nn.Linear(channels * self.patch, width)
        self.transformer = Transformer(width, depth, heads)
        self.causal = causal
        self.offers = PatchSeries.offers | ({"causal"} if causal else set())

    @property
    def blocks(self) -> nn.Module:
        return self.transformer.blocks

    def grid(self, view: View) -> tuple[int, ...]:
        return (-(-view.x.shape[1] // self.patch),)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return self.context(*self.embed(view), want=want)

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        x, valid = view.x, view.valid
        if valid is not None:
            x = torch.where(valid.unsqueeze(2), x, 0.0)
        count = -(-x.shape[1] // self.patch)
        behind = count * self.patch - x.shape[1]  # always padded, even by 0: a traced program must not branch on the length
        x = F.pad(x, (0, 0, 0, behind))
        tokens = self.inside(x.reshape(x.shape[0], count, self.patch * x.shape[2]))
        if valid is not None:
            valid = F.pad(valid, (0, behind)).reshape(x.shape[0], count, self.patch).any(2)
        return tokens, valid

    def local(self, view: View, gradient: float = 1.0) -> Local:
        """The local features are the tokens."""
        tokens, valid = self.embed(view)
        tokens = scaled_gradient(tokens, gradient)
        return Local(tokens, F.layer_norm(tokens, tokens.shape[2:]), tokens, valid)

    def context(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        causal: bool = False,
        want: tuple[str, ...] = ("tokens",),
    ) -> Features:
        if causal and not self.causal:
            raise UserError("patch_series is bidirectional; causal methods need the encoder patch_causal")
        if at is None:
            positions = sine_positions((tokens.shape[1],), self.width).to(tokens)
        else:
            share = self.width // 2
            frequency = 1 / 10000 ** (torch.arange(share, device=tokens.device, dtype=torch.float64) / share)
            angle = at.unsqueeze(2) * frequency
            positions = F.pad(torch.cat([angle.sin(), angle.cos()], 2), (0, self.width - 2 * share)).to(tokens)
        x, layers = tokens + positions, []
        mask = None if valid is None else valid[:, None, None, :]
        if self.causal:
            order = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0) if at is None else at
            before = (order.unsqueeze(2) >= order.unsqueeze(1)).unsqueeze(1)  # (B,1,N,N)
            mask = before if mask is None else before & mask
        for block in self.transformer.blocks:
            x = block(x, mask)
            layers.append(x)
        x = self.transformer.norm(x)
        pooled = None
        if "pooled" in want:
            pooled = x.mean(1) if valid is None else (x * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        return Features(pooled, x if "tokens" in want else None, valid, layers if "layers" in want else None)


@in_range
def patch_causal(
    *, channels: int = 1, length: int = 128, width: Width = 96, depth: Few = 4, heads: Few = 4, patch: Few | None = None
) -> Encoder:
    """PatchSeries in which a token attends only to itself and those before."""
    return PatchSeries(channels=channels, length=length, width=width, depth=depth, heads=heads, patch=patch, causal=True)
