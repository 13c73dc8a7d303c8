"""Time series: one or more channels, variable length, missing values -> augmented views.

A view is x (B,T,C), time on axis 1, with `valid` (B,T) False for padding. A missing value is 0 after normalisation; if the data have
missing values, each channel gets an indicator channel (1: missing). Augmentations: crop, time warp and magnitude warp (Um et al. 2017,
https://arxiv.org/abs/1706.00527), jitter and scaling (TS-TCC, Eldele et al. 2021, https://arxiv.org/abs/2106.14112), and dropped time steps
and overlapping crops (TS2Vec, Yue et al. 2022, section 3.2, https://arxiv.org/abs/2106.10466), dropped frequencies (frequency masking of
FrAug, Chen et al. 2023, https://arxiv.org/abs/2302.09292), subseries within subseries (T-Loss, Franceschi et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from untaught.core import Batch, Modality, Options, Preprocessor, Record, UserError, View
from untaught.data.step_rows import CHANNELS, CLOCK
from untaught.modalities.corruption import corruption_fault
from untaught.modalities.series_future import CLOCKED, future
from untaught.modalities.series_plots import PRETEXTS, render
from untaught.modalities.token_masks import masked_runs, masked_tokens, target_runs, tokens_of
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.interpolation import linear_at
from untaught.ops.minirocket import MiniRocket
from untaught.ranges import Within, outside

FEW = 16  # values of a token, under which its own mean and standard deviation say little; chosen on validation parts of three data sets
FLAT = 0.1  # deviation, in units of the data's, under which the beginning of a series says nothing of its scale
WAVES = 4  # sines summed to a smooth random curve
CORRUPTIONS = ("masking", "gaussian")
RAW = 256  # maximum time steps of the raw baseline
LENGTHS = Within(2, 1 << 20)

# ---------------------------------------------------------------------------------------------- records to arrays


def plan(records: list[Record], overrides: Options) -> Options:
    """Channels, maximum length, and whether values are missing (unless `missing` is given), from a sample of the records."""
    apart, until = bool(overrides.get("apart")), float(overrides.get("until") or 0)
    standardise = overrides.get("standardise", "sample" if apart else "channel")
    if standardise not in ("channel", "sample", "none"):
        raise UserError(f"standardise={standardise}: must be channel, sample or none")
    if apart and standardise == "channel":
        raise UserError("standardise=channel: with apart=True all channels share one network; choose sample (the default there) or none")
    found, faults = [], []
    for record in records:
        try:
            found.append(_values(record["series"]))
        except ValueError as error:
            faults.append(str(error))
    if not found:
        raise UserError(f"none of the first {len(records)} series can be read: {faults[0] if faults else 'no records'}")
    window, stride = int(overrides.get("window") or 0), int(overrides.get("stride") or 0)
    if stride and not window:
        raise UserError(f"stride={stride}: needs window=N, the time steps of a piece")
    channels = {values.shape[1] for values in found}
    if len(channels) > 1:
        raise UserError(f"series have {' and '.join(map(str, sorted(channels)))} channels; all must have the same number")
    low, high = (reduce(np.stack([reduce(values) for values in found])) for reduce in (np.fmin.reduce, np.fmax.reduce))
    idle = [int(channel) + 1 for channel in np.flatnonzero(~(high > low))]  # NaN where no value is known
    if max(map(len, found)) < 2:
        raise UserError("every series has 1 time step; at least 2 are required: arrays (n, time), or one list of numbers per record")
    count = channels.pop()
    return {
        "channels": 1 if apart else count,
        "length": max(min(max(steps_until(len(values), until) for values in found), window or LENGTHS.high), 1),
        "missing": any(bool(np.isnan(values).any()) for values in found) if (given := overrides.get("missing")) is None else bool(given),
        "standardise": standardise,
        "ragged": ["values"],
        **({"window": window, "stride": stride or window} if window else {}),
        **({"apart": True} if apart else {}),
        **({"until": until} if until else {}),
        **({"idle": idle} if idle else {}),
    }


def steps_until(length: int, until: float) -> int:
    """How many of a series' first time steps are used: all if `until` is 0, a share of them up to 1, else that many."""
    return length if not until else math.floor(until * length + 1e-9) if until <= 1 else min(length, int(until))


