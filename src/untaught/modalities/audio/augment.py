"""Views of recordings, batched on the device: changes of the waveform, then a log-mel spectrogram and changes of that.

Of the waveform: a crop, polarity, reverberation by decaying noise, a band filter, noise at a signal-to-noise ratio, gain. Of the
spectrogram: a mixture with another sample of the batch and a random resized crop (BYOL-A, Niizumi et al. 2021,
https://arxiv.org/abs/2103.06695), a shift in frequency, and masked bands and spans of time (SpecAugment, Park et al. 2019,
https://arxiv.org/abs/1904.08779). A mixture depends on the other samples of the batch; everything else on the sample alone.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, View
from untaught.modalities.audio.decode import spectrogram, waves
from untaught.modalities.token_masks import masked_runs, masked_spans, masked_tokens, target_runs, tokens_of
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.interpolation import linear_at
from untaught.ops.log_mel import FLOOR, cepstra, deltas, frames

ECHO = 0.3  # seconds of reverberation
DECAY = 7.0  # of its amplitude over that time, as an exponent: 60 dB
FLOOR_LOG = math.log(FLOOR)
FLAT = 0.1  # least standard deviation of a recording's log-mel spectrogram that is made 1
COEFFICIENTS = 13  # of a frame, as in HuBERT
SLOPE = 4.0  # of a band filter, in nepers per octave
CACHED = 1 << 18  # samples disturbed at once on a CPU: more leave its caches


def whole(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """All of every recording: x (B,F,M) log-mel, or (B,T) samples with input=waveform."""
    wave, count = waves(batch)
    return _waveform(wave, count, prep) if options["input"] == "waveform" else _normalised(*_log_mel(wave, count, prep), options, prep)


def augmented(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A random part of every recording, disturbed: x (B,F,M), or (B,T) with input=waveform; meta["span"] (B,2): its start and end in s."""
    wave, count = waves(batch)
    rate = prep.settings["rate"]
    wave, count, start = _cropped(wave, count, rng, options, rate)
    wave = _disturbed(wave, count, rng, options, rate)
    meta = {"span": torch.stack([start, start + count], 1) / rate}
    if options["input"] == "waveform":
        view = _waveform(wave, count, prep)
        return View(view.x, view.valid, meta=meta)
    x, number = _log_mel(wave, count, prep)
    if options["mix"]:
        share = rng.uniform(high=options["mix"]).view(-1, 1, 1)
        x = torch.logaddexp(x + (1 - share).log(), x.roll(1, 0) + share.clamp(min=1e-6).log())
    if options["stretch"] or options["zoom"] or options["shift"]:
        x, number = _resized(x, number, rng, options)
    view = _normalised(x, number, options, prep)
    if options["masks"]:
        view.x = _hidden(view.x, number, rng, options)
    view.meta = meta
    return view


