"""Densities on Fashion-MNIST: bits per dimension beside compressors and histograms, and what the features are worth.

python benchmarks/density.py --prepare runs/fashion.npz                  the first 54,000 training images, and the last 6,000 as val
untaught pretrain runs/fashion.npz --method pixelcnn size=28 minutes=10 ... --out runs/pixelcnn
python benchmarks/density.py runs/pixelcnn [RUN ...]                     bits per dimension on the last 6,000 of the training part
python benchmarks/density.py runs/pixelcnn [RUN ...] --test --probes     on the test part, and kNN and linear probe beside random init
python benchmarks/density.py runs/pixelcnn [RUN ...] --pictures DIR      a sheet of samples, and one of completions, for each run

Any run whose method reports bits per dimension (`bits_per_dim`) can be given; of a VAE, whose likelihood has a bound only, they are the
bound's. In float32, of all images; the interval is 95%, from the means of batches of 50. The files of the data set lie in
$UNTAUGHT_DATA/fashion_mnist.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adversarial import HELD_OUT, part
from PIL import Image
from rounds import machine, table

from untaught.config.registry import build_random_init, method_class
from untaught.console import console
from untaught.core import Batch, Encoder, Facts, Method
from untaught.evaluation.knn import knn_right
from untaught.evaluation.linear import LinearProbe
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.pretrained import load_encoder
from untaught.pipeline.view_pipeline import Views, used_view
from untaught.storage.run_dir import read_run
from untaught.training import checkpoint

TOGETHER = 50  # images in a batch, whose means give the interval
LINE = 8  # pictures in a row of a sheet


def batch_of(images: np.ndarray, first: int = 0) -> Batch:
    """Images (N,28,28) uint8 as they are stored."""
    return {
        "pixels": torch.from_numpy(images.copy())[:, None],
        "aspect": torch.ones(len(images)),
        "index": torch.arange(first, first + len(images)),
    }


class Trained:
    """The method of a run with its last weights, the views that it reads, and its encoder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, read_run(folder / "run.yaml")
        self.encoder, self.config, self.prep = load_encoder(folder)
        options = [dict(view) for view in self.run["resolved"]["views"]]
        self.views = Views(tuple(view.pop("name") for view in options), self.prep, options, seed=0)
        examples = self.views(batch_of(np.zeros((2, 28, 28), np.uint8)), 0)
        facts = Facts(2, dict(zip(self.views.names, examples, strict=True)), self.prep.statistics)
        build: Any = method_class(self.run["method"])
        self.method: Method = build(self.encoder, facts, **self.run["resolved"]["method"])
        state = checkpoint.load(folder / "checkpoints", print)
        assert state is not None
        self.method.load_state_dict(state["method"])
        self.method.eval()

    @torch.no_grad()
    def bits(self, images: np.ndarray) -> tuple[float, float]:
        """Bits per dimension, and half the 95% interval from the spread of the batches' means."""
        means = []
        for start in range(0, len(images), TOGETHER):
            views = self.views(batch_of(images[start : start + TOGETHER], start), 0)
            means.append(float(self.method.validate(views, 1.0)["bits_per_dim"]))
        return float(np.mean(means)), 1.96 * float(np.std(means, ddof=1)) / len(means) ** 0.5

    @torch.no_grad()
    def features(self, images: np.ndarray, trained: bool) -> np.ndarray:
        encoder: Encoder = self.encoder
        if not trained:
            torch.manual_seed(1)
            encoder = build_random_init(self.config["encoder"], self.prep.encoder_arguments, self.config["encoder_knobs"])
        view = used_view(self.prep, self.config["view"])
        parts = [view(batch_of(images[start : start + 200]), 0)[0] for start in range(0, len(images), 200)]
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):  # as in `untaught evaluate`
            return np.concatenate([encoder.eval()(one).float().numpy() for one in parts])


def baselines(images: np.ndarray, fitted: np.ndarray) -> dict[str, float]:
    """Bits per dimension of histograms of the images `fitted`, and of compressors that know nothing of them."""
    pixels = images[0].size
    everywhere = np.bincount(fitted.ravel(), minlength=256) + 1.0
    flat, places = fitted.reshape(len(fitted), -1), np.arange(pixels)
    each = np.ones((pixels, 256))
    for place in places:
        each[place] += np.bincount(flat[:, place], minlength=256)
    found = {
        "histogram of all pixels": -np.log2(everywhere / everywhere.sum())[images].mean(),
        "histogram of each pixel": -np.log2(each / each.sum(1, keepdims=True))[places, images.reshape(len(images), -1)].mean(),
    }
    for name, header, how in (
        ("PNG", 57, {"format": "PNG", "optimize": True}),  # signature, IHDR, the frame of IDAT, IEND
        ("WebP lossless", 20, {"format": "WEBP", "lossless": True, "quality": 100, "method": 6}),  # RIFF and the frame of VP8L
    ):
        sizes = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, **how)
            sizes.append(len(file.getvalue()))
        found[name] = 8 * float(np.mean(sizes)) / pixels
        found[f"{name} less {header} bytes of container"] = 8 * (float(np.mean(sizes)) - header) / pixels
    return {name: float(value) for name, value in found.items()}