def remarks(views: tuple[str, ...], settings: Options) -> list[str]:
    """Names the channels that tell nothing."""
    idle = settings.get("idle") or []
    few = ", ".join(map(str, idle[:8])) + (f" and {len(idle) - 8} more" if len(idle) > 8 else "")
    return (
        [f"channel{'s' * (len(idle) > 1)} {few}: constant or missing in all series sampled; leave out what tells nothing"] if idle else []
    )


def cut(settings: Options) -> Callable[[Record], list[Record]] | None:
    """Record -> its pieces, all in one group (the record's, else its name): the steps `until` a certain one, in windows of `window` steps,
    one every `stride`, the last one at their end; with `apart` each channel by itself. A series that can't be read is not cut. None if
    there is nothing to cut."""
    window, stride, apart, until = (settings.get(key) for key in ("window", "stride", "apart", "until"))
    if not (window and stride) and not apart and not until:
        return None

    def pieces(record: Record) -> list[Record]:
        try:
            values = _values(record["series"])
        except ValueError:  # reported when it is decoded
            return [record]
        length, name = steps_until(len(values), until or 0), str(record.get("name"))
        spans = [(0, length)]
        if window and stride and length > window:
            spans = [(start, start + window) for start in (*range(0, length - window, stride), length - window)]
        group = record.get("group", name)
        if len(spans) == 1 and length == len(values) and (not apart or values.shape[1] == 1):
            return [record]
        found = []
        for start, end in spans:
            for channel in range(values.shape[1]) if apart else (slice(None),):
                own = name if len(spans) == 1 else f"{name} {start}-{end}"
                own = f"{own} channel {channel}" if apart else own
                found.append(record | {"series": values[start:end, channel].T, "name": own, "group": group})
        return found

    return pieces


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> "values" (T,C) float32, NaN where missing.

    Raises ValueError for missing values if the training data had none: an encoder without indicator channels would read them as the
    mean.
    """
    values, settings = _values(record["series"]), prep.settings
    if values.shape[1] != settings["channels"]:
        raise ValueError(f"{values.shape[1]} channels, not {settings['channels']}")
    if not settings.get("missing", True) and np.isnan(values).any():
        step, channel = np.argwhere(np.isnan(values))[0].tolist()
        where = f"time step {step} of channel {channel}"
        raise ValueError(f"{where} is missing, but the training data had no missing values; impute it, or train with missing=True")
    return {"values": values}


def _all_channels(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """As `decode`, of any number of channels where each is a series of its own; with CLOCKED (3,), the times of its table."""
    given = {**prep.settings, "channels": _values(record["series"]).shape[1]} if prep.settings.get("apart") else prep.settings
    clock = record.get("clock")  # of a table with times; the end of a series that ends in missing values is not known
    known = (
        isinstance(clock, np.ndarray) and clock.shape == (3,) and np.asarray(record["series"]).shape[-1] == len(_values(record["series"]))
    )
    return {**decode(record, replace(prep, settings=given)), CLOCKED: np.array(clock if known else [np.nan] * 3, np.float64)}


def _values(given: Any) -> np.ndarray:
    """(C,T) or (T,) numbers, or text "1,2;3,4" with channels separated by semicolons -> (T,C) float32, without trailing NaN padding.

    Raises ValueError for anything else.
    """
    if isinstance(given, str):
        rows = [[_number(cell) for cell in part.split(",")] for part in given.split(";")]
        if len({len(row) for row in rows}) > 1:
            raise ValueError("its channels differ in length")
        given = rows
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":  # cells of csv
        given = [_number(cell) for cell in given.reshape(-1).tolist()]
    values = np.asarray(given, np.float64)
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise ValueError(f"has shape {values.shape}; (time,) or (channel, time) is allowed")
    if np.isinf(values).any() or np.abs(values[np.isfinite(values)]).max(initial=0) > 1e30:
        raise ValueError("has infinite values or values beyond 1e30")
    known = np.flatnonzero(np.isfinite(values).any(0))
    if not len(known):
        raise ValueError("has no values")
    return np.ascontiguousarray(values[:, : known[-1] + 1].T, np.float32)


def _number(cell: str) -> float:
    try:
        return math.nan if cell.strip() in ("", "?") else float(cell)
    except ValueError:
        raise ValueError(f"{cell.strip()[:20]!r} is not a number; allowed: 1,2,?,4 with channels separated by semicolons") from None


def fit(batch: Batch, prep: Preprocessor) -> Options:
    """Mean and standard deviation of each channel over its observed values."""
    values = batch["values"][batch["values_valid"]].double()  # (M,C)
    observed = values.isfinite()
    values, count = values.nan_to_num(0.0), observed.sum(0).clamp(min=1)
    mean = values.sum(0) / count
    std = (((values - mean) * observed).square().sum(0) / count).sqrt()
    return {"mean": mean.tolist(), "std": torch.where(std > 1e-8, std, 1.0).tolist()}


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
    x, observed = _normalised(batch, {"standardise": "channel"}, prep.statistics)
    valid = batch["values_valid"]
    gaps = (valid.unsqueeze(2) & ~observed).any(1).nonzero().tolist()
    for row, channel in gaps:
        known = observed[row, :, channel].nonzero().squeeze(1)
        if len(known):
            filled = np.interp(np.arange(x.shape[1]), known.numpy(), x[row, known, channel].numpy())
            x[row, :, channel] = torch.from_numpy(filled).float() * valid[row]
    return x, valid


# ------------------------------------------------------------------------------------------------ arrays to views

AUGMENTED: Options = {"jitter": 0.05, "scaling": 0.1, "time_warp": 0.05, "magnitude_warp": 0.1, "drop": 0.0, "frequency_drop": 0.0}
STILL: Options = dict.fromkeys(AUGMENTED, 0.0)
VIEWS: dict[str, Options] = {
    "whole": {},
    "global": {"scale": (0.7, 1.0), **AUGMENTED},
    "global2": {"scale": (0.7, 1.0), **AUGMENTED},
    "local": {"scale": (0.3, 0.6), **AUGMENTED},
    "light": {"scale": (0.9, 1.0), **STILL, "jitter": 0.02},
    "masked": {"scale": (0.9, 1.0), **STILL, "patch": 0, "rate": 0.4, "span": 1},  # PatchTST, section 4.2
    "blocks": {"scale": (0.9, 1.0), **STILL, "patch": 0, "rate": 0.5, "span": 3},
    "corrupted": {"corruption": "masking", "level": 0.25},
    "global_masked": {"scale": (0.7, 1.0), **AUGMENTED, "patch": 0, "rate": 0.15, "span": 1},
    "global_blocks": {"scale": (0.7, 1.0), **AUGMENTED, "patch": 0, "rates": (0.1, 0.5), "masking": 0.5, "span": 3},
    "global2_blocks": {"scale": (0.7, 1.0), **AUGMENTED, "patch": 0, "rates": (0.1, 0.5), "masking": 0.5, "span": 3},
    "multiblock": {"scale": (0.9, 1.0), **STILL, "patch": 0, "targets": 4, "target_scale": (0.15, 0.2)},
    "overlap": {"most": 3000},  # TS2Vec's code
    "nested": {},
    "subseries": {},
    "continued": {"scale": (0.9, 1.0), **STILL, "patch": 0, "first": 32},  # Das et al. 2024: patches of 32 steps
}
RANGES = {
    "scale": Within(0.01, 1),  # length of the crop as a share of the series: minimum, maximum
    **dict.fromkeys(("jitter", "scaling", "magnitude_warp", "level"), Within(0, 10)),  # std, in units of a channel's; std of a factor
    "time_warp": Within(0, 0.3),  # shift of a time step as a share of the crop
    **dict.fromkeys(("drop", "frequency_drop", "rate", "rates", "masking"), Within(0, 1)),
    "patch": Within(0, 1 << 16),  # time steps per token; 0: the encoder's
    "span": Within(1, 1 << 16),  # approximate length of a masked run in tokens
    "targets": Within(1, 64),
    "target_scale": Within(0.01, 1),
    "first": LENGTHS,  # time steps whose mean and deviation normalise a crop
    "most": LENGTHS,  # time steps of both crops together, at most
    "length": LENGTHS,
}


def presets(settings: Options) -> dict[str, Options]:
    length, channels = settings.get("length"), settings.get("channels")
    if type(length) is not int or length < 1 or type(channels) is not int or channels < 1:
        raise UserError(f"series need settings with a length and a number of channels; got {settings}")
    own = {"length": max(length, 2), "standardise": settings.get("standardise", "channel"), "missing": bool(settings.get("missing"))}
    own |= {"apart": True} if settings.get("apart") else {}
    return {name: {**own, **options} for name, options in VIEWS.items()}


def check(options: Options) -> str | None:
    """The fault of a view's options, or None."""
    if options["standardise"] not in ("channel", "sample", "none"):
        return f"standardise={options['standardise']}: must be channel, sample or none"
    return outside(options, RANGES) or corruption_fault(options, CORRUPTIONS)


