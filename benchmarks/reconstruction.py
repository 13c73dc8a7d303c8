"""Reconstruction methods: features beside random init, and restored images beside classical filters and interpolation.

python benchmarks/reconstruction.py runs/vae fashion_mnist --method vae --minutes 4 batch_size=128    trains, and scores on a held-out tenth
python benchmarks/reconstruction.py runs/vae fashion_mnist --test                                     scores the same run on the test part

The data set, cifar10 or fashion_mnist, lies in $UNTAUGHT_DATA; its last tenth of the training part is held out, with --test too.
Features: kNN (k = 20) and the linear probe on the pooled vectors, with every fifth training image as bank; 95% intervals by image.
Restored images: mean PSNR over 200 held-out images, of the masked or destroyed pixels, or of the whole image (noise), with 95% intervals by
image. The classical methods are told which pixels are destroyed or masked, the network is not told which are destroyed. Needs
scikit-image. Densities: mean bits per dimension of all held-out images, one draw of the latents each.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from rounds import machine, table
from torch import Tensor

import untaught as ut
from untaught.config.registry import build_random_init, method_class
from untaught.console import console
from untaught.core import Batch, Facts, Method, Options
from untaught.evaluation.knn import knn_right
from untaught.evaluation.linear import LinearProbe
from untaught.modalities.image.pretexts import masked_pixels, psnr, unnormalised
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.pretrained import load_encoder
from untaught.pipeline.view_pipeline import Views, used_view
from untaught.storage.run_dir import read_run
from untaught.training import checkpoint

SHOWN = 200  # images that are restored
BANK = 5  # every fifth training image
Arrays = dict[str, np.ndarray]


def parts(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N,C,H,W) uint8 and labels of train, val and test."""
    place = Path(os.environ["UNTAUGHT_DATA"]) / name
    if name == "cifar10":
        read: Any = lambda part: _parquet(place / f"{part}.parquet")  # noqa: E731
    else:
        read = lambda part: _idx(place / {"train": "train", "test": "t10k"}[part])  # noqa: E731
    images, labels = read("train")
    first = len(images) * 9 // 10
    return {"train": (images[:first], labels[:first]), "val": (images[first:], labels[first:]), "test": read("test")}


def _parquet(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = pq.read_table(path)
    images = [np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in rows["image"].to_pylist()]
    return np.stack(images).transpose(0, 3, 1, 2), rows["label"].to_numpy().astype(np.int64)


def _idx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    def read(kind: str, skip: int) -> np.ndarray:
        with gzip.open(path.with_name(f"{path.name}-{kind}.gz")) as opened:
            return np.frombuffer(opened.read(), np.uint8, offset=skip)

    return read("images-idx3-ubyte", 16).reshape(-1, 1, 28, 28), read("labels-idx1-ubyte", 8).astype(np.int64)


def batch_of(images: np.ndarray) -> Batch:
    return {"pixels": torch.from_numpy(np.ascontiguousarray(images)), "aspect": torch.ones(len(images)), "index": torch.arange(len(images))}


def train(folder: Path, name: str, images: np.ndarray, method: str, minutes: float, knobs: Options) -> None:
    """Trains for `minutes`, or for the steps that the knobs name."""
    data = folder.parent / f"{name}.npz"
    data.parent.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        np.savez(data, images=images)
    length = {} if "steps" in knobs else {"minutes": minutes}
    given = {"size": images.shape[-1], **length, "evaluate_every": 0, "channels_first": True, **knobs}
    ut.pretrain(str(data), method=method, out=folder, **given)


def rebuilt(folder: Path, example: Batch) -> tuple[Method, Views]:
    """The method of a run with its last weights, and its views."""
    run = read_run(folder / "run.yaml")
    encoder, _, prep = load_encoder(folder)
    options = [dict(view) for view in run["resolved"]["views"]]
    views = Views(tuple(view.pop("name") for view in options), prep, options, seed=0)
    build: Any = method_class(run["method"])
    method = build(encoder, Facts(2, dict(zip(views.names, views(example, 0), strict=True)), prep.statistics), **run["resolved"]["method"])
    state = checkpoint.load(folder / "checkpoints", print)
    assert state is not None
    method.load_state_dict(state["method"])
    return method.eval(), views


# ----------------------------------------------------------------------------------------------------------- features


@torch.no_grad()
def vectors(encoder: torch.nn.Module, views: Views, images: np.ndarray) -> np.ndarray:
    whole, batch = used_view(views.prep, "whole"), batch_of(images)
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
        each = [encoder.eval()(whole({key: value[rows] for key, value in batch.items()}, 0)[0]).float() for rows in _chunks(len(images))]
    return torch.cat(each).numpy()


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + 500) for start in range(0, count, 500)]


def features(folder: Path, method: Method, views: Views, bank: Any, queries: Any) -> list[list[str]]:
    """kNN and linear probe of the run's encoder, of the same at random init, and of raw pixels."""
    _, config, prep = load_encoder(folder)
    untrained = build_random_init(config["encoder"], prep.encoder_arguments, config["encoder_knobs"])
    found = []
    for name, encoder in (("trained", method.exported()["encoder"]), ("random init", untrained)):
        rows, asked = (vectors(encoder, views, part[0]) for part in (bank, queries))
        near = knn_right(rows, bank[1], asked, queries[1])[20]
        guess, _ = LinearProbe(rows, asked).predict(np.arange(len(rows)), bank[1])
        found.append([name, _percent(near), _percent(guess == queries[1])])
    flat = [part[0].reshape(len(part[0]), -1).astype(np.float32) / 255 for part in (bank, queries)]
    return [*found, ["raw pixels", _percent(knn_right(flat[0], bank[1], flat[1], queries[1])[20]), ""]]


