"""The encoder interface: views to vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from untaught.core.view import View

Want = tuple[str, ...]  # outputs of one forward pass: any of pooled, tokens, layers, maps


@dataclass
class Features:
    """The outputs of one forward pass of an encoder; those not in `want` are None."""

    pooled: Tensor | None = None  # (B,D)
    tokens: Tensor | None = None  # (B,N,D)
    valid: Tensor | None = None  # (B,N)
    layers: list[Tensor] | None = None  # (B,N,D) each
    maps: list[Tensor] | None = None  # (B,Di,hi,wi), fine to coarse


class Rows(Protocol):
    """Causal maps of images that are completed row by row. It begins at the first row."""

    def vectors(self, row: Tensor) -> Tensor:
        """The current row (B,C,W), whose later values may be anything -> (B,W,C,D), as in `causal_maps` of the whole image."""
        ...

    def advance(self, row: Tensor) -> None:
        """Goes on to the next row; row (B,C,W): the current one, completed."""
        ...


class Encoder(nn.Module):
    """Maps a view to vectors. `offers` names abilities beyond pooled vectors: "sequence": tokens in order of time, "steps": at each."""

    width: int
    offers: frozenset[str] = frozenset()  # tokens layers local steps maps attention causal any_size words decoder causal_maps ...
    layered: bool = False  # whether it is evaluated as a weighted sum of its layers
    stride: int = 0  # pixels per position of its last map; 0 if unknown

    def forward(self, view: View) -> Tensor:
        """-> (B, width), pooled as trained."""
        pooled = self.features(view).pooled
        assert pooled is not None
        return pooled

    def features(self, view: View, want: Want = ("pooled",)) -> Features:
        """The outputs in `want`, in one forward pass. They do not depend on the view's padding."""
        raise NotImplementedError

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        """-> tokens (B,N,D) and their validity (B,N), without position embeddings. Only with "tokens"."""
        raise NotImplementedError

    def context(
        self, tokens: Tensor, valid: Tensor | None = None, at: Tensor | None = None, causal: bool = False, want: Want = ("tokens",)
    ) -> Features:
        """Adds position embeddings, then attends to valid tokens; `at` (B,K): positions of the tokens in the view. Only with "tokens"."""
        raise NotImplementedError

    def tokens_at(self, view: View, at: Tensor) -> Tensor:
        """-> the tokens (B,K,D) at the positions `at` (B,K). Only with "tokens"."""
        tokens = self.features(view, want=("tokens",)).tokens
        assert tokens is not None
        return tokens.gather(1, at.unsqueeze(2).expand(-1, -1, tokens.shape[2]))

    def grid(self, view: View) -> tuple[int, ...]:
        """The grid shape of a view's tokens: (h,w), (t,) or (t,h,w). Only with "tokens"."""
        raise NotImplementedError

    def attention(self, view: View) -> Tensor:
        """How much the class token attends to each token in the last block (B,heads,N), in float32; without a class token, the mean over
        the attending tokens. Only with "attention"."""
        raise NotImplementedError

    def words(self) -> Any:
        """A vocabulary head: `parts(tokens (...,D))` -> (...,E), weight (V,E), bias (V,) or None. Only with "words"."""
        raise NotImplementedError

    def shallower(self, share: float) -> Encoder:
        """A new encoder of the same class and width, with this share of its blocks and the same token embedding. Only with "words"."""
        raise NotImplementedError

    def adopt(self, trained: Encoder) -> None:
        """Takes over the weights of an encoder of the same class with other columns: shared ones by name. Only with "columns"."""
        raise NotImplementedError

    @property
    def start(self) -> int:
        """The id of the token that decoding starts with. Only with "decoder"."""
        raise NotImplementedError

    def decode(self, ids: Tensor, memory: Tensor, memory_valid: Tensor | None = None) -> Tensor:
        """ids (B,T), with causal attention, and cross-attention to memory (B,N,D) -> (B,T,D). Only with "decoder"."""
        raise NotImplementedError

    def causal_maps(self, view: View) -> Tensor:
        """x (B,C,H,W) -> (B,H,W,C,D): for each value, a vector of those before it (row by row, the channels of a pixel in turn), in which
        neither the value itself nor any later one is seen. Only with "causal_maps"."""
        raise NotImplementedError

    def causal_rows(self, count: int, width: int) -> Rows:
        """The same vectors for `count` images of this width, of which only the rows so far are known. Only with "causal_maps"."""
        raise NotImplementedError
