"""Every method on images: the quality of its pooled vectors beside that of its feature maps, at the same number of steps.

python benchmarks/dense.py [--method simclr dinov2+gram:0.5 ...] [--steps 200] [--davis] [--out runs/dense]

Each method trains on the images of CIFAR-10 with the encoder that fits it (as in methods_images.py), seed 0, at the defaults. Pooled: kNN
(k = 20) on 5,000 images of the test part, with 10,000 of the training part as bank. Dense: the same frozen encoder at 128 x 128 on
Penn-Fudan, person against background: mIoU of a linear head on its last map, its steps chosen on a quarter of the training photos, and of
k-means without labels, whose clusters are matched to the classes; intervals of 95% from a bootstrap over the test photos. --davis adds J&F
of label propagation, about three minutes a method.
Random init of each encoder and the colours of the pixels are lines of their own. No knob is chosen here. A method that has been measured
in --out is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods_images import KNOBS
from pyarrow import parquet
from rounds import machine, table

from untaught.commands.finetune import finetune, open_tuner
from untaught.commands.frozen import LINEAR_LR, without_labels
from untaught.commands.pretrain import pretrain
from untaught.commands.propagate import propagation_probe
from untaught.commands.request import PretrainArguments
from untaught.config.registry import method_class
from untaught.core import Encoder
from untaught.encoders.colours import Colours
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.knn import knn_accuracy
from untaught.evaluation.models import open_model
from untaught.methods import METHODS
from untaught.modalities.image import IMAGE
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.dataset import open_dataset
from untaught.pipeline.pretrained import load_encoder

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
SIDE = 128
BATCH = 128
BANK, QUERIES = 10_000, 5_000
FEW = ("ibot", "dinov2", "msn")  # 64 samples a step: their many crops and tokens take most of the time
LEFT_OUT = ("feature_distillation", "gram")  # need a teacher, and a method beside
TASK = {"binary": True, "train": "frozen", "head": "linear", "scratch": False, "lr": LINEAR_LR}
TASK |= {"steps": 200, "batch_size": 16, "validation": 0.25}
HEAD = ["method", "encoder", "kNN", "mIoU, linear head", "mIoU, k-means", "pixel accuracy, k-means"]
Row = dict[str, Any]


def trained(method: str, steps: int, place: Path) -> None:
    first = method.partition("+")[0]  # of a hybrid such as dinov2+gram:0.5
    loop: Row = {"steps": steps, "batch_size": 64 if first in FEW else BATCH, "evaluate_every": 0}
    loop |= dict(knob.split("=", 1) for knob in KNOBS.get(first, []))
    images = place.parent / "images.parquet"  # without labels: the run ends without an evaluation of its own
    if not images.exists():
        parquet.write_table(parquet.read_table(DATA / "cifar10" / "train.parquet", columns=["image"]), images)
    pretrain(PretrainArguments(str(images), out=place, method=method, modality="image", knobs=loop))


def pooled(run: Path, network: Encoder | None) -> float:
    """kNN of an encoder, or of the pixels, with the first training images in a fixed random order as bank."""
    model = open_model(str(run))
    dataset = open_dataset(str(DATA / "cifar10"), model.prep or model.modality, columns=None, label=None, split=None)
    dataset.open(False, seed=0)
    scorer = Scorer(dataset, model.view, torch.device("cpu"), has_bfloat16("cpu"), 0)
    order = np.random.default_rng(0).permutation
    bank, queries = order(scorer.bank)[:BANK], order(scorer.queries)[:QUERIES]
    vectors = [scorer.features(network, rows) for rows in (bank, queries)]
    return knn_accuracy(vectors[0], scorer.labels(bank), vectors[1], scorer.labels(queries))[20]


def probed(run: Path, what: str, davis: bool) -> Row:
    """The scores of a run's encoder, of the same at random init, or of the colours."""
    model, folder = load_encoder(run), run / "encoder"
    if what == "random init":
        network = open_model(str(run)).random_init(None)
        assert network is not None
        model = model._replace(network=network)
    elif what == "colours":
        model = model._replace(network=Colours(model.prep.settings["channels"]))
    larger = model._replace(prep=replace(model.prep, settings={**model.prep.settings, "size": SIDE, "side": SIDE}))
    how: Row = {"task": "segment", "knobs": TASK}
    data = DATA / "pennfudan" / "images.tar"
    with tempfile.TemporaryDirectory() as scratch:
        _, head = finetune(larger, folder, data, out=Path(scratch) / "head", record=False, **how)
    facts = {name: head.config[name] for name in ("values", "binary", "ignore")}
    rows = head.config["scores"] + [
        row | {"metric": f"kmeans {row['metric']}"} for row in without_labels(open_tuner(larger, folder, data, **how), facts)
    ]
    result: Row = {row["metric"]: [row["mean"], row["low"], row["high"]] for row in rows}
    if davis:
        with tempfile.TemporaryDirectory() as scratch:
            found = propagation_probe((model, folder), DATA / "davis_mini" / "frames.zip", out=Path(scratch), binary=True)
        result |= {row["metric"]: [row["mean"], row["low"], row["high"]] for row in found if row["features"] == "encoder"}
    result["knn20"] = pooled(run, None if what == "colours" else model.network)
    knobs = model.config["encoder_knobs"].items()
    result["encoder"] = " ".join([model.config["encoder"], *(f"{key}={value}" for key, value in knobs)]) if what != "colours" else ""
    return result


def measured(method: str, steps: int, davis: bool, out: Path) -> dict[str, Row]:
    """The method's line and those of its encoder's baselines, by name."""
    place = out / method
    kept = place.with_suffix(".json")
    if not kept.exists():
        if not (place / "encoder").exists():
            trained(method, steps, place)
        lines = {method: probed(place, "encoder", davis)}
        baseline = f"random init, {lines[method]['encoder']}"
        known = {name for other in out.glob("*.json") for name in json.loads(other.read_text())}
        if baseline not in known:
            lines[baseline] = probed(place, "random init", davis)
        if "colours of the pixels" not in known:
            lines["colours of the pixels"] = probed(place, "colours", davis)
        kept.write_text(json.dumps(lines, indent=1))
    return json.loads(kept.read_text())


def line(name: str, row: Row, davis: bool) -> list[str]:
    def share(key: str) -> str:
        mean, low, high = (100 * value for value in row[key])
        return f"{mean:.1f} ({low:.1f} to {high:.1f})"

    metrics = ["miou", "kmeans miou", "kmeans pixel_accuracy", *(["j&f"] if davis else [])]
    return [name, row["encoder"], f"{100 * row['knn20']:.1f}", *(share(metric) for metric in metrics)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    fit = [name for name in METHODS if set(method_class(name).views) <= set(IMAGE.views) and name not in LEFT_OUT]
    parser.add_argument("--method", nargs="+", default=fit)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--davis", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/dense"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Row] = {}
    for method in asked.method:
        try:
            rows |= measured(method, asked.steps, asked.davis, asked.out)
        except Exception as error:  # the others are measured all the same
            print(f"{method}: {error}", file=sys.stderr, flush=True)
    order = sorted(rows, key=lambda name: -rows[name]["miou"][0])
    print(f"{machine()}\n{asked.steps} steps\n")
    print(table(HEAD + ["J&F, DAVIS"] * asked.davis, [line(name, rows[name], asked.davis) for name in order]))


if __name__ == "__main__":
    main()
