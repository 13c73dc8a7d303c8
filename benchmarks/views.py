"""Two SimCLR views an image, one thread: untaught against lightly, torchvision v2 and kornia.

python benchmarks/views.py [--size 32] [--size 224] [--rounds 15]        (pip install lightly kornia torchvision)

32 px: CIFAR-10 images. 224 px: photos stored at 256 px. Everyone starts from decoded images, lightly from PIL's, as it
documents, the others from uint8 tensors, and ends with normalised float32 (B,3,size,size), twice. Strengths are lightly's
defaults (SimCLR's); "small" is our preset for images up to 64 px, half the strength of colour and no blur.
torchvision "batched" draws one crop and one colour for the whole batch, which is no valid SimCLR; it shows what the pixels cost.
Processor time is counted, not the wall's. Contestants take turns; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rounds import machine, table, take_turns

from untaught.core import Preprocessor
from untaught.modalities.image import IMAGE
from untaught.modalities.image.presets import NOTHING, PRESETS
from untaught.pipeline.view_pipeline import Views

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
Work = Callable[[], int]


def pictures(size: int, count: int) -> list[Image.Image]:
    """CIFAR-10 at 32 px, else photos squashed to 8/7 of the view's side."""
    if size == 32:
        import pyarrow.parquet as pq

        rows = next(pq.ParquetFile(DATA / "cifar10" / "train.parquet").iter_batches(count)).to_pylist()
        return [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
    side, found = size * 8 // 7, []
    with tarfile.open(DATA / "caltech20" / "images.tar") as archive:
        while len(found) < count and (member := archive.next()):
            if member.name.endswith(".jpg") and (file := archive.extractfile(member)):
                found.append(Image.open(io.BytesIO(file.read())).convert("RGB").resize((side, side)))
    return found


def ours(pixels: torch.Tensor, size: int, options: dict) -> Work:
    views = Views(("global", "global"), Preprocessor(IMAGE, {}, STATISTICS), [NOTHING | options | {"size": size}] * 2, seed=0)
    batch = {"pixels": pixels, "aspect": torch.ones(len(pixels)), "index": torch.arange(len(pixels))}
    epoch = iter(range(1 << 30))

    def work() -> int:
        views(batch, next(epoch))
        return len(pixels)

    return work


def lightly(images: list[Image.Image], size: int, **knobs: float) -> Work:
    from lightly.transforms.simclr_transform import SimCLRTransform

    transform = SimCLRTransform(input_size=size, **knobs)  # type: ignore[arg-type]

    def work() -> int:
        pairs = [transform(image) for image in images]
        [torch.stack(view) for view in zip(*pairs, strict=True)]
        return len(images)

    return work


def torchvision(pixels: torch.Tensor, size: int, batched: bool) -> Work:
    from torchvision.transforms import v2

    kernel = size // 10 // 2 * 2 + 1
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(STATISTICS["mean"], STATISTICS["std"]),
        ]
    )

    def work() -> int:
        for _ in range(2):
            if batched:
                transform(pixels)
            else:
                torch.stack([transform(x) for x in pixels])
        return len(pixels)

    return work


def kornia(pixels: torch.Tensor, size: int) -> Work:
    import kornia.augmentation as K  # pyright: ignore[reportMissingImports] -- a peer, installed by hand

    kernel = size // 10 // 2 * 2 + 1
    transform = K.ImageSequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
        K.Normalize(torch.tensor(STATISTICS["mean"]), torch.tensor(STATISTICS["std"])),
    )

    def work() -> int:
        for _ in range(2):
            transform(pixels.float() / 255)
        return len(pixels)

    return work


def contest(size: int, rounds: int) -> None:
    count = 512 if size <= 64 else 64
    images = pictures(size, count)
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2).copy())
    photo = PRESETS["photo"]["global"]
    share = 64 if size <= 64 else 16  # of the images that the slow ones get
    contestants = {"untaught": ours(pixels, size, photo)}
    if size <= 64:
        contestants = {
            "untaught, small": ours(pixels, size, PRESETS["small"]["global"]),
            "untaught, small + blur": ours(pixels, size, PRESETS["small"]["global"] | {"blur": 0.5}),
            "untaught, photo": contestants["untaught"],
        }
    first = next(iter(contestants))
    contestants |= {
        "lightly": lightly(images[:share], size),
        "torchvision v2, a sample": torchvision(pixels[:share], size, batched=False),
        "torchvision v2, batched": torchvision(pixels, size, batched=True),
        "kornia": kornia(pixels, size),
    }
    if size <= 64:
        contestants["lightly, half colour, no blur"] = lightly(images[:share], size, cj_strength=0.5, gaussian_blur=0.0)
    times = take_turns(contestants, rounds)
    base = times[first]
    print(f"\n{size} px from {pixels.shape[-1]} px, batches of {len(images)}, microseconds a view, and times of {first}\n")
    print(table(
        ["", "median", "lowest to highest", "ratio of medians"],
        [
            [name, f"{t.median / 2e-6:.0f}", f"{t.best / 2e-6:.0f} to {max(t.seconds) / 2e-6:.0f}", f"{t.median / base.median:.1f}"]
            for name, t in times.items()
        ],
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, action="append", help="side of the views; 32 and 224 if not given")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    if not (DATA / "cifar10").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds cifar10/ and caltech20/")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(machine())
    for size in asked.size or [32, 224]:
        contest(size, asked.rounds)


if __name__ == "__main__":
    main()
