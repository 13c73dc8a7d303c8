"""The view for densities of images: every value one of 256 integer levels."""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, View
from untaught.modalities.image.augment import augmented
from untaught.ops.counter_rng import CounterRNG

LEVELS = 256
BITS = 8  # of a level


def levels(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The center crop as integers: target (B,C,size,size) int64 in 0..255, and x the same levels, normalised.

    An image stored in 8 bits at the view's size has exactly its own bytes as levels. Anything else is quantised after resampling, to the
    nearest level: views of another size, images that are not square, and images of more than 8 bits, so that bits per dimension are those
    of the image in 8 bits. Integers with another white level (`max_value`) are scaled to 0..255 when stored.
    """
    view = augmented(batch, rng, options, prep)
    mean, std = (torch.tensor(prep.statistics[key], device=view.x.device).view(-1, 1, 1) for key in ("mean", "std"))
    target = quantised(view.x * std + mean)
    return View((target / (LEVELS - 1) - mean) / std, target=target, meta=view.meta)


def rounded(views: tuple[str, ...], settings: Options) -> list[str]:
    """How images of more than 8 bits are quantised, if one of the views is `levels`."""
    if "levels" not in views or settings["bits"] <= BITS:
        return []
    return [f"levels: images of {settings['bits']} bits are rounded to {LEVELS} levels; bits per dimension are those of the rounded images"]


def quantised(x: Tensor) -> Tensor:
    """Values in 0..1 -> the nearest level, int64 in 0..255."""
    return (x * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()
