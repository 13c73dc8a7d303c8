"""Inpainting: PSNR in the hole of held-out images, beside the mean colour, the nearest visible pixel, and biharmonic inpainting.

pip install --target peers scikit-image                                           for biharmonic inpainting; without it, it is left out
untaught pretrain DATA --method inpainting --out runs/inpainting ...
PYTHONPATH=peers python benchmarks/inpainting.py runs/inpainting                  on val if there is one, else on test
python benchmarks/inpainting.py runs/inpainting --part test --pictures holes.png

Images are whole (not cropped at random); a hole of blocks is drawn by seed and index. PSNR is of the hidden pixels of an image, averaged
over images; intervals are 95%, by image, and those of differences are paired.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from colour import batches, neighbours, pictures, shown, unaugmented
from relation import rebuilt
from rounds import machine, table
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from untaught.console import console
from untaught.modalities.image.pretexts import unnormalised
from untaught.ops.paste import pasted
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.view_pipeline import Views

try:
    from skimage.restoration import inpaint_biharmonic  # type: ignore[import-not-found]
except ImportError:
    inpaint_biharmonic = None
MOST = 1000


def nearest(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """image (H,W,C), hidden (H,W) bool -> each hidden pixel has the colour of the visible one nearest to it."""
    found: Any = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return image[tuple(found)]


def biharmonic(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    return inpaint_biharmonic(image, hidden, channel_axis=2).clip(0, 1)  # type: ignore[misc]


@torch.no_grad()
def psnrs(method: Any, views: Views, dataset: Dataset, part: str) -> dict[str, np.ndarray]:
    """By what fills the hole: one PSNR per image, in dB."""
    pretext, prep = views.prep.modality.pretexts[views.names[0]], views.prep
    mean, std = (torch.tensor(prep.statistics[key]).view(-1, 1, 1) for key in ("mean", "std"))
    fillings = {"nearest visible pixel": nearest} | ({"biharmonic": biharmonic} if inpaint_biharmonic else {})
    found: dict[str, list[np.ndarray]] = {}
    for batch in batches(dataset, part, MOST).batches(0):
        view = views(batch, 0)[0]
        assert view.target is not None
        assert view.meta is not None
        answers: dict[str, Tensor] = {"mean colour": torch.zeros_like(view.target), "the answer": method.solve([view])}
        hole = view.meta["hole"]
        hidden = pasted(torch.zeros_like(view.x[:, :1]), torch.ones_like(hole, dtype=torch.float32), hole)[:, 0].bool().numpy()
        images = unnormalised(view.x, prep).permute(0, 2, 3, 1).double().numpy()
        start, side = (view.x.shape[-1] - hole.shape[-1]) // 2, hole.shape[-1]
        for name, fill in fillings.items():
            filled = np.stack([fill(image, where) for image, where in zip(images, hidden, strict=True)])
            square = torch.from_numpy(filled[:, start : start + side, start : start + side]).float().permute(0, 3, 1, 2)
            answers[name] = (square - mean) / std
        for name, answer in answers.items():
            found.setdefault(name, []).append(pretext.measure(view, answer, views.options[0], prep)["psnr"])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--part", default="")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--knn", action="store_true", help="20-NN of the encoder on whole images, beside its random init")
    asked = parser.parse_args()
    console.quiet = True
    print(f"{machine()}\n")
    rows, near = [], []
    for folder in asked.runs:
        method, views, dataset = rebuilt(folder)
        part = asked.part or ("val" if len(dataset.parts.get("val", ())) else "test")
        plain = unaugmented(views, views.names[0])
        if asked.pictures:
            pictures(method, plain, dataset, part, asked.pictures)
        found = psnrs(method, plain, dataset, part)
        rows += [[folder.name, name, shown(values), shown(found["the answer"] - values)] for name, values in found.items()]
        if asked.knn:
            near += neighbours(folder, views, dataset, part)
    print(table(["run", "hole filled with", "PSNR in dB", "the answer above it"], rows))
    if near:
        print("\n" + table(["run", "encoder", "images", "20-NN"], near))


if __name__ == "__main__":
    main()