def share(right: np.ndarray) -> str:
    mean = float(right.mean())
    return f"{100 * mean:.1f} +- {196 * (mean * (1 - mean) / len(right)) ** 0.5:.1f}"


def probes(bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, labels: np.ndarray) -> list[str]:
    """kNN (k=20) and linear probe of features, with intervals."""
    near = knn_right(bank, bank_labels, queries, labels, (20,))[20]
    found, _ = LinearProbe(bank, queries).predict(np.arange(len(bank)), bank_labels)
    return [share(near), share(found == labels)]


def sheet(levels: np.ndarray, path: Path) -> None:
    """Saves images (N,28,28), enlarged, LINE a row."""
    rows = [np.concatenate(list(levels[start : start + LINE]), 1) for start in range(0, len(levels), LINE)]
    picture = Image.fromarray(np.concatenate(rows).astype(np.uint8))
    picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.NEAREST).save(path)


def pictures(trained: Trained, images: np.ndarray, folder: Path) -> None:
    """Samples; and completions: the image, and four ways in which its lower half could go on."""
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = trained.prep.statistics["mean"][0], trained.prep.statistics["std"][0]
    sampled = (trained.method.sample(4 * LINE, 0) * std + mean).clamp(0, 1).mul(255).round()
    sheet(sampled[:, 0].numpy(), folder / f"{trained.folder.name}_samples.png")
    chosen = images[:LINE]
    shown = [chosen]
    for turn in range(4):
        views = trained.views(batch_of(chosen, 1000 * turn), 0)  # another index, another draw
        shown.append(trained.method.solve(views)[:, 0].float().clamp(0, 255).numpy())
    sheet(np.concatenate(shown), folder / f"{trained.folder.name}_completions.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--prepare", type=Path, help="write the data to train on")
    parser.add_argument("--test", action="store_true", help="on the test part")
    parser.add_argument("--probes", action="store_true", help="also kNN and linear probe of the features")
    parser.add_argument("--images", type=int, default=None, help="only the first so many images of the part")
    parser.add_argument("--bank", type=int, default=10_000, help="labelled training images of kNN and linear probe")
    parser.add_argument("--pictures", type=Path, help="only save samples and completions in this folder")
    asked = parser.parse_args()
    console.quiet = True
    images, labels = part("train")
    if asked.prepare:
        asked.prepare.parent.mkdir(parents=True, exist_ok=True)
        np.savez(asked.prepare, train_images=images[:-HELD_OUT], val_images=images[-HELD_OUT:])
        return
    fitted, held_out, truth = images[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:]
    if asked.test:
        held_out, truth = part("t10k")
    held_out, truth = held_out[: asked.images], truth[: asked.images]
    runs = [Trained(folder) for folder in asked.runs]
    if asked.pictures:
        for one in runs:
            pictures(one, held_out, asked.pictures)
        return
    print(f"{machine()}\n{len(held_out):,} images of {'the test part' if asked.test else 'the training part, not trained on'}\n")
    rows = [[name, f"{value:.3f}"] for name, value in baselines(held_out, fitted).items()]
    for one in runs:
        bits, half = one.bits(held_out)
        rows.append([one.folder.name, f"{bits:.3f} +- {half:.3f}"])
    print(table(["density", "bits per dimension"], rows), flush=True)
    if asked.probes:
        bank, known = fitted[: asked.bank], labels[: asked.bank]
        raw = [x.reshape(len(x), -1).astype(np.float32) / 255 for x in (bank, held_out)]
        lines = [["raw pixels", *probes(raw[0], known, raw[1], truth)]]
        for one in runs:
            for name, trained in ((one.folder.name, True), (f"{one.folder.name}, random init", False)):
                lines.append([name, *probes(one.features(bank, trained), known, one.features(held_out, trained), truth)])
        print("\n" + table(["features", "kNN", "linear"], lines))


if __name__ == "__main__":
    main()
