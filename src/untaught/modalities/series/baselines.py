"""Series without an encoder: their values, and MiniRocket's features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from untaught.core import Batch, Preprocessor
from untaught.modalities.series.normalise import normalised
from untaught.ops.interpolation import linear_at
from untaught.ops.minirocket import MiniRocket

RAW = 256  # maximum time steps of the raw baseline


def raw(batch: Batch, prep: Preprocessor) -> np.ndarray:
    """The values, each series resampled to one length (the longest, at most 256); missing values are set to their channel's mean.

    For series of equal length, 1-NN on these is the Euclidean baseline of the UCR archive.
    """
    values, valid = batch["values"].float(), batch["values_valid"]
    observed = values.isfinite() & valid.unsqueeze(2)
    values = values.nan_to_num(0.0)
    mean = (values * observed).sum(1, keepdim=True) / observed.sum(1, keepdim=True).clamp(min=1)
    count = min(prep.settings["length"], RAW)
    at = torch.linspace(0, 1, count) * (valid.sum(1, keepdim=True) - 1)
    return linear_at(torch.where(observed, values, mean), at).flatten(1).numpy()


def mini_rocket(batch: Batch, prep: Preprocessor) -> Callable[[Batch, Preprocessor], np.ndarray]:
    """MiniRocket, fitted to training series: a function of a batch -> (B,F). Missing values are interpolated."""
    rocket = MiniRocket.fit(*complete(batch, prep))
    return lambda given, own: rocket(*complete(given, own)).numpy()


def complete(batch: Batch, prep: Preprocessor) -> tuple[Tensor, Tensor]:
    """Standardised by channel: x (B,T,C), missing values interpolated linearly, a channel without any 0; and valid (B,T)."""
    x, observed = normalised(batch, {"standardise": "channel"}, prep.statistics)
    valid = batch["values_valid"]
    gaps = (valid.unsqueeze(2) & ~observed).any(1).nonzero().tolist()
    for row, channel in gaps:
        known = observed[row, :, channel].nonzero().squeeze(1)
        if len(known):
            filled = np.interp(np.arange(x.shape[1]), known.numpy(), x[row, known, channel].numpy())
            x[row, :, channel] = torch.from_numpy(filled).float() * valid[row]
    return x, valid