def whole(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Every time step, normalised. Of several channels for an encoder of one (`apart`): x (B,C,T,1 or 2) with meta["parts"] (B,C)."""
    values, observed = _normalised(batch, options, prep.statistics)
    view = _finished(values, observed, batch["values_valid"], options)
    if not options.get("apart") or (channels := values.shape[2]) == 1:
        return view
    parts = torch.arange(channels, device=values.device).expand(len(values), -1)
    return View(view.x.unflatten(2, (-1, channels)).permute(0, 3, 1, 2), meta={"parts": parts})


def corrupted(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Every time step, some of them destroyed; the target is the clean series (B,T,C), target_valid (B,T,C) is False for missing values.

    masking: a share `level` of the time steps is 0, the mean, in all channels; gaussian: noise with standard deviation `level`, in units of
    a channel's, is added. Vincent et al. 2010, section 3.3, https://jmlr.org/papers/v11/vincent10a.html
    """
    values, observed = _normalised(batch, options, prep.statistics)
    clean = _finished(values, observed, batch["values_valid"], options)
    if options["corruption"] == "gaussian":
        x = values + options["level"] * rng.normal(*values.shape[1:])
    else:
        x = torch.where((rng.uniform(values.shape[1]) < options["level"]).unsqueeze(2), 0.0, values)
    view = _finished(x, observed, batch["values_valid"], options)
    seen = torch.cat([observed, batch["values_valid"].unsqueeze(2).expand_as(observed)], 2) if options["missing"] else observed
    return View(view.x, view.valid, target=clean.x, target_valid=seen)


def augmented(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A crop with warps and noise: x (B,T,C), T the same for every batch; meta["span"] (B,2), its first and last time step."""
    return _augmented(batch, rng, options, prep)[0]


def _augmented(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> tuple[View, Tensor]:
    """The view of `augmented`, and a mask of observed values (B,T,C): not padding, missing or dropped."""
    values, observed = _normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    low, high = options["scale"]
    steps, patch = max(math.ceil(high * options["length"]), 1), options.get("patch") or 1
    wide = -(-steps // patch) * patch
    count = (rng.uniform(low=low, high=high) * length).round().clamp(min=1).minimum(length).clamp(max=steps)  # (B,) time steps of the crop
    start = (rng.uniform() * (length - count + 1)).floor()
    place = torch.arange(wide, device=values.device).expand(len(values), -1)
    valid = place < count.unsqueeze(1)
    share = place / (count.unsqueeze(1) - 1).clamp(min=1)
    if options["time_warp"]:
        moved = share + options["time_warp"] * _curve(rng, share, 1).squeeze(2) * (math.pi * share).sin()
        share = torch.where(valid, moved, 0.0).clamp(0, 1)
    at = torch.where(valid, start.unsqueeze(1) + share * (count.unsqueeze(1) - 1), 0.0)
    both = linear_at(torch.cat([values, observed.float()], 2), at)
    x, seen = both.chunk(2, 2)
    observed = (seen > 0.999) & valid.unsqueeze(2)
    channels = x.shape[2]
    if options["magnitude_warp"]:
        x = x * (1 + options["magnitude_warp"] * _curve(rng, share, channels))
    if options["scaling"]:
        x = x * (1 + options["scaling"] * rng.normal(1, channels))
    if options["frequency_drop"]:
        x = _without_frequencies(x, observed, rng, options["frequency_drop"])
    if options["jitter"]:
        x = x + options["jitter"] * rng.normal(wide, channels)
    if options["drop"]:
        observed = observed & (rng.uniform(wide) >= options["drop"]).unsqueeze(2)
    view = _finished(x, observed, valid, options)
    view.meta = {"span": torch.stack([start, start + count - 1], 1)}
    return view, observed


def masked(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Masks a share `rate` of each series' tokens (`patch` time steps); the target is every token's values (B,N,P); target_valid is
    False for values that are padding, missing or dropped. meta["few"] (B,) bool: tokens have fewer than FEW values."""
    view, observed = _augmented(batch, rng, options, prep)
    view = masked_tokens(view, rng, options, observed)
    assert view.target is not None
    few = torch.full((len(view),), view.target.shape[2] < FEW, device=view.x.device)
    return replace(view, meta={**(view.meta or {}), "few": few})


def blocks(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Masks runs of tokens: see `masked_runs`."""
    return masked_runs(_augmented(batch, rng, options, prep)[0], rng, options)


def multiblock(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Unmasked context tokens, and runs of tokens to predict: see `target_runs`."""
    return target_runs(_augmented(batch, rng, options, prep)[0], rng, options)


def overlap(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Two crops that overlap, normalised: x (B,T,C) from the start of the first to the end of the second; meta["crops"] (B,2,2) int64,
    the first step of each in x and the one behind its last. TS2Vec, section 3.2, drawn as in its code.

    The overlap has 2 steps or more, all lengths being equally likely; so are all beginnings of the first crop before it, ends of the second
    behind it, and places of both in the series.
    """
    values, observed = _normalised(batch, options, prep.statistics)
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
    view = _finished(shown(values), shown(observed) & valid.unsqueeze(2), valid, options)
    first, second = torch.stack([torch.zeros_like(left), left + common - start], 1), torch.stack([left - start, end - start], 1)
    view.meta = {"crops": torch.stack([first, second], 1)}
    return view


def nested(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A subseries, normalised, x (B,T,C) from its first step; meta["inner"] (B,2) int64, the first step of a subseries of it and the one
    behind its last. T-Loss, algorithm 1: the inner length is uniform up to the series', the outer one between both, so are their places."""
    values, observed = _normalised(batch, options, prep.statistics)
    length = batch["values_valid"].sum(1)
    inner = _drawn(rng, torch.ones_like(length), length)
    outer = _drawn(rng, inner, length)
    view = _subseries(values, observed, _drawn(rng, torch.zeros_like(length), length - outer), outer, options)
    start = _drawn(rng, torch.zeros_like(length), outer - inner)
    view.meta = {"inner": torch.stack([start, start + inner], 1)}
    return view


def subseries(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A subseries of any length, normalised, x (B,T,C) from its first step. T-Loss, algorithm 1."""
    values, observed = _normalised(batch, options, prep.statistics)
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
    return _finished(shown(values), shown(observed) & valid.unsqueeze(2), valid, options)


def _without_frequencies(x: Tensor, observed: Tensor, rng: CounterRNG, share: float) -> Tensor:
    """x (B,T,C) without this share of its frequencies, the same in all channels; its mean stays. What is unobserved counts as the mean."""
    count = observed.sum(1, keepdim=True).clamp(min=1)
    mean = (x * observed).sum(1, keepdim=True) / count
    spectrum = torch.fft.rfft(torch.where(observed, x - mean, 0.0), dim=1)
    kept = rng.uniform(spectrum.shape[1]) >= share
    return mean + torch.fft.irfft(spectrum * kept.unsqueeze(2), x.shape[1], dim=1)


def continued(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A crop normalised by the mean and standard deviation of each channel over its `first` time steps, so that nothing is known of the
    later ones; the target is every token's values (B,N,P); target_valid is False for values that are padding, missing or dropped.

    As in the code of Das et al. 2024 (https://arxiv.org/abs/2310.10688), which takes those of the first patch. A deviation counts as at
    least a tenth of that of the data, as normalised: a flat beginning would make anything that follows huge.
    """
    view, observed = _augmented(batch, rng, options, prep)
    channels = observed.shape[2]
    x, patches = view.x[:, :, :channels], lambda part: part.unflatten(1, (-1, options["patch"])).flatten(2)
    seen = observed & (torch.arange(x.shape[1], device=x.device) < options["first"]).view(1, -1, 1)
    count = seen.sum(1, keepdim=True).clamp(min=1)
    mean = (x * seen).sum(1, keepdim=True) / count
    std = ((x - mean).square() * seen).sum(1, keepdim=True).div(count).sqrt().clamp(min=FLAT)
    x = torch.where(observed, (x - mean) / std, 0.0)
    tokens_of(view, options)  # raises UserError without a patch
    shown = torch.cat([x, view.x[:, :, channels:]], 2)
    return replace(view, x=shown, target=patches(x), target_valid=patches(observed))


def _curve(rng: CounterRNG, share: Tensor, channels: int) -> Tensor:
    """share (B,T) in 0..1 -> (B,T,channels): a smooth random curve over it, with std about 1."""
    waves = torch.arange(1, WAVES + 1, device=share.device)
    height, phase = rng.normal(channels, WAVES), 2 * math.pi * rng.uniform(channels, WAVES)
    angle = math.pi * share[:, :, None, None] * waves + phase.unsqueeze(1)
    return (height.unsqueeze(1) * angle.sin()).sum(3) * math.sqrt(2 / WAVES)


def _normalised(batch: Batch, options: Options, statistics: Options) -> tuple[Tensor, Tensor]:
    """-> (B,T,C) float32, 0 where unobserved, and a mask of observed values (B,T,C)."""
    values = batch["values"].float()
    observed = values.isfinite() & batch["values_valid"].unsqueeze(2)
    values = torch.where(observed, values, 0.0)
    if options["standardise"] == "channel":
        mean, std = (torch.tensor(statistics[key], device=values.device, dtype=torch.float32) for key in ("mean", "std"))
        values = (values - mean) / std
    elif options["standardise"] == "sample":
        count = observed.sum(1, keepdim=True).clamp(min=1)
        values = values - values.sum(1, keepdim=True) / count
        values = values / ((values * observed).square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-6)
    return torch.where(observed, values, 0.0), observed


def _finished(x: Tensor, observed: Tensor, valid: Tensor, options: Options) -> View:
    """Zeros unobserved values; if the settings allow missing values, adds an indicator channel per channel."""
    x = torch.where(observed, x, 0.0)
    if options["missing"]:
        x = torch.cat([x, (~observed & valid.unsqueeze(2)).float()], 2)
    return View(x, valid)


# ---------------------------------------------------------------------------------------------- the modality


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    if "steps" in needs:
        return "ts2vec"
    if "causal" in needs:
        return "patch_causal"
    return "patch_series" if needs else "conv_series"


def encoder_arguments(settings: Options) -> Options:
    return {"channels": settings["channels"] * (2 if settings["missing"] else 1), "length": settings["length"]}


def export(prep: Preprocessor) -> Options:
    own = {key: prep.settings[key] for key in ("channels", "missing", "standardise")}
    return own | {key: [float(value) for value in prep.statistics[key]] for key in ("mean", "std")}


SERIES = Modality(
    name="series",
    noun="series",
    fields={"series": ("series", "values", "signal", "dim_0")},
    suffixes=frozenset([".ts"]),
    plan=plan,
    decode=decode,
    fit=fit,
    presets=presets,
    check=check,
    views={
        "whole": whole,
        **dict.fromkeys(("global", "global2", "local", "light"), augmented),
        **dict.fromkeys(("masked", "blocks", "global_masked"), masked),
        **dict.fromkeys(("global_blocks", "global2_blocks"), blocks),
        "multiblock": multiblock,
        "corrupted": corrupted,
        "overlap": overlap,
        "nested": nested,
        "subseries": subseries,
        "continued": continued,
    },
    raw=raw,
    classical={"MiniRocket": mini_rocket},
    render=render,
    pretexts=PRETEXTS,
    unaugmented={"scale": (1.0, 1.0), **STILL},
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    export=export,
    remarks=remarks,
    kind=lambda settings: encoder_arguments(settings)["channels"],
    method="simclr",
    batch=64,
    numbered=True,
    likely=lambda records: all(getattr(record["series"], "dtype", None) != np.uint8 for record in records),  # uint8: images
    cut=cut,
    knobs={
        "standardise": Literal["channel", "sample", "none"],
        "missing": bool,
        "window": Annotated[int, Within(0, LENGTHS.high)],
        "stride": Annotated[int, Within(0, LENGTHS.high)],
        "apart": bool,
        "until": Annotated[float, Within(0, LENGTHS.high)],
    },
    extras={"channels": (CHANNELS,), "clock": (CLOCK,)},
    targets={"future": future(_all_channels)},
    adapt=lambda records, settings: {key: value for key, value in settings.items() if key != "until"},  # of the data in training
)
