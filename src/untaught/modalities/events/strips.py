"""Rendering views of events: a strip of coloured squares, one colour per item."""

from __future__ import annotations

import numpy as np
import torch

from untaught.core import Options, Preprocessor, View
from untaught.modalities.events.items import SPECIAL
from untaught.ops.counter_rng import mix

ACROSS, SIDE = 10, 12  # squares in a row of the strip, pixels of a square
GREY, WHITE, BLACK = (200, 200, 200), (255, 255, 255), (0, 0, 0)


def render(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A view -> (B,H,W,3) uint8: its events in rows of ten, in order; the mask is black, an unseen item grey, padding white."""
    x = view.x.cpu()
    valid = torch.ones_like(x, dtype=torch.bool) if view.valid is None else view.valid.cpu()
    size = int(x.max()) + 1
    colours = np.array([_colour(number) for number in range(max(size, 3))], np.uint8)
    colours[SPECIAL["mask"]], colours[SPECIAL["unk"]], colours[SPECIAL["pad"]] = BLACK, GREY, WHITE
    squares = colours[x.masked_fill(~valid, SPECIAL["pad"]).numpy()]
    high = -(-x.shape[1] // ACROSS)
    padded = np.full((len(x), high * ACROSS, 3), 255, np.uint8)
    padded[:, : x.shape[1]] = squares
    grid = padded.reshape(len(x), high, ACROSS, 3)
    grid = np.repeat(np.repeat(grid, SIDE, 1), SIDE, 2)
    grid[:, SIDE - 1 :: SIDE], grid[:, :, SIDE - 1 :: SIDE] = 255, 255  # gaps
    return grid


def _colour(number: int) -> tuple[int, int, int]:
    bits = mix(number + 1)
    return (40 + bits % 190, 40 + (bits >> 16) % 190, 40 + (bits >> 32) % 190)
