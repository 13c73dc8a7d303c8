"""DAVIS label propagation by frozen encoders (DINO's protocol), beside copying the first mask, colours, random init and optical flow.

python benchmarks/davis.py RUN|timm/NAME ... [--map -1] [--random-init]

What `untaught evaluate RUN --task propagate --data frames.zip` measures, and optical flow (OpenCV's DIS from frame to frame, if installed)
beside it. On the 14 sequences of davis_mini (validation part of DAVIS 2016 at 228 x 128, every second frame): J and F in percent, means
over frames without the first and the last, then over sequences; intervals of 95% from a bootstrap over sequences. Frames are resized so
that the shorter side has 30 places of the encoder's map (DINO: 60 at 480p).
"""

from __future__ import annotations

import argparse
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
from rounds import machine, table

from untaught.commands.propagate import ByFeatures, Predict, copied, example_of, objects, prep_of
from untaught.config.registry import modality_named
from untaught.console import console
from untaught.core import Preprocessor
from untaught.encoders.colours import Colours
from untaught.evaluation.models import open_model
from untaught.modalities.image.videos import Video, open_videos

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data")) / "davis_mini" / "frames.zip"


def flow(frames: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The mask of each frame, moved by the optical flow to the next."""
    import cv2  # type: ignore[import-not-found]

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    dis, masks = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), [first.astype(np.float32)]
    height, width = grey[0].shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for before, now in pairwise(grey):
        back = dis.calc(now, before, None)
        masks.append(cv2.remap(masks[-1], x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR))
    return (np.stack(masks) > 0.5).astype(np.int64)


def row(name: str, predict: Predict, videos: list[Video]) -> list[str]:
    both = np.array([objects(predict, video, binary=True)[0] for video in videos])
    values = np.column_stack([both.mean(1), both])  # (videos, 3)
    draws = np.random.default_rng(0).integers(0, len(values), (1000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975], axis=0)
    cells = [f"{100 * m:.1f} ({100 * a:.1f} to {100 * b:.1f})" for m, a, b in zip(values.mean(0), low, high, strict=True)]
    print(name, *cells, flush=True)
    return [name, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--map", type=int, default=-1, help="which of the encoder's maps, from fine to coarse")
    parser.add_argument("--random-init", action="store_true")
    asked = parser.parse_args()
    console.quiet = True
    videos, image = open_videos(DATA), modality_named("image")
    lines = [row("copy of the first mask", copied, videos)]
    half = Preprocessor(image, {"channels": 3}, {"mean": [0.5] * 3, "std": [0.5] * 3})
    lines.append(row("colours", ByFeatures(Colours(3), half), videos))
    try:
        lines.append(row("optical flow (DIS)", flow, videos))
    except ImportError:
        print("no optical flow: OpenCV is not installed")
    for name in asked.encoders:
        model = open_model(name, lambda: image)
        example = example_of(model, videos[0])
        networks = {name: model.build(example)}
        if asked.random_init and (random_init := model.random_init(example)) is not None:
            networks[f"{name}, random init"] = random_init
        for what, encoder in networks.items():
            lines.append(row(what, ByFeatures(encoder, prep_of(model, example), asked.map), videos))
    print(f"{machine()}\n")
    print(table(["features", "J&F", "J", "F"], lines))


if __name__ == "__main__":
    main()
