"""Colorization: how far the colours of held-out images are from the true ones, beside grey and the mean colour of the training part.

untaught pretrain DATA --method colorization --out runs/colorization ...
python benchmarks/colour.py runs/colorization                               on val if there is one, else on test
python benchmarks/colour.py runs/colorization --part test --pictures colours.png
python benchmarks/colour.py runs/colorization --knn                          20-NN of the encoder on colour images and on grey ones

Images are whole (not cropped at random). The mean colour is the mean of a and b over 2,000 training images. Of the distribution of colours,
the annealed mean is the method's answer; its mean (temperature 1) is shown beside it. The bank of 20-NN is of 10,000 training images; the
encoder's random init is shown beside it. Intervals are 95%, by image; those of differences are paired.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from relation import rebuilt
from rounds import machine, table
from torch import Tensor

from untaught.config.registry import build_random_init
from untaught.console import console
from untaught.core import Encoder, Method, View
from untaught.data.loader import Loader
from untaught.evaluation.knn import knn_right
from untaught.ops.colour_bins import annealed_mean
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.pretrained import load_encoder
from untaught.pipeline.view_pipeline import Views

MOST, FITTED, BANK = 2000, 2000, 10_000
ERRORS = "ciede2000", "ab_rmse"


def unaugmented(views: Views, name: str) -> Views:
    """A view without random augmentation."""
    preset = views.prep.presets()[name]
    given = views.options[0] if name == views.names[0] else {}
    plain = {key: value for key, value in views.prep.modality.unaugmented.items() if key in preset}
    return Views((name,), views.prep, [preset | given | plain], seed=0)


def batches(dataset: Dataset, part: str, most: int, size: int = 64) -> Loader:
    numbers = dataset.numbers(part)
    numbers = numbers[:: -(-len(numbers) // most)]
    return Loader(dataset.samples(part), numbers, size, 0, drop_last=False, shuffle=False)


@torch.no_grad()
def mean_colour(views: Views, dataset: Dataset) -> Tensor:
    """(2,1,1): the mean a and b of the training part."""
    targets = [views(batch, 0)[0].target for batch in batches(dataset, "train", FITTED).batches(0)]
    return torch.cat([target.mean((2, 3)) for target in targets if target is not None]).mean(0).view(2, 1, 1)


@torch.no_grad()
def errors(method: Any, views: Views, dataset: Dataset, part: str) -> dict[str, dict[str, np.ndarray]]:
    """By answer: the columns of its measures, one number per image."""
    pretext, options, mean = views.prep.modality.pretexts[views.names[0]], views.options[0], mean_colour(views, dataset)
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for batch in batches(dataset, part, MOST).batches(0):
        view = views(batch, 0)[0]
        assert view.target is not None
        spread = annealed_mean(method.score(view), method.centres, 1.0)
        answers = {
            "grey": torch.zeros_like(view.target),
            "mean colour": mean.expand_as(view.target),
            "mean of the distribution": F.interpolate(spread, view.target.shape[-2:], mode="bilinear", align_corners=False),
            "annealed mean (the answer)": method.solve([view]),
            "truth": view.target,
        }
        for name, answer in answers.items():
            found.setdefault(name, []).append(pretext.measure(view, answer, options, views.prep))
    return {name: {key: np.concatenate([row[key] for row in rows]) for key in rows[0]} for name, rows in found.items()}


def shown(values: np.ndarray) -> str:
    return f"{values.mean():.2f} +- {1.96 * values.std(ddof=1) / len(values) ** 0.5:.2f}"


@torch.no_grad()
def pictures(method: Method, views: Views, dataset: Dataset, part: str, out: Path, count: int = 10) -> None:
    """A sheet: what the network sees, its answer, and the truth, in columns."""
    view = views(next(iter(batches(dataset, part, count, count).batches(0))), 0)[0]
    modality, options, prep = views.prep.modality, views.options[0], views.prep
    answered = View(view.x, target=method.solve([view]), meta=view.meta)
    pretext = modality.pretexts[views.names[0]]
    rows = [modality.render(view, options, prep), *(pretext.render(one, options, prep) for one in (answered, view))]
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    zoom = max(1, 96 // view.x.shape[-1])
    Image.fromarray(sheet).resize((sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST).save(out)


@torch.no_grad()
def features(encoder: Encoder, views: Views, dataset: Dataset, part: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Pooled vectors and labels."""
    assert dataset.store is not None
    assert dataset.store.labels is not None
    vectors, index = [], []
    for batch in batches(dataset, part, most, 256).batches(0):
        vectors.append(encoder(views(batch, 0)[0]).float())
        index.append(batch["index"])
    return torch.cat(vectors).numpy(), dataset.store.labels[torch.cat(index).numpy()]


def neighbours(folder: Path, views: Views, dataset: Dataset, part: str) -> list[list[str]]:
    trained, config, prep = load_encoder(folder)
    torch.manual_seed(1)
    untrained = build_random_init(config["encoder"], prep.encoder_arguments, config["encoder_knobs"])
    lines = []
    for name, encoder in (("trained", trained), ("random init", untrained)):
        for view in ("whole", views.names[0]):
            read = unaugmented(views, view)
            both = features(encoder.eval(), read, dataset, "train", BANK), features(encoder.eval(), read, dataset, part, 5 * MOST)
            right = knn_right(*both[0], *both[1], k=(20,))[20].astype(float)
            lines.append([folder.name, name, view, shown(100 * right)])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--part", default="")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--knn", action="store_true")
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
        found = errors(method, plain, dataset, part)
        for name, columns in found.items():
            below = [shown(found[baseline][key] - columns[key]) for key in ERRORS for baseline in ("grey", "mean colour")]
            rows.append([folder.name, name, *(shown(columns[key]) for key in (*ERRORS, "colourfulness")), *below])
        if asked.knn:
            near += neighbours(folder, views, dataset, part)
    below = [f"{error} below {baseline}" for error in ("CIEDE2000", "ab RMSE") for baseline in ("grey", "mean colour")]
    print(table(["run", "answer", "CIEDE2000", "ab RMSE", "colourfulness", *below], rows))
    if near:
        print("\n" + table(["run", "encoder", "images", "20-NN"], near))


if __name__ == "__main__":
    main()
