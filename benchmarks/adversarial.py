"""BiGAN on Fashion-MNIST: 1-NN and a linear probe on its encoder, beside PCA of the same width, its random init, and raw pixels.

python benchmarks/adversarial.py runs/bigan --minutes 20 maps=32 lr=5e-4      trains, and scores on the last 6,000 of the training part
python benchmarks/adversarial.py runs/bigan --minutes 3 --encoder paper        the same with the convolutional encoder of the authors' code
python benchmarks/adversarial.py runs/bigan --minutes 30 --encoder linear layers=linear   networks without convolutions, as in the paper
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
from safetensors.torch import load_file
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import untaught as ut
from untaught.blocks.adversaries import draw_weights
from untaught.config.registry import build_random_init
from untaught.core import View
from untaught.encoders.plain import Plain
from untaught.training import checkpoint

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HELD_OUT = 6000  # of the training part, its last: knobs are chosen on them
CENTRES = 20_000  # rows of the bank that the linear probe is fitted on


class Halvings(nn.Module):
    """The encoder of the authors' code for 28 x 28 images, kernels of 4 x 4: x (B,1,28,28) -> (B,1024). Nothing is averaged over places."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(64, 128, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(128 * 7 * 7, 1024, bias=False), nn.BatchNorm1d(1024), nn.LeakyReLU(0.2)),
        )
        self.apply(draw_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Linear(nn.Module):
    """The encoder of the paper's experiment on MNIST: x (B,1,28,28) -> (B,1024)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(28 * 28, 1024), nn.LeakyReLU(0.2)),
            *(nn.Linear(1024, 1024, bias=False), nn.BatchNorm1d(1024, affine=False), nn.LeakyReLU(0.2)),
        )
        self.apply(draw_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


OWN = {"paper": Halvings, "linear": Linear}


def part(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N,28,28) uint8 and labels (N,) of "train" or "t10k"."""
    place = Path(os.environ["UNTAUGHT_DATA"]) / "fashion_mnist"

    def read(file: str, skip: int) -> np.ndarray:
        with gzip.open(place / f"{name}-{file}.gz") as opened:
            return np.frombuffer(opened.read(), np.uint8, offset=skip)

    return read("images-idx3-ubyte", 16).reshape(-1, 28, 28), read("labels-idx1-ubyte", 8).astype(np.int64)


def train(folder: Path, minutes: float, encoder: str, knobs: dict[str, str]) -> None:
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
    chosen = {"encoder": OWN[encoder]()} if encoder in OWN else {"encoder": encoder} if encoder else {}
    torch.manual_seed(0)
    ut.pretrain(str(data), method="bigan", out=folder, **chosen, **{"size": 28, "batch_size": 128, "minutes": minutes, **knobs})


def encoders(folder: Path, config: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The trained encoder, and the same at random init."""
    torch.manual_seed(1)
    if not config["encoder"].startswith("module:"):
        return ut.Run(folder).encoder, build_random_init(config["encoder"], {"channels": 1, "size": 28}, config["encoder_knobs"])
    own = next(cls for cls in OWN.values() if config["encoder"].endswith(cls.__name__))
    trained, untrained = (Plain(own(), View(torch.zeros(2, 1, 28, 28))) for _ in range(2))
    trained.load_state_dict(load_file(folder / "encoder" / "model.safetensors"))
    return trained, untrained


@torch.no_grad()
def encoded(encoder: nn.Module, latent: nn.Module, images: np.ndarray, config: dict[str, Any]) -> dict[str, Tensor]:
    """The encoder's features and E(x) of each image."""
    mean, std = config["statistics"]["mean"][0], config["statistics"]["std"][0]
    encoder, latent = encoder.eval().to(DEVICE), latent.to(DEVICE)
    parts = [rows[:, None].to(DEVICE).float() / 255 for rows in torch.from_numpy(images).split(500)]
    features = torch.cat([encoder(View((part - mean) / std)) for part in parts])
    return {"features": features.cpu(), "latent": latent(features).cpu()}


def nearest(bank: Tensor, labels: np.ndarray, queries: Tensor, truth: np.ndarray) -> float:
    bank = bank.to(DEVICE)
    found = [torch.cdist(rows.to(DEVICE), bank).argmin(1).cpu() for rows in queries.split(500)]
    return float((labels[torch.cat(found).numpy()] == truth).mean())


def score(folder: Path, test: bool, linear: bool) -> dict[str, dict[str, float]]:
    images, labels = part("train")
    bank, bank_labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    queries, truth = part("t10k") if test else (images[-HELD_OUT:], labels[-HELD_OUT:])
    config = json.loads((folder / "encoder" / "config.json").read_text())
    trained, untrained = encoders(folder, config)
    state = checkpoint.load(folder / "checkpoints", print)
    assert state is not None
    weights = {name: value for name, value in state["method"].items() if name.startswith("latent.")}
    wide, narrow = weights["latent.weight"].shape[1], weights["latent.weight"].shape[0]
    latent, unlearned = nn.Linear(wide, narrow), nn.Linear(wide, narrow)
    latent.load_state_dict({name.removeprefix("latent."): value for name, value in weights.items()})

    sets: dict[str, tuple[Tensor, Tensor]] = {}
    for name, encoder, head in (("bigan", trained, latent), ("random init", untrained, unlearned)):
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
        scores[name] = {"1-NN": nearest(near[0], bank_labels, near[1], truth)}
        if linear:
            probe = LogisticRegression(max_iter=200).fit(((a - mean) / std)[:CENTRES].numpy(), bank_labels[:CENTRES])
            scores[name]["linear"] = float((probe.predict(((b - mean) / std).numpy()) == truth).mean())
        print(f"{name:36} " + "  ".join(f"{probe} {100 * accuracy:.2f}" for probe, accuracy in scores[name].items()), flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, help="train for so long before scoring")
    parser.add_argument("--encoder", default="", help='a name, "paper" or "linear"')
    parser.add_argument("--test", action="store_true", help="score on the test part")
    parser.add_argument("--nearest-only", action="store_true", help="without the linear probe, which takes most of the time")
    parser.add_argument("knobs", nargs="*", help="of the run, as key=value")
    chosen = parser.parse_intermixed_args()
    if chosen.minutes:
        train(chosen.folder, chosen.minutes, chosen.encoder, dict(knob.split("=", 1) for knob in chosen.knobs))
    found = score(chosen.folder, chosen.test, not chosen.nearest_only)
    (chosen.folder / f"adversarial_{'test' if chosen.test else 'val'}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
