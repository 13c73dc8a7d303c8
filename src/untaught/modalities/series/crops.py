"""Views that are parts of a series as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, View
from untaught.modalities.series.normalise import finished, normalised
from untaught.ops.counter_rng import CounterRNG


def excerpt(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The whole series, normalised, x (B,T,C); of one that is longer than `most` steps, so many, anywhere in it."""
    values, observed = normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    count = length.clamp(max=options["most"])
    return _subseries(values, observed, rng.integers(0, length - count), count, options)


def nested(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A subseries, normalised, x (B,T,C) from its first step; meta["inner"] (B,2) int64, the first step of a subseries of it and the one
    behind its last. T-Loss, algorithm 1: the inner length is uniform up to the series', the outer one between both, so are their places."""
    values, observed = normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    inner = rng.integers(1, length)
    outer = rng.integers(inner, length)
    view = _subseries(values, observed, rng.integers(0, length - outer), outer, options)
    start = rng.integers(0, outer - inner)
    view.meta = {"inner": torch.stack([start, start + inner], 1)}
    return view


def subseries(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A subseries of any length, normalised, x (B,T,C) from its first step. T-Loss, algorithm 1."""
    values, observed = normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    count = rng.integers(1, length)
    return _subseries(values, observed, rng.integers(0, length - count), count, options)


def _subseries(values: Tensor, observed: Tensor, start: Tensor, count: Tensor, options: Options) -> View:
    """`count` steps from `start` (B,) of the values (B,T,C), in a view of at most `most` steps."""
    place = torch.arange(min(values.shape[1], options.get("most", values.shape[1])), device=values.device)
    at = (start.unsqueeze(1) + place).clamp(max=values.shape[1] - 1)
    shown = lambda part: part.gather(1, at.unsqueeze(2).expand(-1, -1, part.shape[2]))  # noqa: E731
    valid = place < count.unsqueeze(1)
    return finished(shown(values), shown(observed) & valid.unsqueeze(2), valid, options)
