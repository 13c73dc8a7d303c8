"""Computed series: six shapes of wave at any speed and phase, on two channels, with drift and noise; for a demo and tests without files."""

from __future__ import annotations

import numpy as np

SHAPES = ("sine", "square", "triangle", "sawtooth", "pulse", "double")
COUNT, STEPS = 900, 128
SLOWEST, FASTEST = 2.0, 5.0  # cycles in a series


def waves(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """-> series (900,2,128) float32 and the shape of each in 0..5. The second channel lags behind the first by a random time."""
    random = np.random.default_rng(seed)
    kinds = np.arange(COUNT) % len(SHAPES)
    series = np.empty((COUNT, 2, STEPS), np.float32)
    time = np.arange(STEPS) / STEPS
    for row, kind in enumerate(kinds):
        speed, phase, lag = random.uniform(SLOWEST, FASTEST), random.uniform(), random.uniform(0.1, 0.4)
        bend = random.normal(0, 0.05) * np.sin(2 * np.pi * time)  # the speed changes a little
        for channel in range(2):
            turn = (speed * (time + bend) + phase - channel * lag) % 1
            wave = random.lognormal(0, 0.3) * _shape(SHAPES[kind], turn)
            drift = random.normal(0, 0.3) + random.normal(0, 0.3) * time
            series[row, channel] = wave + drift + random.uniform(0.1, 0.4) * random.normal(size=STEPS)
    return series, kinds


def _shape(name: str, turn: np.ndarray) -> np.ndarray:
    """turn (T,) in 0..1 -> (T,), of mean 0 and about the same energy."""
    sine = np.sin(2 * np.pi * turn)
    return {
        "sine": 1.4 * sine,
        "square": np.where(turn < 0.5, 1.0, -1.0),
        "triangle": 1.7 * (1 - 4 * np.abs(turn - 0.5)),
        "sawtooth": 1.7 * (2 * turn - 1),
        "pulse": np.where(turn < 0.2, 2.0, -0.5),
        "double": sine + np.sin(4 * np.pi * turn),
    }[name]
