"""Images a second into a store: photographs of 500 x 375 as JPEG, packed cold, beside what one would write oneself.

python benchmarks/packing.py [--images 2000] [--rounds 3] [--side 96 --side 144]

Peers give the same squares: Pillow's full decoding and resizing in a loop, and torchvision's ImageFolder behind a DataLoader with two
workers. All take turns; medians of the rounds. Processor time is that of all threads and workers, so that other jobs on the machine
weigh less; wall time is what a user waits. Also says what decoding at a fraction of the size changes: the mean difference of the
squares from those by full decoding, in units of 255.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rounds import machine, table

from untaught.core import Preprocessor

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
SIZE = 500, 375


def photographs(folder: Path, count: int, quality: int = 90) -> None:
    """Real photographs at SIZE, those of flickr8k_mini over and over: each file is read and decoded anew all the same."""
    folder.mkdir()
    with tarfile.open(DATA / "flickr8k_mini" / "images.tar") as archive:
        files = [archive.extractfile(member) for member in archive if member.isfile()]
        originals = [file.read() for file in files if file][:count]
    made = []
    for original in originals:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(original)).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=quality)
        made.append(buffer.getvalue())
    for i in range(count):
        place = folder / f"{i % 10}" / f"{i:06}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(made[i % len(made)])


def contest(folder: Path, cache: Path, side: int, rounds: int) -> list[list[str]]:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from untaught.data.sources import open_source
    from untaught.data.store import pack
    from untaught.modalities.image import IMAGE

    layout = {"size": side, "side": side, "channels": 3, "bits": 8, "preset": "photo"}
    files = sorted(folder.rglob("*.jpg"))

    def ours() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        pack(open_source(folder, IMAGE), Preprocessor(IMAGE, layout), cache=cache)

    def full(file: Path) -> np.ndarray:
        return np.asarray(Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BILINEAR))

    def loop() -> None:
        for file in files:
            full(file)

    def torchvision() -> None:
        transform = v2.Compose([v2.PILToTensor(), v2.Resize((side, side), antialias=True)])
        for _ in DataLoader(ImageFolder(folder, transform), batch_size=64, num_workers=2):
            pass

    contestants = {"untaught": ours, "Pillow, full decoding, one thread": loop, "torchvision, 2 workers": torchvision}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            wall, processor = time.perf_counter(), sum(os.times()[:4])
            work()
            spent[name].append((time.perf_counter() - wall, sum(os.times()[:4]) - processor))
    few = [(IMAGE.decode({"image": file}, Preprocessor(IMAGE, layout))["pixels"].transpose(1, 2, 0), full(file)) for file in files[:200]]
    off = statistics.mean(float(np.abs(square - exact.astype(np.float32)).mean()) for square, exact in few)
    rows = []
    for name, times in spent.items():
        wall, processor = (statistics.median(column) / len(files) for column in zip(*times, strict=True))
        best = min(processor for _, processor in times) / len(files)
        own = statistics.median(processor for _, processor in spent["untaught"]) / len(files)
        difference = f"{off:.2f}" if name == "untaught" else ""
        said = [f"{1000 * processor:.2f} (best {1000 * best:.2f})", f"{2 / processor:.0f} (best {2 / best:.0f})", f"{1 / wall:.0f}"]
        rows.append([str(side), name, *said, f"{processor / own:.2f}", difference])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--side", type=int, action="append", help="stored: 96 is for views of 64, 144 of 96 (a CPU's own choice), 336 of 224"
    )
    asked = parser.parse_args()
    if not (DATA / "flickr8k_mini").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds flickr8k_mini/")
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        photographs(Path(scratch) / "photos", asked.images)
        rows = [
            r for side in asked.side or (96, 144) for r in contest(Path(scratch) / "photos", Path(scratch) / "cache", side, asked.rounds)
        ]
    head = ["side", "", "processor ms an image", "images/s of two whole cores", "by the clock", "of ours", "mean difference"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
