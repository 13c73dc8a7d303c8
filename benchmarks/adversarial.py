"""BiGAN on Fashion-MNIST: 1-NN and a linear probe on its encoder, beside PCA of the same width, its random init, and raw pixels.

python benchmarks/adversarial.py runs/bigan --minutes 20 maps=32 lr=5e-4      trains, and scores on the last 6,000 of the training part
python benchmarks/adversarial.py runs/bigan --test                            scores the same run on the test part

The files of the data set lie in $UNTAUGHT_DATA/fashion_mnist. 1-NN is by Euclidean distance of features, each standardised to the
deviation it has in the bank; the linear probe is logistic regression on the same.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import untaught as ut
from untaught.config.registry import build_untrained
from untaught.core import View
from untaught.training import checkpoint

HELD_OUT = 6000  # of the training part, its last: knobs are chosen on them
CENTRES = 20_000  # rows of the bank that the linear probe is fitted on


def part(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N,28,28) uint8 and labels (N,) of "train" or "t10k"."""
    place = Path(os.environ["UNTAUGHT_DATA"]) / "fashion_mnist"

    def read(file: str, skip: int) -> np.ndarray:
        with gzip.open(place / f"{name}-{file}.gz") as opened:
            return np.frombuffer(opened.read(), np.uint8, offset=skip)

    return read("images-idx3-ubyte", 16).reshape(-1, 28, 28), read("labels-idx1-ubyte", 8).astype(np.int64)


def train(folder: Path, minutes: float, knobs: dict[str, str]) -> None:
    images, labels = part("train")
    data = folder.with_suffix(".npz")
    data.parent.mkdir(parents=True, exist_ok=True)
    fitted, held_out = slice(None, -HELD_OUT), slice(-HELD_OUT, None)
    arrays = {
        "train_images": images[fitted],
        "train_labels": labels[fitted],
        "val_images": images[held_out],
        "val_labels": labels[held_out],
    }
    np.savez(data, **arrays)  # type: ignore[arg-type]
    ut.pretrain(str(data), method="bigan", out=folder, **{"size": 28, "batch_size": 128, "minutes": minutes, **knobs})


@torch.no_grad()
def encoded(encoder: nn.Module, latent: nn.Module, images: np.ndarray, config: dict[str, Any]) -> dict[str, Tensor]:
    """The encoder's features and E(x) of each image."""
    mean, std = config["statistics"]["mean"][0], config["statistics"]["std"][0]
    encoder.eval()
    features = torch.cat([encoder(View((rows[:, None].float() / 255 - mean) / std)) for rows in torch.from_numpy(images).split(500)])
    return {"features": features, "latent": latent(features)}


def nearest(bank: Tensor, labels: np.ndarray, queries: Tensor, truth: np.ndarray) -> float:
    found = [torch.cdist(rows, bank).argmin(1) for rows in queries.split(500)]
    return float((labels[torch.cat(found).numpy()] == truth).mean())


def score(folder: Path, test: bool) -> dict[str, dict[str, float]]:
    images, labels = part("train")
    bank, bank_labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    queries, truth = part("t10k") if test else (images[-HELD_OUT:], labels[-HELD_OUT:])
    run = ut.Run(folder)
    config = run.config
    untrained = build_untrained(config["encoder"], {"channels": 1, "size": 28}, config["encoder_knobs"])
    state = checkpoint.load(folder / "checkpoints", print)
    assert state is not None
    weights = {name: value for name, value in state["method"].items() if name.startswith("latent.")}
    wide, narrow = weights["latent.weight"].shape[1], weights["latent.weight"].shape[0]
    latent, unlearned = nn.Linear(wide, narrow), nn.Linear(wide, narrow)
    latent.load_state_dict({name.removeprefix("latent."): value for name, value in weights.items()})

    sets: dict[str, tuple[Tensor, Tensor]] = {}
    for name, encoder, head in (("bigan", run.encoder, latent), ("random init", untrained, unlearned)):
        both = encoded(encoder, head, bank, config), encoded(encoder, head, queries, config)
        for what in both[0]:
            sets[f"{name}, {what} ({both[0][what].shape[1]})"] = both[0][what], both[1][what]
    flat = [x.reshape(len(x), -1).astype(np.float32) / 255 for x in (bank, queries)]
    sets[f"raw pixels ({flat[0].shape[1]})"] = torch.from_numpy(flat[0]), torch.from_numpy(flat[1])
    for width in (narrow, min(wide, flat[0].shape[1])):
        pca = PCA(width, random_state=0).fit(flat[0])
        a, b = (torch.from_numpy(pca.transform(x).astype(np.float32)) for x in flat)
        sets[f"PCA ({width})"] = a, b

    scores: dict[str, dict[str, float]] = {}
    for name, (a, b) in sets.items():
        mean, std = a.mean(0), a.std(0) + 1e-6
        ours = "PCA" not in name and "raw" not in name  # standardising would undo PCA, and weighs pixels of the edge like others
        near = ((a - mean) / std, (b - mean) / std) if ours else (a, b)
        probe = LogisticRegression(max_iter=200).fit(((a - mean) / std)[:CENTRES].numpy(), bank_labels[:CENTRES])
        linear = float((probe.predict(((b - mean) / std).numpy()) == truth).mean())
        scores[name] = {"1-NN": nearest(near[0], bank_labels, near[1], truth), "linear": linear}
        print(f"{name:36} 1-NN {100 * scores[name]['1-NN']:.2f}  linear {100 * linear:.2f}", flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, help="train for so long before scoring")
    parser.add_argument("--test", action="store_true", help="score on the test part")
    parser.add_argument("knobs", nargs="*", help="of the run, as key=value")
    chosen = parser.parse_intermixed_args()
    if chosen.minutes:
        train(chosen.folder, chosen.minutes, dict(knob.split("=", 1) for knob in chosen.knobs))
    found = score(chosen.folder, chosen.test)
    (chosen.folder / f"adversarial_{'test' if chosen.test else 'val'}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
