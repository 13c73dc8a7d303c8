"""Views that are parts of a series as it is: two that overlap, one within another."""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, View
from untaught.modalities.series.normalise import finished, normalised
from untaught.ops.counter_rng import CounterRNG


def overlap(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Two crops that overlap, normalised: x (B,T,C) from the start of the first to the end of the second; meta["crops"] (B,2,2) int64,
    the first step of each in x and the one behind its last. TS2Vec, section 3.2, drawn as in its code.

    The overlap has 2 steps or more, all lengths being equally likely; so are all beginnings of the first crop before it, ends of the second
    behind it, and places of both in the series.
    """
    values, observed = normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    within = length.clamp(max=options["most"])  # a window in which both lie
    common = _drawn(rng, within.clamp(max=2), within)
    left = _drawn(rng, torch.zeros_like(within), within - common)
    start, end = _drawn(rng, torch.zeros_like(within), left), _drawn(rng, left + common, within)
    shift = _drawn(rng, torch.zeros_like(within), length - (end - start))
    count = min(values.shape[1], options["most"])
    at = (shift.unsqueeze(1) + torch.arange(count, device=values.device)).clamp(max=values.shape[1] - 1)
    shown = lambda part: part.gather(1, at.unsqueeze(2).expand(-1, -1, part.shape[2]))  # noqa: E731
    valid = torch.arange(count, device=values.device) < (end - start).unsqueeze(1)
    view = finished(shown(values), shown(observed) & valid.unsqueeze(2), valid, options)
    first, second = torch.stack([torch.zeros_like(left), left + common - start], 1), torch.stack([left - start, end - start], 1)
    view.meta = {"crops": torch.stack([first, second], 1)}
    return view


def nested(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A subseries, normalised, x (B,T,C) from its first step; meta["inner"] (B,2) int64, the first step of a subseries of it and the one
    behind its last. T-Loss, algorithm 1: the inner length is uniform up to the series', the outer one between both, so are their places."""
    values, observed = normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    inner = _drawn(rng, torch.ones_like(length), length)
    outer = _drawn(rng, inner, length)
    view = _subseries(values, observed, _drawn(rng, torch.zeros_like(length), length - outer), outer, options)
    start = _drawn(rng, torch.zeros_like(length), outer - inner)
    view.meta = {"inner": torch.stack([start, start + inner], 1)}
    return view


def subseries(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A subseries of any length, normalised, x (B,T,C) from its first step. T-Loss, algorithm 1."""
    values, observed = normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    count = _drawn(rng, torch.ones_like(length), length)
    return _subseries(values, observed, _drawn(rng, torch.zeros_like(length), length - count), count, options)


def _drawn(rng: CounterRNG, low: Tensor, high: Tensor) -> Tensor:
    """A uniform int64 from low to high (B,)."""
    return low + (rng.uniform() * (high - low + 1)).floor().long().minimum(high - low)


def _subseries(values: Tensor, observed: Tensor, start: Tensor, count: Tensor, options: Options) -> View:
    """`count` steps from `start` (B,) of the values (B,T,C)."""
    place = torch.arange(values.shape[1], device=values.device)
    at = (start.unsqueeze(1) + place).clamp(max=values.shape[1] - 1)
    shown = lambda part: part.gather(1, at.unsqueeze(2).expand(-1, -1, part.shape[2]))  # noqa: E731
    valid = place < count.unsqueeze(1)
    return finished(shown(values), shown(observed) & valid.unsqueeze(2), valid, options)
