"""Recordings: any rate and number of channels, stored once as 16-bit mono at one rate.

A view is a log-mel spectrogram x (B,F,M), frames on axis 1, with `valid` (B,F) False beyond the end; with the setting input=waveform, the
samples themselves, x (B,T), for encoders such as wav2vec 2.0. Frames come every 10 ms from windows of 25 ms, with 64 bands.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from untaught.core import Modality, Options, Preprocessor
from untaught.modalities.audio.augment import augmented, blocks, feature_spans, masked, multiblock, spans, whole
from untaught.modalities.audio.decode import LONG, RATES, cut, decode, fit, plan, raw
from untaught.modalities.audio.presets import STILL, check, presets
from untaught.modalities.audio.spectrogram_plots import PRETEXTS, render
from untaught.modalities.audio.transcripts import transcripts
from untaught.storage.safe_load import read_json
from untaught.storage.speech_input import PREPROCESSOR, speech_input

WAVEFORMS, LOG_MEL = ("wav2vec2", "hubert"), ("conv_mel", "patch_series", "patch_causal", "timm")  # encoders by their input


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    if settings["input"] == "waveform":
        return "wav2vec2"
    return "patch_causal" if "causal" in needs else "patch_series" if needs else "conv_mel"


def encoder_arguments(settings: Options) -> Options:
    """Of waveforms the rate; of spectrograms the bands as channels, and the longest recording in frames."""
    if settings["input"] == "waveform":
        return {"rate": settings["rate"]}
    return {"channels": settings["mels"], "length": round(settings["seconds"] * settings["rate"]) // settings["hop"] + 1}


def expects(encoder: str) -> Options:
    """The form of the input; of a checkpoint also its rate and normalisation. Nothing for a folder of ours that reads spectrograms."""
    family, _, place = encoder.partition("/")
    if family != "transformers" or not place:
        return {"input": "waveform"} if encoder in WAVEFORMS else {"input": "log_mel"} if family in LOG_MEL else {}
    folder = Path(place)
    if (folder / "config.json").exists() and not (folder / PREPROCESSOR).exists() and "modality" in read_json(folder / "config.json", None):
        return {}
    return {"input": "waveform", **speech_input(place)}


def export(prep: Preprocessor) -> Options:
    own = {key: prep.settings[key] for key in ("rate", "input", "mels", "window", "hop")}
    own["normalise"] = prep.settings.get("normalise", "data")
    return own | {key: [float(value) for value in prep.statistics[key]] for key in ("mean", "std")}


FIELDS = {
    "audio": ("audio", "sound", "recording", "speech", "clip", "wav", "wave", "waveform", "file", "filename", "file_name", "path", "x")
}
AUDIO = Modality(
    name="audio",
    noun="recordings",
    fields=FIELDS,
    suffixes=frozenset([".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"]),
    extras={
        "start": ("onset", "begin", "start_time"),
        "end": ("offset", "stop", "end_time"),
        "rate": ("sampling_rate", "sample_rate"),
    },
    cut=lambda settings: partial(cut, settings=settings),
    plan=plan,
    decode=decode,
    fit=fit,
    presets=presets,
    check=check,
    views={
        "whole": whole,
        **dict.fromkeys(("global", "global2", "local", "light"), augmented),
        **dict.fromkeys(("masked", "global_masked"), masked),
        **dict.fromkeys(("blocks", "global_blocks", "global2_blocks"), blocks),
        "spans": spans,
        "feature_spans": feature_spans,
        "multiblock": multiblock,
    },
    raw=raw,
    render=render,
    pretexts=PRETEXTS,
    unaugmented=STILL | {"scale": (1.0, 1.0)},
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    export=export,
    kind=lambda settings: (settings["rate"], settings["mels"]),
    method="simclr",
    batch=128,
    expects=expects,
    wants=lambda needs: {"input": "waveform"} if "local" in needs else {},
    knobs={
        "rate": Annotated[int, RATES],
        "segment": Annotated[float, LONG],
        "input": Literal["log_mel", "waveform"],
        "normalise": Literal["data", "recording"],
        "standardise": bool,
    },
    targets={"transcripts": transcripts(FIELDS)},
)