def masked(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Runs of tokens, `patch` frames each, are masked; the target is every token's values: see `masked_tokens`."""
    return masked_tokens(augmented(batch, rng, options, prep), rng, options)


def blocks(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Masks runs of tokens in a share of the samples: see `masked_runs`."""
    return masked_runs(augmented(batch, rng, options, prep), rng, options)


def spans(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Masks spans of tokens: see `masked_spans`."""
    return masked_spans(augmented(batch, rng, options, prep), rng, options)


def feature_spans(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Masks spans of tokens; the target is 13 cepstral coefficients at the centre of every token with their deltas and the deltas of these
    (B,N,39); target_valid (B,N,39) is False beyond the end."""
    view = spans(batch, rng, options, prep)
    settings, tokens = prep.settings, tokens_of(view, options)
    if options["input"] == "waveform":
        count, x = frames(view.valid.sum(1), settings["hop"]), spectrogram(view.x, settings)
        centre = torch.arange(tokens.shape[1], device=x.device) * options["patch"] + options["window"] / 2
        at = (centre / settings["hop"]).round().long()
    else:
        count, x = view.valid.sum(1), view.x
        at = torch.arange(tokens.shape[1], device=x.device) * options["patch"] + options["patch"] // 2
    assert isinstance(count, Tensor)
    x = cepstra(x, COEFFICIENTS)
    slope = deltas(x, count)
    x = torch.cat([x, slope, deltas(slope, count)], 2)
    at = torch.minimum(at, (count - 1).unsqueeze(1)).unsqueeze(2).expand(-1, -1, x.shape[2])
    target = x.gather(1, at)
    return replace(view, target=target, target_valid=tokens.unsqueeze(2).expand_as(target))


def multiblock(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Unmasked context tokens, and runs of tokens to predict: see `target_runs`."""
    return target_runs(augmented(batch, rng, options, prep), rng, options)


# ------------------------------------------------------------------------------------------------------------- waveform


def _cropped(wave: Tensor, count: Tensor, rng: CounterRNG, options: Options, rate: int) -> tuple[Tensor, Tensor, Tensor]:
    """A part of each recording, a share drawn from `scale` of its duration but at most `longest` seconds -> samples (B,S), their number
    (B,), and the first (B,)."""
    low, high = options["scale"]
    most = max(round(options["longest"] * rate), 1)
    steps = min(math.ceil(high * wave.shape[1]), most)
    number = (rng.uniform(low=low, high=high) * count).round().clamp(min=1, max=steps).minimum(count).long()
    start = rng.integers(0, count - number)
    inside = torch.arange(steps, device=wave.device) < number.unsqueeze(1)
    parts = F.pad(wave, (0, steps)).unfold(1, steps, 1)  # all parts, as views: rows are copied whole, without an index for every sample
    return torch.where(inside, parts[torch.arange(len(wave), device=wave.device), start], 0.0), number, start


def _disturbed(wave: Tensor, count: Tensor, rng: CounterRNG, options: Options, rate: int) -> Tensor:
    """wave (B,S), 0 from sample `count` (B,) on -> the same with polarity, reverberation, band filter, noise and gain."""
    each = max(1, CACHED // max(wave.shape[1], 1))
    valid = torch.arange(wave.shape[1], device=wave.device) < count.unsqueeze(1)
    level = _level(wave, count)
    if options["polarity"]:
        wave = torch.where(rng.chance(options["polarity"]).unsqueeze(1), -wave, wave)
    if options["reverb"] or options["band"]:
        wet, banded = rng.uniform() * rng.chance(options["reverb"]), rng.chance(options["band"])
        filtered = functools.partial(_filtered, options=options, rate=rate)
        wave = rng.on_rows((wet > 0) | banded, each, filtered, wave, valid, level, wet, banded)
    if options["noise"]:
        low, high = options["snr"]
        loudness = level * 10 ** (-rng.uniform(low=low, high=high).unsqueeze(1) / 20)
        wave = rng.on_rows(rng.chance(options["noise"]), each, _noisy, wave, valid, loudness)
    if options["gain"]:
        wave = wave * 10 ** (options["gain"] * rng.uniform(low=-1.0).unsqueeze(1) / 20)
    return wave


def _filtered(
    rng: CounterRNG, wave: Tensor, valid: Tensor, level: Tensor, wet: Tensor, banded: Tensor, *, options: Options, rate: int
) -> Tensor:
    """wave (B,S) with an echo of relative level `wet` (B,), and, where `banded` (B,), a band filter; at the same level (B,1) as before."""
    echo = round(ECHO * rate) if options["reverb"] else 0
    size = _fast_size(wave.shape[1] + echo)
    spectrum = torch.fft.rfft(wave, size)
    if options["reverb"]:
        fall = (-DECAY * torch.arange(1, echo + 1, device=wave.device) / echo).exp()
        tail = rng.normal(echo) * fall / fall.square().sum().sqrt()
        spectrum = spectrum * torch.fft.rfft(torch.cat([torch.ones_like(level), wet.unsqueeze(1) * tail], 1), size)
    if options["band"]:
        spectrum = spectrum * torch.where(banded.unsqueeze(1), _band(spectrum.shape[1], rng, rate), 1.0)
    wave = torch.where(valid, torch.fft.irfft(spectrum, size)[:, : wave.shape[1]], 0.0)
    return wave * (level / _level(wave, valid.sum(1)).clamp(min=1e-7))


def _noisy(rng: CounterRNG, wave: Tensor, valid: Tensor, loudness: Tensor) -> Tensor:
    white = rng.uniform(wave.shape[1], low=-(3**0.5), high=3**0.5)  # of variance 1; normal draws take four times as long
    return torch.where(valid, wave + loudness * white, 0.0)


def _fast_size(least: int) -> int:
    """The smallest size from `least` on that Fourier transforms are fast at: a power of 2, or 3, 5, 9 or 15 times one."""
    return min(m << (-(-least // m) - 1).bit_length() for m in (1, 3, 5, 9, 15))


def _level(wave: Tensor, count: Tensor) -> Tensor:
    """The root mean square of each recording (B,1)."""
    return (wave.square().sum(1) / count).sqrt().unsqueeze(1)


def _band(bins: int, rng: CounterRNG, rate: int) -> Tensor:
    """The response (B,bins) of a filter that passes what lies between two random frequencies: 50 to 800 Hz, and 1/8 to 1 of the highest."""
    top = rate / 2
    octave = torch.linspace(0, top, bins, device=rng.keys.device).clamp(min=1.0).log2()
    low = math.log2(50) + 4 * rng.uniform().unsqueeze(1)
    high = math.log2(top) - 3 * rng.uniform().unsqueeze(1)
    return torch.sigmoid(SLOPE * (octave - low)) * torch.sigmoid(SLOPE * (high - octave))


# ---------------------------------------------------------------------------------------------------------- spectrogram


def _log_mel(wave: Tensor, count: Tensor, prep: Preprocessor) -> tuple[Tensor, Tensor]:
    """-> (B,F,M), FLOOR_LOG beyond the end, and the number of frames (B,)."""
    number = frames(count, prep.settings["hop"])
    assert isinstance(number, Tensor)
    x = spectrogram(wave, prep.settings)
    return torch.where(_before(number, x), x, FLOOR_LOG), number


def _before(number: Tensor, x: Tensor) -> Tensor:
    """Which frames of x (B,F,M) are valid (B,F,1)."""
    return (torch.arange(x.shape[1], device=x.device) < number.unsqueeze(1)).unsqueeze(2)


def _resized(x: Tensor, number: Tensor, rng: CounterRNG, options: Options) -> tuple[Tensor, Tensor]:
    """Stretched in time and frequency by random factors up to 1 + `stretch` and 1 + `zoom`, or their inverse, and shifted by up to `shift`
    of all bands."""
    bands = x.shape[2]
    if options["zoom"] or options["shift"]:
        factor = (rng.uniform(low=-1.0) * math.log1p(options["zoom"])).exp().view(-1, 1, 1)
        shift = rng.uniform(low=-1.0).view(-1, 1, 1) * options["shift"] * bands
        band = torch.arange(bands, device=x.device, dtype=torch.float32)
        source = (band - (bands - 1) / 2) * factor + (bands - 1) / 2 + shift  # (B,1,bands): where each band is taken from
        weight = (1 - (source - band.unsqueeze(1)).abs()).clamp(min=0)  # (B,bands,bands)
        x = x @ weight + FLOOR_LOG * (1 - weight.sum(1, keepdim=True))
    if options["stretch"]:
        factor = (rng.uniform(low=-1.0) * math.log1p(options["stretch"])).exp()
        number = (number / factor).round().clamp(min=1, max=x.shape[1]).long()
        at = (torch.arange(x.shape[1], device=x.device) * factor.unsqueeze(1)).clamp(max=x.shape[1] - 1)
        x = linear_at(x, at)
        x = torch.where(_before(number, x), x, FLOOR_LOG)
    return x, number


def _normalised(x: Tensor, number: Tensor, options: Options, prep: Preprocessor) -> View:
    """With mean 0 and standard deviation 1 over the training part, or, with normalise=recording, with mean 0 in every band and standard
    deviation 1 in each recording; padded to a multiple of `patch` frames."""
    valid = _before(number, x)
    if prep.settings.get("normalise") == "recording":
        x = torch.where(valid, x, 0.0)
        x = torch.where(valid, x - x.sum(1, keepdim=True) / number.view(-1, 1, 1), 0.0)
        x = x / (x.square().sum((1, 2)) / (number * x.shape[2])).sqrt().clamp(min=FLAT).view(-1, 1, 1)
    else:
        (mean,), (std,) = prep.statistics["mean"], prep.statistics["std"]
        x = torch.where(valid, (x - mean) / std, 0.0)
    behind = -x.shape[1] % (options.get("patch") or 1)
    return View(F.pad(x, (0, 0, 0, behind)), F.pad(valid.squeeze(2), (0, behind)))


def _hidden(x: Tensor, number: Tensor, rng: CounterRNG, options: Options) -> Tensor:
    """x with `masks` random spans of time and as many of frequency set to the mean, each up to `time_mask` and `mel_mask` of all."""
    masks = options["masks"]
    hidden = torch.zeros_like(x, dtype=torch.bool)
    for axis, share, size in ((1, options["time_mask"], number.float().unsqueeze(1)), (2, options["mel_mask"], float(x.shape[2]))):
        wide = rng.uniform(masks) * share * size
        start = rng.uniform(masks) * (size - wide)
        place = torch.arange(x.shape[axis], device=x.device).view(1, 1, -1)
        inside = ((place >= start.unsqueeze(2)) & (place < (start + wide).unsqueeze(2))).any(1)
        hidden |= inside.unsqueeze(3 - axis)
    return torch.where(hidden, 0.0, x)


def _waveform(wave: Tensor, count: Tensor, prep: Preprocessor) -> View:
    """With mean 0 and variance 1 in each recording, as for wav2vec 2.0, unless standardise=false."""
    valid = torch.arange(wave.shape[1], device=wave.device) < count.unsqueeze(1)
    if not prep.settings.get("standardise", True):
        return View(wave, valid)
    centred = torch.where(valid, wave - wave.sum(1, keepdim=True) / count.unsqueeze(1), 0.0)
    return View(centred / _level(centred, count).clamp(min=1e-5), valid)
