"""DAVIS label propagation by frozen encoders (DINO's protocol), beside copying the first mask, colours, random init and optical flow.

python benchmarks/davis.py RUN|timm/NAME ... [--map -1] [--random-init]

On the 14 sequences of davis_mini (validation part of DAVIS 2016 at 228 x 128, every second frame): J and F in percent, means over frames
without the first and the last, then over sequences; intervals of 95% from a bootstrap over sequences. Frames are resized so that the
shorter side has 30 places of the encoder's map (DINO: 60 at 480p). Optical flow is OpenCV's DIS from frame to frame, if installed.
"""

from __future__ import annotations

import argparse
import io
import os
import zipfile
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rounds import machine, table

from untaught.config.registry import modality_named
from untaught.console import console
from untaught.core import Encoder, View
from untaught.encoders.colours import Colours
from untaught.evaluation.label_propagation import contour_accuracy, masks_of, propagate, region_similarity
from untaught.evaluation.models import open_model
from untaught.pipeline.dataset import open_dataset

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data")) / "davis_mini" / "frames.zip"
PLACES = 30  # of the map along the shorter side
Sequence = tuple[np.ndarray, np.ndarray]  # frames (T,H,W,3) uint8, masks (T,H,W) bool
Masks = Callable[[Sequence], np.ndarray]  # -> masks (T,H,W) bool


def sequences() -> dict[str, Sequence]:
    found: dict[str, list[Any]] = defaultdict(list)
    with zipfile.ZipFile(DATA) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".jpg"):
                read = [np.asarray(Image.open(io.BytesIO(archive.read(one)))) for one in (name, f"{name[:-4]}.png")]
                found[name.split("/")[-2]].append((read[0], read[1] > 0))
    return {name: (np.stack([frame for frame, _ in each]), np.stack([mask for _, mask in each])) for name, each in found.items()}


def copied(sequence: Sequence) -> np.ndarray:
    return np.repeat(sequence[1][:1], len(sequence[1]), 0)


def flow(sequence: Sequence) -> np.ndarray:
    """The mask of each frame, moved by the optical flow to the next."""
    import cv2  # type: ignore[import-not-found]

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in sequence[0]]
    dis, masks = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), [sequence[1][0].astype(np.float32)]
    height, width = grey[0].shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for before, now in pairwise(grey):
        back = dis.calc(now, before, None)
        masks.append(cv2.remap(masks[-1], x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR))
    return np.stack(masks) > 0.5


@torch.no_grad()
def by_features(encoder: Encoder, mean: list[float], std: list[float], stride: int, place: int) -> Masks:
    def found(sequence: Sequence) -> np.ndarray:
        frames, masks = sequence
        x = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
        height, width = x.shape[2:]
        scale = PLACES * stride / min(height, width)
        size = [max(1, round(side * scale / stride)) * stride for side in (height, width)]
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
        x = (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
        maps = [encoder.features(View(one[None]), ("maps",)).maps[place][0].float() for one in x]  # type: ignore[index]
        features = torch.stack(maps)
        if min(features.shape[2:]) > PLACES:
            features = F.adaptive_avg_pool2d(features, (PLACES, round(PLACES * width / height)))
        first = torch.stack([~torch.from_numpy(masks[0]), torch.from_numpy(masks[0])]).float()
        labels = propagate(features, F.interpolate(first[None], features.shape[2:], mode="area")[0])
        return masks_of(labels, (height, width)) == 1

    return found


def row(name: str, masks: Masks, data: dict[str, Sequence]) -> list[str]:
    scores = []
    for each in data.values():
        made = masks(each)
        pairs = list(zip(made[1:-1], each[1][1:-1], strict=True))
        scores.append([float(np.mean([score(a, b) for a, b in pairs])) for score in (region_similarity, contour_accuracy)])
    both = np.array(scores)
    values = np.column_stack([both.mean(1), both])  # (sequences, 3)
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
    data = sequences()
    lines = [row("copy of the first mask", copied, data)]
    lines.append(row("colours", by_features(Colours(3), [0.5] * 3, [0.5] * 3, 4, -1), data))
    try:
        lines.append(row("optical flow (DIS)", flow, data))
    except ImportError:
        print("no optical flow: OpenCV is not installed")
    for name in asked.encoders:
        model = open_model(name, lambda: modality_named("image"))
        example = open_dataset(np.zeros((2, 128, 228, 3), np.uint8), model.modality, columns=None, label=None, split=None)
        prep = model.shown(example.prep)
        networks: dict[str, Any] = {name: model.build(example)}
        if asked.random_init:
            networks[f"{name}, random init"] = model.random_init(example)
        for what, encoder in networks.items():
            stride = getattr(encoder, "patch", 0) or encoder.stride or 32
            lines.append(row(what, by_features(encoder.eval(), prep.statistics["mean"], prep.statistics["std"], stride, asked.map), data))
    print(f"{machine()}\n")
    print(table(["features", "J&F", "J", "F"], lines))


if __name__ == "__main__":
    main()
