"""Log-mel spectrograms and mel-frequency cepstral coefficients of batches of waveforms, in float32.

A frame is centred at every `hop`-th sample, the waveform being 0 before its beginning and after its end, so that padding with zeros
changes no frame. Power of a periodic Hann window of `window` samples; triangular filters on the HTK mel scale, 2595 log10(1 + f / 700);
cepstra by Davis, Mermelstein 1980; deltas by regression over 9 frames, as in HTK (Young et al., The HTK Book, section 5.9).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-6  # added to the power of a band; a full-scale sine has about 1e4
LOWEST = 50.0  # Hz, lower end of the lowest filter
CACHED = 1 << 19  # values of frames transformed at once on a CPU: three times as fast as all at once, which leave its caches


def frames(samples: int | Tensor, hop: int) -> int | Tensor:
    """The number of frames of a waveform of so many samples."""
    return samples // hop + 1


def log_mel(wave: Tensor, rate: int, mels: int, window: int, hop: int) -> Tensor:
    """wave (B,T) in -1..1 -> (B, T // hop + 1, mels) float32, the natural logarithm of each band's power."""
    with torch.autocast(wave.device.type, enabled=False):
        size = fft_size(window)
        hann = torch.hann_window(window, device=wave.device)
        filters = _filters_on(rate, size, mels, wave.device)

        def some(rows: Tensor) -> Tensor:
            rows = F.pad(rows.float(), (size // 2, size // 2))
            spectrum = torch.stft(rows, size, hop, window, hann, center=False, return_complex=True)  # (B, size/2+1, frames)
            power = spectrum.real.square() + spectrum.imag.square()
            return (power.transpose(1, 2) @ filters + FLOOR).log()

        each = max(1, CACHED // ((wave.shape[1] // hop + 1) * size)) if wave.device.type == "cpu" else len(wave)
        return torch.cat([some(rows) for rows in wave.split(each)]) if each < len(wave) else some(wave)


def fft_size(window: int) -> int:
    """The smallest power of 2 that holds a window."""
    return 1 << (window - 1).bit_length()


def mel_filters(rate: int, size: int, mels: int) -> Tensor:
    """-> (size / 2 + 1, mels) float32: triangular filters of height 1 whose corners are evenly spaced in mel, from 50 Hz to rate / 2."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (LOWEST, rate / 2))
    corners = 700 * (10 ** (torch.linspace(low, high, mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    below, centre, above = corners[:-2], corners[1:-1], corners[2:]
    return torch.minimum((bins - below) / (centre - below), (above - bins) / (above - centre)).clamp(min=0).float()


@lru_cache(16)
def _filters_on(rate: int, size: int, mels: int, device: torch.device) -> Tensor:
    return mel_filters(rate, size, mels).to(device)


def cepstra(spectrogram: Tensor, count: int) -> Tensor:
    """Log-mel (B,F,M) -> (B,F,count), the first coefficients of an orthonormal DCT-II over bands."""
    mels = spectrogram.shape[2]
    angle = math.pi / mels * (torch.arange(mels, dtype=torch.float64) + 0.5)
    basis = (angle.unsqueeze(1) * torch.arange(count)).cos() * math.sqrt(2 / mels)
    basis[:, 0] /= math.sqrt(2)
    return spectrogram @ basis.to(spectrogram)


def deltas(x: Tensor, count: Tensor, reach: int = 4) -> Tensor:
    """x (B,F,C), of which the first `count` (B,) frames are valid -> (B,F,C): the slope of a regression line over 2 * reach + 1 frames;
    the first and last valid frames are repeated beyond the ends."""
    place = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    last = (count - 1).unsqueeze(1)
    total = torch.zeros_like(x)
    for step in range(1, reach + 1):
        after, before = (torch.minimum((place + sign * step).clamp(min=0), last) for sign in (1, -1))
        take = lambda at: x.gather(1, at.unsqueeze(2).expand(-1, -1, x.shape[2]))  # noqa: E731
        total += step * (take(after) - take(before))
    return total / (2 * sum(step * step for step in range(1, reach + 1)))
