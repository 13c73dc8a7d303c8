"""Decoders from a vector to a whole sample, whatever numbers it consists of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.mlp import mlp
from untaught.blocks.pixel_decoder import PixelDecoder
from untaught.blocks.series_decoder import SeriesDecoder
from untaught.core import UserError, View
from untaught.ops.masking import masked_mean


class DenseDecoder(nn.Module):
    """A vector (B, inside) for each sample of a view -> (B, each, *its shape): `each` numbers for every number of x.

    Images x (B,C,H,W), series x (B,T,C) with `valid`, vectors x (B,D); `example` is a view of some samples. With `grid`, an image is
    decoded from a map of vectors (B, inside, *grid). Raises UserError for views of anything else.
    """

    def __init__(self, inside: int, example: View, method: str, *, each: int = 1, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        x = example.x
        if isinstance(x, dict) or not x.is_floating_point() or x.ndim not in (2, 3, 4) or (x.ndim == 4 and example.valid is not None):
            raise UserError(f"{method} reconstructs numbers: images, series or rows of numbers; for text, use tsdae or mlm")
        self.each = each
        if x.ndim == 4:
            self.net: nn.Module = PixelDecoder(inside, (each * x.shape[1], x.shape[2], x.shape[3]), grid=grid)
        elif x.ndim == 3:
            self.net = SeriesDecoder(inside, each * x.shape[2])
        else:
            self.net = mlp(inside, 4 * max(inside, x.shape[1]), each * x.shape[1])

    def forward(self, code: Tensor, view: View) -> Tensor:
        if view.x.ndim == 3:
            valid = view.x.new_ones(view.x.shape[:2], dtype=torch.bool) if view.valid is None else view.valid
            return self.net(code, valid).float().unflatten(2, (self.each, -1)).movedim(2, 1)
        return self.net(code).float().unflatten(1, (self.each, -1))


def mean_over(error: Tensor, valid: Tensor | None) -> Tensor:
    """error (B, ...) -> a scalar: the mean, of all processes. valid: (B,T) or of the error's shape; False for values that do not count."""
    if valid is None:
        return error.mean()
    return masked_mean(error.flatten(2).mean(2) if valid.ndim < error.ndim else error, valid)
