"""Computed sounds: notes, chords and sweeps of twelve pitches in three octaves, with random overtones, loudness and noise."""

from __future__ import annotations

import numpy as np

PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
RATE, SECONDS, COUNT = 8000, 0.5, 1200
OVERTONES = 6
MAJOR = (0, 4, 7)  # semitones of a chord over its root
LOWEST = 130.81  # Hz, C3


def tones(seed: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """-> samples (1200, 4000) int16, the pitch class of each (that of a chord's root, and of a sweep's end) in 0..11, and the rate."""
    random = np.random.default_rng(seed)
    time = np.arange(round(RATE * SECONDS)) / RATE
    waves = np.empty((COUNT, len(time)), np.int16)
    pitch = np.arange(COUNT) % len(PITCHES)
    for row, own in enumerate(pitch):
        kind = random.integers(3)
        root = LOWEST * 2 ** (own / 12 + random.integers(3) + random.normal(0, 0.1) / 12)
        heights = random.uniform(0, 1, OVERTONES) / np.arange(1, OVERTONES + 1)
        wave = np.zeros(len(time))
        for step in MAJOR if kind == 1 else (0,):
            bend = -random.uniform(1, 7) / 12 * np.exp(-12 * time) if kind == 2 else 0.0  # octaves below the end
            phase = 2 * np.pi * np.cumsum(root * 2 ** (step / 12 + bend) * np.ones_like(time)) / RATE
            wave += sum(height * np.sin(n * phase + random.uniform(0, 2 * np.pi)) for n, height in enumerate(heights, 1))
        wave *= np.minimum(time / random.uniform(0.005, 0.05), 1) * np.exp(-random.uniform(0, 4) * time)
        wave += random.uniform(0.002, 0.05) * wave.std() * random.normal(size=len(time))
        waves[row] = np.rint(random.uniform(3000, 20_000) * wave / np.abs(wave).max())
    return waves, pitch, RATE
