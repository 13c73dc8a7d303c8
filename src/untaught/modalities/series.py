"""Time series: records of one or more channels, of any length, with missing values -> views, augmented as the field does.

A view is x (B,T,C), time on axis 1, with `valid` (B,T) False for padding. A missing value is 0 after normalisation; where the data have
some, as many channels again say which values are missing (1). Augmentations: crop, time warp and magnitude warp (Um et al. 2017,
https://arxiv.org/abs/1706.00527), jitter and scaling (TS-TCC, Eldele et al. 2021, https://arxiv.org/abs/2106.14112), and dropped time steps
(TS2Vec, Yue et al. 2022, section 3.2, https://arxiv.org/abs/2106.10466).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Batch, Modality, Options, Record, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import first
from untaught.ranges import Within, outside

WAVES = 4  # sines that make a smooth random curve
RAW = 256  # time steps of the raw baseline, at most
LENGTHS = Within(2, 1 << 20)
COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
HIGH, WIDE = 48, 96  # pixels of the line plot

# ---------------------------------------------------------------------------------------------- records to arrays


def plan(records: list[Record], overrides: Options) -> Options:
    """Channels, the longest length, and whether values are missing (unless `missing` is given), of a sample of the records."""
    standardise = overrides.get("standardise", "channel")
    if standardise not in ("channel", "sample", "none"):
        raise UserError(f"standardise={standardise}: must be channel, sample or none")
    found, faults = [], []
    for record in records:
        try:
            found.append(_values(record["series"]))
        except ValueError as error:
            faults.append(str(error))
    if not found:
        raise UserError(f"none of the first {len(records)} series can be read: {faults[0] if faults else 'there are none'}")
    channels = {values.shape[1] for values in found}
    if len(channels) > 1:
        raise UserError(f"series of {' and '.join(map(str, sorted(channels)))} channels came; all must have as many")
    if max(map(len, found)) < 2:
        raise UserError("every series has 1 time step; at least 2 are needed: arrays (n, time), or a list of numbers a record")
    return {
        "channels": channels.pop(),
        "length": max(map(len, found)),
        "missing": any(bool(np.isnan(values).any()) for values in found) if (given := overrides.get("missing")) is None else bool(given),
        "standardise": standardise,
        "ragged": ["values"],
    }


def decode(record: Record, layout: Options) -> dict[str, np.ndarray]:
    """-> "values" (T,C) float32, NaN where one is missing. Raises ValueError for missing values where the layout has none: an encoder
    without channels that mark them would take them for the mean."""
    values = _values(record["series"])
    if values.shape[1] != layout["channels"]:
        raise ValueError(f"{values.shape[1]} channels, not {layout['channels']}")
    if not layout.get("missing", True) and np.isnan(values).any():
        step, channel = np.argwhere(np.isnan(values))[0].tolist()
        where = f"time step {step} of channel {channel}"
        raise ValueError(f"{where} is missing, and the layout has no missing values; fill it in, or train with missing=True")
    return {"values": values}


def _values(given: Any) -> np.ndarray:
    """(C,T) or (T,), numbers or text "1,2;3,4" with a semicolon between channels -> (T,C) float32 without the padding of NaN at its end.

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
        raise ValueError(f"its shape is {values.shape}; (time,) or (channel, time) is allowed")
    if np.isinf(values).any() or np.abs(values[np.isfinite(values)]).max(initial=0) > 1e30:
        raise ValueError("it has values that are infinite or beyond 1e30")
    known = np.flatnonzero(np.isfinite(values).any(0))
    if not len(known):
        raise ValueError("it has no values")
    return np.ascontiguousarray(values[:, : known[-1] + 1].T, np.float32)


def _number(cell: str) -> float:
    try:
        return math.nan if cell.strip() in ("", "?") else float(cell)
    except ValueError:
        raise ValueError(f"{cell.strip()[:20]!r} is not a number; 1,2,?,4 is allowed, with a semicolon between channels") from None


def fit(batch: Batch, layout: Options) -> Options:
    """Mean and deviation of each channel, over values that are there."""
    values = batch["values"][batch["values_valid"]].double()  # (M,C)
    there = values.isfinite()
    values, count = values.nan_to_num(0.0), there.sum(0).clamp(min=1)
    mean = values.sum(0) / count
    std = (((values - mean) * there).square().sum(0) / count).sqrt()
    return {"mean": mean.tolist(), "std": torch.where(std > 1e-8, std, 1.0).tolist()}


