"""The gallery of the README: what the heads of pretext tasks make of images that they were not trained on, a row for each method.

python benchmarks/gallery.py RUNS [--minutes 5] [--only jigsaw mae ...] [--out docs/gallery.png]

RUNS holds a run folder for each method; those that are missing are trained first, --minutes each, on data in $UNTAUGHT_DATA: photographs
of Caltech and Flickr, CIFAR-10, Fashion-MNIST. The images shown are crops of the two photographs that ship with scikit-learn, so that no
image of a data set is in the picture: what a method sees beside what it answers. Of Fashion-MNIST only generated samples are shown.
"""

from __future__ import annotations

import argparse
import gzip
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

import untaught as ut
from untaught.core import View
from untaught.inference.pretext import Pretext

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
PAIRS, SIDE, GAP, NAME = 5, 96, 4, 130  # images of a row, pixels of each, between them, and of the method's name


@dataclass(frozen=True)
class Row:
    method: str
    data: str  # "photos" or "fashion"
    title: str
    knobs: dict[str, Any] = field(default_factory=dict)


PHOTOS: dict[str, Any] = {"size": 96, "batch_size": 64}
ROWS = (
    Row("colorization", "photos", "colorization", PHOTOS),
    Row("inpainting", "photos", "inpainting", PHOTOS),
    Row("denoising", "photos", "denoising", PHOTOS),
    Row("mae", "photos", "mae", PHOTOS | {"normalise": False}),
    Row("jigsaw", "photos", "jigsaw", {"size": 48, "batch_size": 64, "puzzle.permutations": 64}),
    Row("rotation", "photos", "rotation", PHOTOS),
    Row("vae", "fashion", "samples of vae"),
    Row("pixelcnn", "fashion", "... of pixelcnn", {"batch_size": 32}),
)


def training_data(name: str, folder: Path) -> str:
    """The path of the data, unpacked under `folder`."""
    place = folder / "data" / name
    if name == "photos":
        if not place.exists():
            for archive in ("caltech20", "flickr8k_mini"):
                with tarfile.open(DATA / archive / "images.tar") as tar:
                    tar.extractall(place / archive, filter="data")
        return str(place)
    file = place.with_suffix(".npz")
    if not file.exists():
        with gzip.open(DATA / "fashion_mnist" / "train-images-idx3-ubyte.gz") as opened:
            images = np.frombuffer(opened.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, train_images=images)
    return str(file)


def shown() -> np.ndarray:
    """Square crops of scikit-learn's photographs (5,H,H,3) uint8."""
    china, flower = load_sample_images().images
    high, wide = china.shape[:2]
    places = [(china, 0), (china, wide - high), (flower, (wide - high) // 2), (china, (wide - high) // 2), (flower, 0)]
    return np.stack([image[:, left : left + high] for image, left in places])


def strip(row: Row, run: Path) -> Image.Image:
    """The row of one method: its name, and pairs of what it sees and answers, or generated samples."""
    sampled = row.data == "fashion"
    pretext = Pretext(run, np.zeros((2, 28, 28), np.uint8) if sampled else shown())
    _, _, (_, images) = next(iter(pretext))
    if sampled:
        assert pretext.method is not None
        assert pretext.views is not None
        views = pretext.views
        tiles = list(views.prep.modality.render(View(pretext.method.sample(2 * PAIRS, 0)), views.options[0], views.prep))
    else:
        before, after = images.get("input", images["sample"]), images["answer"]
        tiles = [each for pair in zip(before, after, strict=True) for each in pair]
    sheet = Image.new("RGB", (NAME + 2 * PAIRS * (SIDE + GAP), SIDE + GAP), "white")
    ImageDraw.Draw(sheet).text((4, SIDE // 2 - 9), row.title, fill="black", font=ImageFont.load_default(16))
    for i, pixels in enumerate(tiles):
        way = Image.Resampling.NEAREST if pixels.shape[0] < SIDE else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(pixels).resize((SIDE, SIDE), way), (NAME + i * (SIDE + GAP), 0))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--only", nargs="+", default=[row.method for row in ROWS])
    parser.add_argument("--out", type=Path, default=Path("docs/gallery.png"))
    chosen = parser.parse_args()
    strips = []
    for row in ROWS:
        if row.method not in chosen.only:
            continue
        run = chosen.runs / row.method
        if not (run / "encoder").exists():
            ut.pretrain(training_data(row.data, chosen.runs), row.method, out=run, minutes=chosen.minutes, evaluate_every=0, **row.knobs)
        strips.append(strip(row, run))
    page = Image.new("RGB", (strips[0].width, sum(each.height for each in strips)), "white")
    for number, each in enumerate(strips):
        page.paste(each, (0, number * each.height))
    page.save(chosen.out)
    print(f"wrote {chosen.out}, {page.width} x {page.height}")


if __name__ == "__main__":
    main()
