"""Scores of discrete codes at every place of a map."""

from __future__ import annotations

from torch import Tensor, nn


class CodeHead(nn.Conv2d):
    """A map (B, inside, h, w) -> the logits of its codes at every place (B, codes, h, w)."""

    def __init__(self, inside: int, codes: int) -> None:
        super().__init__(inside, codes, 1)

    def chosen(self, logits: Tensor) -> Tensor:
        """-> the code of the largest logit at every place (B,h,w)."""
        return logits.argmax(1)
