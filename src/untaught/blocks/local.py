"""What tokens are made of: the ability "local" of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from untaught.core import View


@dataclass
class Local:
    """Features of each token's own span of the input, before tokens attend to each other."""

    raw: Tensor  # (B,N,C), outputs of the layers that read the input
    normed: Tensor  # (B,N,C), the same with LayerNorm
    tokens: Tensor  # (B,N,D), projections of them, as from `embed`
    valid: Tensor | None  # (B,N)


class HasLocal(Protocol):
    """An encoder that offers "local"."""

    local_width: int  # channels of the local features

    def local(self, view: View, gradient: float = 1.0) -> Local:
        """The local features and tokens of a view; gradients of the layers that read the input are multiplied by `gradient`."""
        ...