def _percent(right: np.ndarray) -> str:
    share = float(np.mean(right))
    return f"{100 * share:.1f} +- {196 * (share * (1 - share) / len(right)) ** 0.5:.1f}"


# ---------------------------------------------------------------------------------------------------- restored images


def restored(method: Method, views: Views, images: np.ndarray) -> list[list[str]]:
    """The network's answers and those of classical methods."""
    (view,) = views(batch_of(images[:SHOWN]), 0)
    options, prep = views.options[0], views.prep
    with torch.no_grad():
        answer: Tensor = method.solve([view])
    clean = unnormalised(view.x if view.target is None or view.mask is not None else view.target, prep)
    if view.mask is not None:
        side = options["patch"]
        hidden = masked_pixels(view.mask, side, clean.shape[2] // side)
        patches = torch.nn.functional.fold(answer.transpose(1, 2), clean.shape[2:], side, stride=side)
        guesses = {"network": torch.where(hidden, unnormalised(patches, prep), clean)} | filled(clean, hidden)
        return _psnrs(guesses, clean, hidden)
    corrupted = unnormalised(view.x, prep)
    guesses = {"network": unnormalised(answer, prep), "corrupted input": corrupted}
    if options["corruption"] == "masking":
        hidden = (corrupted != clean).any(1, keepdim=True)
        return _psnrs(guesses | filled(clean, hidden), clean, hidden)
    return _psnrs(guesses | filtered(corrupted), clean, None)


def _psnrs(guesses: dict[str, Tensor], clean: Tensor, where: Tensor | None) -> list[list[str]]:
    rows = []
    for name, guess in guesses.items():
        each = psnr(guess, clean, where)
        rows.append([name, f"{each.mean():.2f} +- {1.96 * each.std() / len(each) ** 0.5:.2f}"])
    return rows


def filled(clean: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Images whose hidden pixels (B,1,H,W) are interpolated from the others."""
    from scipy.ndimage import distance_transform_edt
    from skimage.restoration import inpaint_biharmonic  # type: ignore[import-not-found]

    mean, nearest, biharmonic = (clean.numpy().copy() for _ in range(3))
    for i, mask in enumerate(hidden[:, 0].numpy()):
        image = clean[i].numpy()
        mean[i][:, mask] = image[:, ~mask].mean(1, keepdims=True)
        places: Any = distance_transform_edt(mask, return_distances=False, return_indices=True)
        nearest[i] = image[:, places[0], places[1]]
        known = np.where(mask[..., None], 0.0, image.transpose(1, 2, 0))
        biharmonic[i] = inpaint_biharmonic(known, mask, channel_axis=2).transpose(2, 0, 1)
    made = {"mean of the visible pixels": mean, "nearest visible pixel": nearest, "biharmonic": biharmonic.clip(0, 1)}
    return {name: torch.from_numpy(value).float() for name, value in made.items()}


def filtered(corrupted: Tensor) -> dict[str, Tensor]:
    """Denoised by filters; of several widths the best is reported as such by its row."""
    from scipy.ndimage import gaussian_filter, median_filter
    from skimage.restoration import denoise_bilateral  # type: ignore[import-not-found]

    x = corrupted.numpy()
    made = {f"median {size} x {size}": median_filter(x, (1, 1, size, size)) for size in (3, 5)}
    made |= {f"Gaussian, sigma {sigma}": gaussian_filter(x, (0, 0, sigma, sigma)) for sigma in (0.7, 1.0, 1.5)}
    bilateral = [denoise_bilateral(one.transpose(1, 2, 0).astype(np.float64), sigma_spatial=1.5, channel_axis=2) for one in x]
    made["bilateral"] = np.stack([one.transpose(2, 0, 1) for one in bilateral])
    return {name: torch.from_numpy(np.ascontiguousarray(value)).float() for name, value in made.items()}


# ---------------------------------------------------------------------------------------------------------- densities


@torch.no_grad()
def bits(method: Method, views: Views, images: np.ndarray) -> list[list[str]]:
    """Terms on all images, by name; bits per dimension with its interval by batches of 500 images."""
    batch, found = batch_of(images), {}
    for rows in _chunks(len(images)):
        for name, value in method.validate(views({key: value[rows] for key, value in batch.items()}, 0), 1.0).items():
            found.setdefault(name, []).append(float(value))
    half = {name: 1.96 * np.std(values, ddof=1) / len(values) ** 0.5 for name, values in found.items()}
    return [[name, f"{np.mean(values):.4f} +- {half[name]:.4f}"] for name, values in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", choices=("cifar10", "fashion_mnist"))
    parser.add_argument("--method", default="", help="train it before scoring")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--test", action="store_true", help="score on the test part")
    parser.add_argument("knobs", nargs="*", help="of the run, as key=value")
    asked = parser.parse_intermixed_args()
    known = parts(asked.data)
    if asked.method:
        train(asked.folder, asked.data, known["train"][0], asked.method, asked.minutes, dict(knob.split("=", 1) for knob in asked.knobs))
    console.quiet = True
    queries = known["test" if asked.test else "val"]
    method, views = rebuilt(asked.folder, batch_of(known["train"][0][:2]))
    bank = tuple(part[::BANK] for part in known["train"])
    print(f"{machine()}\n{asked.folder}, {'test' if asked.test else 'held-out tenth of train'}\n")
    if "levels" in views.names:
        print(table(["term", "mean"], bits(method, views, queries[0])))
    elif method.answers and views.names != ("whole",):
        print(table(["restored by", "PSNR, dB"], restored(method, views, queries[0])))
    print(table(["features", "kNN", "linear"], features(asked.folder, method, views, bank, queries)), flush=True)


if __name__ == "__main__":
    main()