def raw(batch: Batch, layout: Options) -> np.ndarray:
    """The values themselves, each series stretched to one length (that of the longest, at most 256), a missing value at its channel's mean.

    Its 1-nearest neighbour is, for series of equal length, the Euclidean baseline of the UCR archive.
    """
    values, valid = batch["values"].float(), batch["values_valid"]
    there = values.isfinite() & valid.unsqueeze(2)
    values = values.nan_to_num(0.0)
    mean = (values * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    count = min(layout["length"], RAW)
    at = torch.linspace(0, 1, count) * (valid.sum(1, keepdim=True) - 1)
    return _sample(torch.where(there, values, mean), at).flatten(1).numpy()


# ------------------------------------------------------------------------------------------------ arrays to views

AUGMENTED: Options = {"jitter": 0.05, "scaling": 0.1, "time_warp": 0.05, "magnitude_warp": 0.1, "drop": 0.0}
STILL: Options = dict.fromkeys(AUGMENTED, 0.0)
VIEWS: dict[str, Options] = {
    "whole": {},
    "global": {"scale": (0.7, 1.0), **AUGMENTED},
    "global2": {"scale": (0.7, 1.0), **AUGMENTED},
    "local": {"scale": (0.3, 0.6), **AUGMENTED},
    "light": {"scale": (0.9, 1.0), **STILL, "jitter": 0.02},
    "masked": {"scale": (0.9, 1.0), **STILL, "patch": 0, "rate": 0.4, "span": 1},  # PatchTST, section 4.2
    "blocks": {"scale": (0.9, 1.0), **STILL, "patch": 0, "rate": 0.5, "span": 3},
    "global_masked": {"scale": (0.7, 1.0), **AUGMENTED, "patch": 0, "rate": 0.15, "span": 1},
    "global_blocks": {"scale": (0.7, 1.0), **AUGMENTED, "patch": 0, "rates": (0.1, 0.5), "masking": 0.5, "span": 3},
    "global2_blocks": {"scale": (0.7, 1.0), **AUGMENTED, "patch": 0, "rates": (0.1, 0.5), "masking": 0.5, "span": 3},
    "multiblock": {"scale": (0.9, 1.0), **STILL, "patch": 0, "targets": 4, "target_scale": (0.15, 0.2)},
}
RANGES = {
    "scale": Within(0.01, 1),  # shares of the series that a crop has, the least and the most
    **dict.fromkeys(("jitter", "scaling", "magnitude_warp"), Within(0, 10)),  # in deviations of a channel; of a factor
    "time_warp": Within(0, 0.3),  # share of the crop by which a time step moves
    **dict.fromkeys(("drop", "rate", "rates", "masking"), Within(0, 1)),
    "patch": Within(0, 1 << 16),  # time steps of a token; 0: the encoder's
    "span": Within(1, 1 << 16),  # tokens that are masked together, about
    "targets": Within(1, 64),
    "target_scale": Within(0.01, 1),
    "length": LENGTHS,
}


def presets(layout: Options) -> dict[str, Options]:
    length, channels = layout.get("length"), layout.get("channels")
    if type(length) is not int or length < 1 or type(channels) is not int or channels < 1:
        raise UserError(f"a layout of series has a length and a number of channels; {layout} came")
    own = {"length": max(length, 2), "standardise": layout.get("standardise", "channel"), "missing": bool(layout.get("missing"))}
    return {name: {**own, **options} for name, options in VIEWS.items()}


def check(options: Options) -> str | None:
    """What is wrong with a view's options, or None."""
    if options["standardise"] not in ("channel", "sample", "none"):
        return f"standardise={options['standardise']}: must be channel, sample or none"
    return outside(options, RANGES)


def whole(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """Every time step, normalised."""
    values, there = _normalised(batch, options, statistics)
    return _finished(values, there, batch["values_valid"], options)


def augmented(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """A crop, warped and with noise: x (B,T,C), T the same for every batch; meta["span"] (B,2), its first and last time step."""
    return _augmented(batch, draws, options, statistics)[0]


def _augmented(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> tuple[View, Tensor]:
    """The view of `augmented`, and where its values are known (B,T,C): neither padding, nor missing, nor dropped."""
    values, there = _normalised(batch, options, statistics)
    length = batch["values_valid"].sum(1)
    low, high = options["scale"]
    steps, patch = max(math.ceil(high * options["length"]), 1), options.get("patch") or 1
    wide = -(-steps // patch) * patch
    count = (
        (draws.uniform(low=low, high=high) * length).round().clamp(min=1).minimum(length).clamp(max=steps)
    )  # (B,) time steps of the crop
    start = (draws.uniform() * (length - count + 1)).floor()
    place = torch.arange(wide, device=values.device).expand(len(values), -1)
    valid = place < count.unsqueeze(1)
    share = place / (count.unsqueeze(1) - 1).clamp(min=1)
    if options["time_warp"]:
        moved = share + options["time_warp"] * _curve(draws, share, 1).squeeze(2) * (math.pi * share).sin()
        share = torch.where(valid, moved, 0.0).clamp(0, 1)
    at = torch.where(valid, start.unsqueeze(1) + share * (count.unsqueeze(1) - 1), 0.0)
    both = _sample(torch.cat([values, there.float()], 2), at)
    x, seen = both.chunk(2, 2)
    there = (seen > 0.999) & valid.unsqueeze(2)
    channels = x.shape[2]
    if options["magnitude_warp"]:
        x = x * (1 + options["magnitude_warp"] * _curve(draws, share, channels))
    if options["scaling"]:
        x = x * (1 + options["scaling"] * draws.normal(1, channels))
    if options["jitter"]:
        x = x + options["jitter"] * draws.normal(wide, channels)
    if options["drop"]:
        there = there & (draws.uniform(wide) >= options["drop"]).unsqueeze(2)
    view = _finished(x, there, valid, options)
    view.meta = {"span": torch.stack([start, start + count - 1], 1)}
    return view, there


def masked(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """Tokens of `patch` time steps, a share `rate` of each series' own masked; the target is every token's values (B,N,P), of which
    target_valid are neither padding, nor missing, nor dropped."""
    view, tokens, there = _tokens(batch, draws, options, statistics)
    mask = _spans(draws, tokens, (options["rate"] * tokens.sum(1)).round(), options["span"])
    patches = lambda part: part.unflatten(1, (-1, options["patch"])).flatten(2)  # noqa: E731
    return View(view.x, view.valid, mask, patches(view.x[:, :, : there.shape[2]]), patches(there), view.meta)


def blocks(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """Runs of tokens masked: a share of `rates` of them in a share of `masking` of the series.

    meta["places"] (B,M): M places that include all the masked ones, those first. M is the same for every batch.
    """
    view, tokens, _ = _tokens(batch, draws, options, statistics)
    low, high = options["rates"]
    share = draws.uniform(low=low, high=high) * draws.chance(options["masking"])
    mask = _spans(draws, tokens, (share * tokens.sum(1)).round(), options["span"], least=0)
    places = first(mask, max(round(high * mask.shape[1]), 1))
    return View(view.x, view.valid, mask, meta={**(view.meta or {}), "places": places})


def multiblock(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """A context of tokens (not masked), and meta["targets"] (B,T,N) bool: runs of tokens outside of it, to be predicted."""
    view, tokens, _ = _tokens(batch, draws, options, statistics)
    count, number = tokens.sum(1, keepdim=True), options["targets"]
    low, high = options["target_scale"]
    size = ((low + draws.uniform(number) * (high - low)) * count).round().clamp(min=1)
    start = (draws.uniform(number) * (count - size + 1)).floor().clamp(min=1)  # the first token is always context
    place = torch.arange(tokens.shape[1], device=tokens.device)
    targets = (place >= start.unsqueeze(2)) & (place < (start + size).unsqueeze(2)) & tokens.unsqueeze(1)
    return View(view.x, view.valid, targets.any(1), meta={**(view.meta or {}), "targets": targets})


def _tokens(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> tuple[View, Tensor, Tensor]:
    """A view, which of its tokens hold some of the series (B,N), and where its values are known (B,T,C)."""
    if not options["patch"]:
        raise UserError("patch=0: this encoder has no tokens; give patch, or the encoder patch_series")
    view, there = _augmented(batch, draws, options, statistics)
    return view, view.valid.unflatten(1, (-1, options["patch"])).any(2), there


def _spans(draws: CounterRNG, tokens: Tensor, count: Tensor, span: int, least: int = 1) -> Tensor:
    """tokens (B,N) bool, count (B,) -> (B,N) bool, true at `count` tokens of a sample, from `least` to all but one of them, in runs of
    about `span`: those with the largest noise, averaged over so many neighbours."""
    number = tokens.shape[1]
    noise = draws.uniform(number + span - 1).unfold(1, span, 1).mean(2)
    rank = (-torch.where(tokens, noise, -1.0)).argsort(dim=1, stable=True).argsort(dim=1)
    count = count.clamp(min=least).minimum(tokens.sum(1) - 1)
    return (rank < count.unsqueeze(1)) & tokens


def _curve(draws: CounterRNG, share: Tensor, channels: int) -> Tensor:
    """share (B,T) in 0..1 -> (B,T,channels): a smooth random curve along it, of deviation about 1."""
    waves = torch.arange(1, WAVES + 1, device=share.device)
    height, phase = draws.normal(channels, WAVES), 2 * math.pi * draws.uniform(channels, WAVES)
    angle = math.pi * share[:, :, None, None] * waves + phase.unsqueeze(1)
    return (height.unsqueeze(1) * angle.sin()).sum(3) * math.sqrt(2 / WAVES)


def _sample(values: Tensor, at: Tensor) -> Tensor:
    """values (B,T,C), at (B,K) places between 0 and T - 1 -> (B,K,C), linear between time steps."""
    low = at.floor().long().clamp(max=values.shape[1] - 1)
    high = (low + 1).clamp(max=values.shape[1] - 1)
    share = (at - low).unsqueeze(2)
    take = lambda place: values.gather(1, place.unsqueeze(2).expand(-1, -1, values.shape[2]))  # noqa: E731
    return torch.where(share > 0, (1 - share) * take(low) + share * take(high), take(low))


def _normalised(batch: Batch, options: Options, statistics: Options) -> tuple[Tensor, Tensor]:
    """-> (B,T,C) float32, 0 where there is no value, and where there is one (B,T,C)."""
    values = batch["values"].float()
    there = values.isfinite() & batch["values_valid"].unsqueeze(2)
    values = torch.where(there, values, 0.0)
    if options["standardise"] == "channel":
        mean, std = (torch.tensor(statistics[key], device=values.device, dtype=torch.float32) for key in ("mean", "std"))
        values = (values - mean) / std
    elif options["standardise"] == "sample":
        count = there.sum(1, keepdim=True).clamp(min=1)
        values = values - values.sum(1, keepdim=True) / count
        values = values / ((values * there).square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-6)
    return torch.where(there, values, 0.0), there


def _finished(x: Tensor, there: Tensor, valid: Tensor, options: Options) -> View:
    """0 where there is no value, and where the layout has missing values, a channel more for each channel that says where."""
    x = torch.where(there, x, 0.0)
    if options["missing"]:
        x = torch.cat([x, (~there & valid.unsqueeze(2)).float()], 2)
    return View(x, valid)


# ------------------------------------------------------------------------------------------------------ what is shown


def render(view: View, options: Options, statistics: Options) -> np.ndarray:
    """Line plots (B,48,96,3) uint8, at most six channels; masked tokens are grey, and so is padding."""
    x, valid = view.x.detach().float().cpu(), view.valid.cpu()
    channels = x.shape[2] // (2 if options.get("missing") else 1)
    steps = x.shape[1]
    at = torch.linspace(0, steps - 1, WIDE).expand(len(x), -1)
    lines = _sample(x[:, :, :channels], at)
    shown = valid.gather(1, at.round().long())
    low, high = (getattr(lines.flatten(1), way)(1, keepdim=True) for way in ("amin", "amax"))
    level = ((high.unsqueeze(2) - lines) / (high - low).clamp(min=1e-6).unsqueeze(2) * (HIGH - 1)).round()  # (B,W,C), rows from above
    pixels = torch.full((len(x), HIGH, WIDE, 3), 255, dtype=torch.uint8)
    dark = ~shown
    if view.mask is not None:
        dark = dark | F.interpolate(view.mask.cpu().float().unsqueeze(1), WIDE).squeeze(1).bool()
    pixels = torch.where(dark[:, None, :, None], torch.tensor(215, dtype=torch.uint8), pixels)
    rows = torch.arange(HIGH)[None, :, None]
    ahead = torch.cat([shown[:, 1:], shown[:, -1:]], 1)  # no line leads into padding
    for channel in range(min(channels, len(COLOURS)) - 1, -1, -1):
        own = level[:, :, channel]
        other = torch.where(ahead, torch.cat([own[:, 1:], own[:, -1:]], 1), own)
        drawn = (rows >= torch.minimum(own, other)[:, None]) & (rows <= torch.maximum(own, other)[:, None]) & shown[:, None]
        pixels = torch.where(drawn.unsqueeze(3), torch.tensor(COLOURS[channel], dtype=torch.uint8), pixels)
    return pixels.numpy()


def encoder_for(layout: Options, needs: frozenset[str]) -> str:
    return "patch_series" if needs else "conv_series"


def encoder_input(layout: Options) -> Options:
    return {"channels": layout["channels"] * (2 if layout["missing"] else 1), "length": layout["length"]}


def preprocessing(layout: Options, statistics: Options) -> Options:
    own = {key: layout[key] for key in ("channels", "missing", "standardise")}
    return own | {key: [float(value) for value in statistics[key]] for key in ("mean", "std")}


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
    },
    raw=raw,
    render=render,
    encoder_for=encoder_for,
    input=encoder_input,
    preprocessing=preprocessing,
    method="simclr",
    batch=64,
    numbered=True,
    knobs={"standardise": Literal["channel", "sample", "none"], "missing": bool},
)
