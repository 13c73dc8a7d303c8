"""Probes of numbers on real data: the speed of a robot's wheels from one second of its inertial sensor, on runs never seen.

python benchmarks/numeric_labels.py OUT [--method simclr] [--steps 300]

BorealTC ($UNTAUGHT_DATA/borealtc): windows of 100 samples (gyroscope and accelerometer, 100 Hz) without overlap; the label is the mean
velocity of both wheels in the window. Every third run of each terrain is the test part. Pretraining sees the training part without
labels. Knobs are the defaults: nothing is chosen.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import untaught as ut

WINDOW = 100  # samples, one second


def windows(folder: Path) -> pd.DataFrame:
    """Columns series (6, 100), label and split."""
    imu, wheels = np.load(folder / "imu.npz"), np.load(folder / "wheels.npz")
    names = wheels["columns"].tolist()
    time, speed = names.index("time"), [i for i, name in enumerate(names) if "velocity" in name]
    rows = []
    for run, (start, end) in enumerate(zip(imu["offset"], imu["offset"][1:], strict=False)):
        terrain = imu["terrain"]
        part = "test" if int((terrain[:run] == terrain[run]).sum()) % 3 == 2 else "train"
        own = wheels["wheels"][wheels["offset"][run] : wheels["offset"][run + 1]]
        samples = imu["imu"][start:end] / imu["scale"]
        for first in range(0, len(samples) - WINDOW + 1, WINDOW):
            inside = (own[:, time] >= first / 100) & (own[:, time] < (first + WINDOW) / 100)
            if inside.any():
                rows.append((samples[first : first + WINDOW].T.astype(np.float32), float(own[inside][:, speed].mean()), part))
    return pd.DataFrame(rows, columns=["series", "label", "split"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    data = windows(Path(os.environ["UNTAUGHT_DATA"]) / "borealtc")
    how: dict[str, Any] = {"label": "label", "split": "split", "modality": "series"}
    run = ut.pretrain(data, asked.method, out=asked.out, steps=asked.steps, evaluate_every=0, seed=0, **how)
    for row in run.evaluate(data, **how):
        if row["probe"] != "spectrum":
            name = " ".join(row[key] for key in ("features", "probe", "labels", "metric"))
            print(f"{name} {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})")


if __name__ == "__main__":
    main()
