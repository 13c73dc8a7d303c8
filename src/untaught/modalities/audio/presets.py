"""Options of the views of recordings."""

from __future__ import annotations

from untaught.core import Options, UserError
from untaught.modalities.audio.decode import LONG
from untaught.ranges import Within, outside

WAVEFORM: Options = {"polarity": 0.5, "reverb": 0.3, "band": 0.3, "noise": 0.5, "snr": (10.0, 40.0), "gain": 6.0}
SPECTROGRAM: Options = {"mix": 0.4, "stretch": 0.3, "zoom": 0.2, "shift": 0.1, "masks": 1, "time_mask": 0.15, "mel_mask": 0.15}
STILL: Options = {
    **dict.fromkeys(("polarity", "reverb", "band", "noise", "gain", "mix", "stretch", "zoom", "shift"), 0.0),
    "snr": (10.0, 40.0),
    "masks": 0,
    "time_mask": 0.15,
    "mel_mask": 0.15,
}
AUGMENTED = {**WAVEFORM, **SPECTROGRAM}
TOKENS: Options = {"patch": 0, "window": 0}
SPANS: Options = {"starts": 0.065, "length": 10}
VALUES = ("masked", "global_masked")  # views whose target is the values of tokens, which those of waveforms share with their neighbours
RUNS: Options = {"rates": (0.1, 0.5), "masking": 0.5, "span": 3}
VIEWS: dict[str, Options] = {
    "whole": {},
    "global": {"scale": (0.6, 1.0), **AUGMENTED},
    "global2": {"scale": (0.6, 1.0), **AUGMENTED},
    "local": {"scale": (0.2, 0.5), **AUGMENTED},
    "light": {"scale": (0.9, 1.0), **STILL, "gain": 3.0, "shift": 0.03},
    "masked": {"scale": (0.9, 1.0), **STILL, **TOKENS, "rate": 0.6, "span": 3},
    "blocks": {"scale": (0.9, 1.0), **STILL, **TOKENS, **RUNS, "rates": (0.5, 0.5), "masking": 1.0},
    "global_masked": {"scale": (0.6, 1.0), **AUGMENTED, **TOKENS, "rate": 0.15, "span": 1},
    "global_blocks": {"scale": (0.6, 1.0), **AUGMENTED, **TOKENS, **RUNS},
    "global2_blocks": {"scale": (0.6, 1.0), **AUGMENTED, **TOKENS, **RUNS},
    "spans": {"scale": (0.9, 1.0), **STILL, **TOKENS, **SPANS},
    "feature_spans": {"scale": (0.9, 1.0), **STILL, **TOKENS, **SPANS},
    "multiblock": {"scale": (0.9, 1.0), **STILL, **TOKENS, "targets": 4, "target_scale": (0.15, 0.2)},
}
LONGEST = 10.0  # seconds of a training view
SHARES = ("polarity", "reverb", "band", "noise", "mix", "shift", "time_mask", "mel_mask", "rate", "rates", "masking", "starts")
RANGES = {
    "scale": Within(0.01, 1),  # duration of the crop as a share of the recording's: minimum, maximum
    "longest": LONG,  # seconds of a crop at most
    **dict.fromkeys(SHARES, Within(0, 1)),
    "snr": Within(0, 100),  # dB
    "gain": Within(0, 60),  # dB
    **dict.fromkeys(("stretch", "zoom"), Within(0, 2)),
    "masks": Within(0, 16),
    "patch": Within(0, 1 << 12),  # frames per token, of waveforms samples between tokens; 0: the encoder's
    "window": Within(0, 1 << 16),  # samples of a token of a waveform; 0: the encoder's
    "length": Within(1, 1 << 12),  # of a masked span, in tokens
    "span": Within(1, 1 << 12),  # approximate length of a masked run in tokens
    "targets": Within(1, 64),
    "target_scale": Within(0.01, 1),
}


def presets(settings: Options) -> dict[str, Options]:
    form = settings.get("input")
    if form not in ("log_mel", "waveform"):
        raise UserError(f"input={form}: must be log_mel or waveform")
    longest = min(LONGEST, settings["seconds"])
    made = {name: {"input": form, **({"longest": longest} if options else {}), **options} for name, options in VIEWS.items()}
    if form == "log_mel":
        return made
    return {
        name: {key: value for key, value in options.items() if key not in SPECTROGRAM}
        for name, options in made.items()
        if name not in VALUES
    }


def check(options: Options) -> str | None:
    """The fault of a view's options, or None."""
    return outside({key: value for key, value in options.items() if key != "input"}, RANGES)
