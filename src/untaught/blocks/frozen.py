"""Trained encoders that a method only reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from untaught.core import Features, FrozenEncoder, View


class Frozen(nn.Module):
    """view -> the features of each encoder, without gradients and in eval mode.

    The encoders move with the method to its device, but are not in its parameters, state and checkpoints: who resumes a run loads them
    again.
    """

    def __init__(self, given: Sequence[FrozenEncoder]) -> None:
        super().__init__()
        self.given = tuple(given)  # in a tuple, so that they are not submodules
        for one in self.given:
            one.encoder.requires_grad_(False).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        """What `to(device)` and `to(memory_format=...)` call."""
        super()._apply(fn, recurse)
        for one in self.given:
            one.encoder._apply(fn)
        return self

    @torch.no_grad()
    def forward(self, view: View, wants: Sequence[tuple[str, ...]]) -> list[Features]:
        """wants: what to compute, for each encoder. See Encoder.features."""
        return [one.encoder.features(one.adapt(view), want=want) for one, want in zip(self.given, wants, strict=True)]
