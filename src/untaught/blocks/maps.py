"""An encoder's feature maps."""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.core import Encoder, UserError, View


def map_shapes(encoder: Encoder, example: View) -> list[tuple[int, int, int]]:
    """(D,h,w) of each of the encoder's maps for a view like this. Raises UserError for views with padding."""
    if example.valid is not None:
        raise UserError("this method uses feature maps, which do not support padding; choose a method that uses pooled vectors or tokens")
    training = encoder.training
    with torch.no_grad():
        maps = encoder.eval().features(example, want=("maps",)).maps
    encoder.train(training)
    assert maps is not None
    return [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]


def pooled_and_maps(encoder: Encoder, view: View) -> tuple[Tensor, list[Tensor]]:
    """-> (B,D) and the vectors of each map (B,N,D) in row-major order, in one pass."""
    features = encoder.features(view, want=("pooled", "maps"))
    assert features.pooled is not None
    assert features.maps is not None
    return features.pooled, [m.flatten(2).transpose(1, 2) for m in features.maps]


def readable(encoder: Encoder, example: View) -> tuple[int, tuple[int, int] | None]:
    """What a decoder of images reads: the width and the grid of the encoder's last map; where it has none, of its pooled vector and
    None."""
    if "maps" not in encoder.offers or example.x.ndim != 4:
        return encoder.width, None
    width, high, wide = map_shapes(encoder, example)[-1]
    return width, (high, wide)


def read(encoder: Encoder, view: View, grid: tuple[int, int] | None) -> Tensor:
    """-> the last map (B,D,h,w), or the pooled vector (B,D) if there is no grid."""
    if grid is None:
        return encoder(view)
    maps = encoder.features(view, want=("maps",)).maps
    assert maps is not None
    return maps[-1]
