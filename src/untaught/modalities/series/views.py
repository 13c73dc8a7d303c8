"""Augmented and masked views of series, and the options of all views."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.modalities.corruption import corruption_fault
from untaught.modalities.series.normalise import finished, normalised
from untaught.modalities.series.records import LENGTHS
from untaught.modalities.token_masks import masked_runs, masked_tokens, target_runs, tokens_of
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.interpolation import linear_at
from untaught.ranges import Within, outside

FEW = 16  # values of a token, under which its own mean and standard deviation say little; chosen on validation parts of three data sets
FLAT = 0.1  # deviation, in units of the data's, under which the beginning of a series says nothing of its scale
WAVES = 4  # sines summed to a smooth random curve
CORRUPTIONS = ("masking", "gaussian")
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
    "excerpt": {"most": 3000},  # TS2Vec's code
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
    "most": LENGTHS,  # time steps of an excerpt
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
    values, observed = normalised(batch, options, prep.statistics)
    view = finished(values, observed, batch["values_valid"], options)
    if not options.get("apart") or (channels := values.shape[2]) == 1:
        return view
    parts = torch.arange(channels, device=values.device).expand(len(values), -1)
    return View(view.x.unflatten(2, (-1, channels)).permute(0, 3, 1, 2), meta={"parts": parts})


def corrupted(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Every time step, some of them destroyed; the target is the clean series (B,T,C), target_valid (B,T,C) is False for missing values.

    masking: a share `level` of the time steps is 0, the mean, in all channels; gaussian: noise with standard deviation `level`, in units of
    a channel's, is added. Vincent et al. 2010, section 3.3, https://jmlr.org/papers/v11/vincent10a.html
    """
    values, observed = normalised(batch, options, prep.statistics)
    clean = finished(values, observed, batch["values_valid"], options)
    if options["corruption"] == "gaussian":
        x = values + options["level"] * rng.normal(*values.shape[1:])
    else:
        x = torch.where((rng.uniform(values.shape[1]) < options["level"]).unsqueeze(2), 0.0, values)
    view = finished(x, observed, batch["values_valid"], options)
    seen = torch.cat([observed, batch["values_valid"].unsqueeze(2).expand_as(observed)], 2) if options["missing"] else observed
    return View(view.x, view.valid, target=clean.x, target_valid=seen)


def augmented(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A crop with warps and noise: x (B,T,C), T the same for every batch; meta["span"] (B,2), its first and last time step."""
    return _augmented(batch, rng, options, prep)[0]


def _augmented(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> tuple[View, Tensor]:
    """The view of `augmented`, and a mask of observed values (B,T,C): not padding, missing or dropped."""
    values, observed = normalised(batch, options, prep.statistics)
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
    view = finished(x, observed, valid, options)
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
    meta["scale"] (B,C): that deviation.

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
    return replace(view, x=shown, target=patches(x), target_valid=patches(observed), meta={**(view.meta or {}), "scale": std.squeeze(1)})


def _curve(rng: CounterRNG, share: Tensor, channels: int) -> Tensor:
    """share (B,T) in 0..1 -> (B,T,channels): a smooth random curve over it, with std about 1."""
    waves = torch.arange(1, WAVES + 1, device=share.device)
    height, phase = rng.normal(channels, WAVES), 2 * math.pi * rng.uniform(channels, WAVES)
    angle = math.pi * share[:, :, None, None] * waves + phase.unsqueeze(1)
    return (height.unsqueeze(1) * angle.sin()).sum(3) * math.sqrt(2 / WAVES)
