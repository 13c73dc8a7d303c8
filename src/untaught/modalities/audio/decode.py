"""Recordings to arrays: files and encoded bytes by libsndfile, arrays with a rate; mono, resampled once, 16-bit."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, Record, UserError
from untaught.modalities.reading import readable
from untaught.ops.log_mel import cepstra, deltas, frames, log_mel
from untaught.ranges import Within

RATE = 16_000  # Hz; recordings with a lower rate keep theirs
SHORTEST = 0.02  # seconds
SEGMENT = 30.0  # seconds; longer recordings are cut into pieces
LONGEST = 3600.0  # seconds of one sample
FULL = 32768  # 16-bit full scale
WINDOW, HOP = 0.025, 0.010  # seconds
MELS = 64
CEPSTRA = 20
FITTED = 1 << 24  # samples that statistics are fitted on
LOUDEST = 4.0  # of full scale 1: floating-point samples may exceed it a little, and are then clipped
RATES, LONG = Within(1000, 384_000), Within(SHORTEST, LONGEST)


@contextmanager
def _reading() -> Iterator[None]:
    """Converts libsndfile's exceptions to ValueError."""
    try:
        yield
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError("is damaged or not in a supported format (wav, flac, ogg, mp3 ...)") from error


def soundfile() -> Any:
    """The module; raises UserError if it is not installed."""
    try:
        import soundfile
        import soxr  # noqa: F401
    except (ImportError, OSError) as error:
        raise UserError(f'audio needs soundfile and soxr ({error}); pip install "untaught[audio]"') from error
    return soundfile


def _file(value: Any) -> Any:
    """What libsndfile opens. Raises ValueError."""
    if isinstance(value, dict):  # Hugging Face's form
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Exception):
        raise value
    if isinstance(value, bytes):
        if not value:
            raise ValueError("is empty (0 bytes)")
        return io.BytesIO(value)
    if isinstance(value, str | Path):
        path = Path(value)
        if not path.exists():
            raise FileNotFoundError(2, "no such file", str(path))
        if not path.is_file():
            raise ValueError("is not a regular file")
        if path.stat().st_size == 0:
            raise ValueError("is empty (0 bytes)")
        return str(path)
    raise ValueError(f"{type(value).__name__} is not a recording; a path, bytes or an array of samples is allowed")


def _array(record: Record, rate: int | None) -> tuple[np.ndarray, int] | None:
    """Samples (T,channels) float32 in -1..1 and their rate (the record's own, or `rate`), of an array or {"array", "sampling_rate"}; None
    for anything else."""
    value, rate = record["audio"], int(record["rate"]) if record.get("rate") else rate
    if isinstance(value, dict) and value.get("array") is not None:
        value, rate = value["array"], value.get("sampling_rate") or rate
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy()
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype.kind in "uif"):
        value = np.asarray(value)
    else:
        return None
    if value.ndim not in (1, 2) or value.size == 0:
        raise ValueError(f"an array of shape {value.shape} is not a recording; (samples,), (channels, samples) is allowed")
    if rate is None:
        raise UserError("arrays of samples have no sample rate; give rate=16000 or whatever it is, in Hz")
    _check(value.size, rate)
    if value.dtype.kind in "ui":
        bits = 8 * value.dtype.itemsize
        half = 2.0 ** (bits - 1)
        value = (value.astype(np.float64) - (half if value.dtype.kind == "u" else 0)) / half
    value = value[:, None] if value.ndim == 1 else value.T if value.shape[0] < value.shape[1] else value
    return np.ascontiguousarray(value, np.float32), rate


def extent(record: Record, rate: int | None = None) -> tuple[int, float, float]:
    """The rate, start and end in seconds, from the header of a file. rate: of arrays without one. Raises ValueError or OSError."""
    if (found := _array(record, rate)) is not None:
        samples, own = found
        return own, *span(record, len(samples) / own)
    file = _file(record["audio"])
    with _reading():
        info = soundfile().info(file)
    _check(info.frames, info.samplerate)
    return info.samplerate, *span(record, info.frames / info.samplerate)


def _check(samples: int, rate: int) -> None:
    """Raises ValueError for a recording without samples or with an impossible rate."""
    if samples < 1:
        raise ValueError("has no samples")
    if rate not in RATES:
        raise ValueError(f"has a sample rate of {rate:,} Hz; it must be {RATES}")


