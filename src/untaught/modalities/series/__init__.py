"""Time series: one or more channels, variable length, missing values -> augmented views.

A view is x (B,T,C), time on axis 1, with `valid` (B,T) False for padding. A missing value is 0 after normalisation; if the data have
missing values, each channel gets an indicator channel (1: missing). Augmentations: crop, time warp and magnitude warp (Um et al. 2017,
https://arxiv.org/abs/1706.00527), jitter and scaling (TS-TCC, Eldele et al. 2021, https://arxiv.org/abs/2106.14112), dropped time steps
(TS2Vec, Yue et al. 2022, section 3.2, https://arxiv.org/abs/2106.10466), dropped frequencies (frequency masking of FrAug, Chen et al. 2023,
https://arxiv.org/abs/2302.09292), and subseries within subseries (T-Loss, Franceschi et al. 2019).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from untaught.core import Modality, Options, Preprocessor
from untaught.data.step_rows import CHANNELS, CLOCK
from untaught.modalities.series.baselines import mini_rocket, raw
from untaught.modalities.series.crops import excerpt, nested, subseries
from untaught.modalities.series.future import future
from untaught.modalities.series.normalise import fit
from untaught.modalities.series.plots import PRETEXTS, render
from untaught.modalities.series.records import LENGTHS, adapt, all_channels, cut, decode, plan, remarks
from untaught.modalities.series.views import STILL, augmented, blocks, check, continued, corrupted, masked, multiblock, presets, whole
from untaught.ranges import Within


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
        "excerpt": excerpt,
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
    targets={"future": future(all_channels)},
    adapt=adapt,
)