def span(record: Record, seconds: float) -> tuple[float, float]:
    """Start and end in seconds, of a recording of this length: its own columns, or all of it. Raises ValueError."""
    given = {name: record.get(name) for name in ("start", "end")}
    try:
        low, high = (default if given[name] in (None, "") else float(given[name]) for name, default in (("start", 0.0), ("end", seconds)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"start {given['start']!r} and end {given['end']!r} must be numbers of seconds") from None
    high = seconds if high != high else high
    low = 0.0 if low != low else low
    if not 0 <= low < high or low >= seconds or high > seconds + 0.5:
        raise ValueError(f"its part from {low:g} to {high:g} s does not lie within its {seconds:.2f} s")
    return low, min(high, seconds)


def plan(records: list[Record], overrides: Options) -> Options:
    """The rate, the longest duration and the form of the input, from the headers of some records."""
    soundfile()
    form = overrides.get("input") or "log_mel"
    found = readable(records, "recordings", lambda record: extent(record, overrides.get("rate")))
    common = Counter(own for own, _, _ in found).most_common(1)[0][0]
    rate = overrides.get("rate") or min(common, RATE)
    longest, segment = max(high - low for _, low, high in found), overrides.get("segment") or SEGMENT
    return {
        "rate": rate,
        "seconds": round(min(longest, segment), 3),
        "segment": segment,
        "input": form,
        "normalise": overrides.get("normalise") or "data",
        "standardise": True if (given := overrides.get("standardise")) is None else bool(given),
        "mels": MELS,
        "window": round(WINDOW * rate),
        "hop": round(HOP * rate),
        "ragged": ["wave"],
    }


def cut(record: Record, settings: Options) -> list[Record]:
    """Pieces of at most `segment` seconds and of equal duration, with `start` and `end` in seconds, in one group (the
    recording's own, else its name); a shorter or unreadable recording is not cut."""
    try:
        _, low, high = extent(record, settings["rate"])
    except (ValueError, OSError):  # reported when it is decoded
        return [record]
    count = math.ceil(round((high - low) / settings["segment"], 6))
    named = count > 1 or record.get("start") not in (None, "") or record.get("end") not in (None, "")
    if not named:
        return [record]
    ends = [low + (high - low) * i / count for i in range(count + 1)]
    name = str(record.get("name"))
    return [
        record | {"start": a, "end": b, "name": f"{name} {a:.2f}-{b:.2f} s", "group": record.get("group", name)} for a, b in pairwise(ends)
    ]


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> "wave" (T,) int16, the mean of all channels at the data set's rate. Raises ValueError or OSError."""
    soundfile()
    import soxr

    rate = prep.settings["rate"]
    if (found := _array(record, rate)) is not None:
        samples, own = found
        low, high = (round(second * own) for second in span(record, len(samples) / own))
        samples = samples[low:high]
    else:
        samples, own = _read(record)
    if not np.isfinite(samples).all():
        raise ValueError("has NaN or infinite samples")
    if (peak := float(np.abs(samples).max(initial=0.0))) > LOUDEST:
        raise ValueError(f"has samples of up to {peak:.3g}, where full scale is 1; divide them, by 32768 if they were 16-bit")
    wave = samples.mean(1) if samples.shape[1] > 1 else samples[:, 0]
    if own != rate:
        wave = soxr.resample(wave, own, rate)
    if len(wave) < SHORTEST * rate:
        raise ValueError(f"is {len(samples)} samples long, {1000 * len(samples) / own:.3g} ms; at least {1000 * SHORTEST:g} ms is required")
    wave = np.clip(np.rint(wave * FULL), -FULL, FULL - 1).astype(np.int16)
    if not wave.any():
        raise ValueError("is silent: every sample is 0")
    return {"wave": wave}


def _read(record: Record) -> tuple[np.ndarray, int]:
    """The recording, or its part from `start` to `end` -> (T,channels) float32, and its rate."""
    file = _file(record["audio"])
    with _reading():
        opened = soundfile().SoundFile(file)
    with opened:
        rate, length = opened.samplerate, opened.frames
        _check(length, rate)
        low, high = span(record, length / rate)
        if high - low > LONGEST:
            raise ValueError(
                f"is {(high - low) / 3600:.1f} hours long, more than {LONGEST / 3600:g}; list parts of it with columns start and end"
            )
        with _reading():
            opened.seek(round(low * rate))
            samples = opened.read(round(high * rate) - round(low * rate), dtype="float32", always_2d=True)
    if not len(samples):
        raise ValueError("has no samples")
    return samples, rate


def waves(batch: Batch) -> tuple[Tensor, Tensor]:
    """-> samples (B,T) float32 in -1..1, 0 beyond the end, and the number of samples of each (B,)."""
    valid = batch["wave_valid"]
    return torch.where(valid, batch["wave"].float() / FULL, 0.0), valid.sum(1)


def spectrogram(wave: Tensor, settings: Options) -> Tensor:
    """wave (B,T) -> (B, frames, mels)."""
    return log_mel(wave, settings["rate"], settings["mels"], settings["window"], settings["hop"])


def fit(batch: Batch, prep: Preprocessor) -> Options:
    """Mean and standard deviation of all values of the log-mel spectrograms."""
    every = max(1, batch["wave"].numel() // FITTED)
    count, total, square = 0, 0.0, 0.0
    for own, valid in zip(batch["wave"][::every], batch["wave_valid"][::every], strict=True):
        wave, _ = waves({"wave": own[None], "wave_valid": valid[None]})  # one at a time: all of them as floats would be twice as many bytes
        x = spectrogram(wave[:, : int(valid.sum())], prep.settings).double()
        count, total, square = count + x.numel(), total + float(x.sum()), square + float(x.square().sum())
    mean = total / count
    return {"mean": [mean], "std": [max((square / count - mean * mean) ** 0.5, 1e-3)]}


def raw(batch: Batch, prep: Preprocessor) -> np.ndarray:
    """Mean and standard deviation over time of 20 cepstral coefficients, their deltas and the deltas of these -> (B,120)."""
    wave, length = waves(batch)
    count = frames(length, prep.settings["hop"])
    assert isinstance(count, Tensor)
    x = cepstra(spectrogram(wave, prep.settings), CEPSTRA)
    slope = deltas(x, count)
    x = torch.cat([x, slope, deltas(slope, count)], 2)
    valid = (torch.arange(x.shape[1]) < count.unsqueeze(1)).unsqueeze(2)
    mean = (x * valid).sum(1) / count.unsqueeze(1)
    variance = ((x - mean.unsqueeze(1)).square() * valid).sum(1) / count.unsqueeze(1)
    return torch.cat([mean, variance.sqrt()], 1).numpy()
