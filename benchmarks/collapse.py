"""The health verdict as a detector: planted collapses, and healthy runs of every method, on images and text.

python benchmarks/collapse.py [--seeds 0 1] [--steps 200] [--only simclr ...] [--kind plant healthy] [--out runs/collapse] [--judge]

Seed 0 trains on Fashion-MNIST and AG News, on which the limits of training/collapse.py were
chosen; seed 1 on CIFAR-10 and SST-2, on which they
were tried. Encoders are small (conv_small of width 8, a ViT of 3 blocks of 64 on 16 pixels, BERT of 2 blocks of 64 on 32 tokens), 2,000
samples, batch 64, so that a run of 200 steps takes about 20 seconds of a core, and all of them an hour.
Faults are planted here, by subclasses and by knobs; no method has a knob for them.
Beside what was said and when stand the linear probe and kNN (k = 20) of the encoder less those of the same encoder at random init, in
points: a run is healthy where either is above 0. Every finished run is a line of --out/runs.jsonl; a call that was cut off goes on
where it stopped. --judge trains nothing: it judges the measures of the lines that are there by the rules as they now stand.
The result is in RESULTS.md, "The health verdict".
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rounds import machine, table
from torch import Tensor, nn

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.config.overrides import knobs_of
from untaught.config.registry import method_class, modality_named
from untaught.console import console
from untaught.core import Encoder, Facts, Features, Method, Terms, View
from untaught.encoders.conv_small import ConvSmall
from untaught.evaluation.evaluate import evaluate
from untaught.methods import METHODS
from untaught.methods.clustering.swav import SwAV
from untaught.methods.decorrelation.barlow_twins import BarlowTwins
from untaught.methods.distillation.byol import BYOL
from untaught.methods.distillation.simsiam import SimSiam
from untaught.methods.reconstruction.mae import MAE
from untaught.modalities.image import IMAGE
from untaught.modalities.text import TEXT
from untaught.ops.cosine import cosine_distance
from untaught.pipeline.preprocessor import load
from untaught.pipeline.pretrained import Pretrained
from untaught.training import collapse as health

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
ROWS, HELD_OUT = 2000, 500
KNOBS = {
    "conv": {"size": 16, "encoder.width": 8},
    "tokens": {"size": 16, "encoder.patch_size": 4, "encoder.embed_dim": 64, "encoder.depth": 3, "encoder.num_heads": 2},
    "text": {"length": 32, "vocabulary": 2000, "encoder.width": 64, "encoder.depth": 2, "encoder.heads": 2},
}
PROBES = ("linear", "knn")
PROTOTYPES = 256  # for 2,000 samples; the methods' least is 1024

# ---------------------------------------------------------------------------------------------------- planted faults


class UnstoppedBYOL(Method):
    """BYOL without predictor, teacher and stopped gradient: the constant is its best answer."""

    views = BYOL.views

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, BYOL(encoder, facts).projector

    def forward(self, views: list[View], progress: float) -> Terms:
        a, b = (self.projector(self.encoder(view)) for view in views)
        return {"distance": 2 * cosine_distance(a, b)}


class UnstoppedSimSiam(SimSiam):
    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        a, b = projected
        pairs = (self.predictor(a), b), (self.predictor(b), a)
        return {"distance": -torch.stack([F.cosine_similarity(p.float(), z.float()).mean() for p, z in pairs]).mean()}


class UninvariantBarlowTwins(BarlowTwins):
    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        return {"redundancy": super().objective(projected, progress)["redundancy"]}


class UnequalSwAV(SwAV):
    def assigned(self, z: Tensor, progress: float) -> Tensor:
        return (self.scores(z) / self.epsilon).softmax(-1).detach()


class VisibleMAE(MAE):
    def restore(self, view: View) -> Tensor:
        kept = self.encoder.context(self.encoder.embed(view)[0]).tokens
        assert kept is not None
        return self.out(self.decoder(self.into(kept) + self.positions))


class Narrow(Encoder):
    """An encoder whose last layer has 4 directions, in as many features as before or in 4."""

    def __init__(self, encoder: Encoder, again: bool) -> None:
        super().__init__()
        self.width = encoder.width if again else 4
        self.encoder, self.down = encoder, nn.Linear(encoder.width, 4)
        self.up = nn.Linear(4, encoder.width) if again else nn.Identity()

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.up(self.down(self.encoder(view))))


@dataclass
class Case:
    name: str
    method: str | type[Method]
    cause: str = ""  # the rules that may speak; "" of a healthy run
    modality: str = "image"
    knobs: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    narrow: bool | None = None

    @property
    def kind(self) -> str:
        return "plant" if self.cause else "healthy"


def planted() -> list[Case]:
    text: Any = {"modality": "text"}
    return [
        Case("simclr, temperature 100", "simclr", "narrow stuck", knobs={"temperature": 100}),
        Case("byol, no predictor, no stopped gradient", UnstoppedBYOL, "constant"),
        Case("simsiam, no stopped gradient", UnstoppedSimSiam, "constant"),
        Case("vicreg, no variance", "vicreg", "constant", knobs={"variance": 0}),
        Case("barlow_twins, no invariance", UninvariantBarlowTwins, "noise"),
        Case(
            "dino, no centre, not sharpened",
            "dino",
            "constant narrow stuck",
            knobs={"centre_momentum": 1.0, "teacher_temperature": "0.1,0.1"},
        ),
        Case("dino, no centre", "dino", "constant narrow prototypes stuck", knobs={"centre_momentum": 1.0}),
        Case("dino, not sharpened", "dino", "constant narrow prototypes stuck", knobs={"teacher_temperature": "0.1,0.1"}),
        Case("swav, no equal use", UnequalSwAV, "constant narrow"),
        Case("mae, all visible", VisibleMAE, "shown"),
        Case("simclr, lr 1e-7", "simclr", "frozen", knobs={"lr": 1e-7}),
        Case("mae, lr 1e-7", "mae", "frozen", knobs={"lr": 1e-7}),
        Case("simclr, lr 10", "simclr", "destroyed", knobs={"lr": 10}),
        Case("byol, lr 10", "byol", "destroyed", knobs={"lr": 10}),
        Case("mae, lr 10", "mae", "destroyed", knobs={"lr": 10}),
        Case("simclr, adamw, lr 1", "simclr", "destroyed", knobs={"lr": 1, "optimizer": "adamw"}),
        Case("simclr, 4 directions of 64", "simclr", "bottleneck", narrow=True),
        Case("simclr, 4 features", "simclr", "bottleneck", narrow=False),
        Case("simclr, identical views", "simclr", "views", knobs={"views": "whole,whole"}),
        Case("byol, identical views", "byol", "views", knobs={"views": "whole,whole"}),
        Case("text: mlm, one document", "mlm", "samples", data="one", **text),
        Case("text: clm, one document", "clm", "samples", data="one", **text),
        Case("text: simclr, one document", "simclr", "samples", data="one", **text),
        Case("text: mlm, nothing masked", "mlm", "shown", knobs={"masked_tokens.mask": 0, "masked_tokens.random": 0}, **text),
        Case("text: simclr, no dropout", "simclr", "views", knobs={"encoder.dropout": 0}, **text),
        Case("text: simclr, temperature 100", "simclr", "narrow stuck", knobs={"temperature": 100}, **text),
        Case("text: byol, no predictor, no stopped gradient", UnstoppedBYOL, "constant", **text),
        Case("text: vicreg, no variance", "vicreg", "constant", knobs={"variance": 0}, **text),
        Case("text: mlm, lr 1e-7", "mlm", "frozen", knobs={"lr": 1e-7}, **text),
        Case("text: mlm, lr 10", "mlm", "destroyed", knobs={"lr": 10}, **text),
        Case("text: simclr, lr 10", "simclr", "destroyed", knobs={"lr": 10}, **text),
    ]


def cases() -> list[Case]:
    """Every method on every modality that offers its views, and what is planted."""
    classes = {name: method_class(name) for name in METHODS}
    images = [Case(name, name) for name, cls in classes.items() if set(cls.views) <= set(IMAGE.views)]
    without = ("cpc", "deep_infomax", "bigan")  # they read maps of images or generate them, though text offers their view
    texts = [Case(f"text: {name}", name, modality="text") for name, cls in classes.items() if set(cls.views) <= set(TEXT.views)]
    return [*planted(), *images, *(case for case in texts if case.method not in without and "maps" not in classes[str(case.method)].needs)]


# ------------------------------------------------------------------------------------------------------------- data


def data_of(case: Case, seed: int, folder: Path) -> str:
    """Data that is made once and then named, so that it is packed once."""
    name = case.data or (("fashion", "cifar") if case.modality == "image" else ("ag_news", "sst2"))[seed % 2]
    place = folder / "data" / (name + ".npz" * (case.modality == "image"))
    if place.exists():
        return str(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if case.modality == "image":
        parts = fashion() if name == "fashion" else cifar()
        arrays: Any = {
            f"{part}_{what}": array for part, pair in parts.items() for what, array in zip(("images", "labels"), pair, strict=True)
        }
        np.savez(place, **arrays)
        return str(place)
    if name == "one":
        text = next(ag_news("train"))[1]
        rows = {"train": [(str(i % 2), text) for i in range(ROWS)], "test": [(str(i % 2), text) for i in range(HELD_OUT)]}
    else:
        read = ag_news if name == "ag_news" else sst2
        rows = {part: list(islice(read(part), count)) for part, count in (("train", ROWS), ("test", HELD_OUT))}
    place.mkdir()
    for part, lines in rows.items():
        with (place / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("label", "text"), *lines])
    return str(place)


def fashion() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    def read(name: str, skip: int) -> np.ndarray:
        return np.frombuffer(gzip.open(DATA / "fashion_mnist" / f"{name}.gz").read(), np.uint8, offset=skip)

    found = {}
    for part, name, count in (("train", "train", ROWS), ("test", "t10k", HELD_OUT)):
        pixels = read(f"{name}-images-idx3-ubyte", 16).reshape(-1, 28, 28)
        found[part] = pixels[:count], read(f"{name}-labels-idx1-ubyte", 8)[:count]
    return found


def cifar() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    import pyarrow.parquet as parquet
    from PIL import Image

    found = {}
    for part, count in (("train", ROWS), ("test", HELD_OUT)):
        rows = next(parquet.ParquetFile(DATA / "cifar10" / f"{part}.parquet").iter_batches(count)).to_pylist()
        pixels = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
        found[part] = np.stack(pixels), np.array([row["label"] for row in rows])
    return found


def ag_news(part: str) -> Iterator[tuple[str, str]]:
    with gzip.open(DATA / "ag_news" / f"{part}.csv.gz", "rt") as file:
        yield from ((row["label"], row["text"]) for row in csv.DictReader(file))


def sst2(part: str) -> Iterator[tuple[str, str]]:
    with gzip.open(DATA / "sst2" / f"{'train' if part == 'train' else 'dev'}.tsv.gz", "rt") as file:
        for line in file:
            text, label = line.rstrip("\n").split("\t")
            yield label, text


# ------------------------------------------------------------------------------------------------------------- runs


def train(case: Case, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One run, as a user's, and what was said on the way."""
    cls = method_class(case.method)
    kind = "text" if case.modality == "text" else "tokens" if "tokens" in cls.needs else "conv"
    own = {"batch_size": 128 if case.method == "w_mse" else 64, "steps": steps, "seed": seed, "evaluate_every": 0, "save_every": steps}
    if "prototypes" in knobs_of(cls) and cls.__name__ != "DeepCluster":
        own["prototypes"] = PROTOTYPES
    knobs, encoder, channels = KNOBS[kind] | own | case.knobs, None, (1, 3)[seed % 2]
    if case.narrow is not None:
        torch.manual_seed(seed)
        encoder = Narrow(ConvSmall(channels=channels, size=16, width=8), case.narrow)
        del knobs["encoder.width"]
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    spent, look = [0.0], health.CollapseDetector.__call__

    def timed(*given: Any) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            return look(*given)
        finally:
            spent[0] += time.perf_counter() - began

    health.CollapseDetector.__call__ = timed  # type: ignore[method-assign]
    result: dict[str, Any] = {"name": case.name, "seed": seed, "steps": steps}
    began = time.process_time()
    try:
        pretrain(PretrainArguments(data_of(case, seed, folder), case.method, encoder, out, case.modality, knobs=knobs))
    except Exception as fault:
        result["fault"] = f"{type(fault).__name__}: {fault}"
    finally:
        health.CollapseDetector.__call__ = look  # type: ignore[method-assign]
    result |= {"seconds": time.process_time() - began, "looks": spent[0]}
    if (out / "metrics.jsonl").exists():
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        result["rows"] = [{"step": row["step"], **row["health"], "rate": row["lr"]} for row in rows if "health" in row]
        result["trained"] = max((row.get("seconds", 0.0) for row in rows), default=0.0)
    if "fault" not in result:
        scores = evaluate((in_memory(encoder, out), out) if encoder else str(out))
        for name, probe in (("knn", "knn20"), ("linear", "linear")):
            result[name] = {row["features"]: row["mean"] for row in scores if row["probe"] == probe and row["labels"] == "all"}
    return result


def in_memory(encoder: Encoder, out: Path) -> Pretrained:
    """The run's encoder, which only its maker can rebuild, with the preprocessing in its folder."""
    config = json.loads((out / "encoder" / "config.json").read_text())
    prep = load(modality_named(config["modality"]), config["layout"], config["statistics"], out / "encoder")
    return Pretrained(encoder.eval(), config, prep)


def said(run: dict[str, Any]) -> list[tuple[float, str]]:
    """(share of the run, the rule that spoke or "") of every look, by the rules as they stand."""
    found = []
    for row in run.get("rows", ()):
        share = row["step"] / run["steps"]
        rule, _ = health.broken(health.Measures.read(row["measures"]), share)
        found.append((share, rule.name if rule else ""))
    if "training diverged" in run.get("fault", ""):
        found.append((float(run["fault"].split("step ")[1].split(":")[0]) / run["steps"], "destroyed"))
    return found


def line(case: Case, run: dict[str, Any]) -> list[str]:
    verdicts = said(run)
    spoken = [(share, rule) for share, rule in verdicts if rule]
    gains = {probe: 100 * (run[probe]["encoder"] - run[probe]["random_init"]) for probe in PROBES if run.get(probe)}
    names = ", ".join(dict.fromkeys(rule for _, rule in spoken)) or "healthy"
    if case.cause:
        right = next((share for share, rule in spoken if rule in case.cause.split()), None)
        mark = "missed" if not spoken else "other cause" if right is None else "late" if right > 0.5 else "named"
    else:
        right = spoken[0][0] if spoken else None
        mark = "left alone" if not spoken else "false alarm" if max(gains.values(), default=1) > 0 else "accused, at or below random init"
    when = "" if right is None else f"{right:.0%}"
    return [case.name, str(run["seed"]), str(run["steps"]), names, when, *(f"{gains[p]:+.1f}" if p in gains else "" for p in PROBES), mark]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="+", default=[], help="how the names of the cases begin")
    parser.add_argument("--kind", nargs="+", default=["plant", "healthy"], choices=["plant", "healthy"])
    parser.add_argument("--out", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--judge", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    console.quiet = True
    asked.out.mkdir(parents=True, exist_ok=True)
    place = asked.out / "runs.jsonl"
    runs = [json.loads(text) for text in place.read_text().splitlines()] if place.exists() else []
    known = {(run["name"], run["seed"], run["steps"]): run for run in runs}
    chosen = [
        case for case in cases() if case.kind in asked.kind and (not asked.only or any(case.name.startswith(part) for part in asked.only))
    ]
    if not asked.judge:
        for seed in asked.seeds:
            for case in chosen:
                if (case.name, seed, asked.steps) in known:
                    continue
                run = train(case, seed, asked.steps, asked.out)
                with place.open("a") as file:
                    file.write(json.dumps(run) + "\n")
                known[case.name, seed, asked.steps] = run
                print(" | ".join(line(case, run)), run.get("fault", ""), file=sys.stderr, flush=True)
    lines = [
        line(case, run) for case in chosen for (name, seed, _), run in sorted(known.items()) if name == case.name and seed in asked.seeds
    ]
    cost = [run["looks"] / (run["looks"] + run["trained"]) for run in known.values() if run.get("trained")]
    print(f"{machine()}\n")
    print(table(["run", "seed", "steps", "said", "first at", "linear probe over random init", "kNN", "result"], lines))
    counts = {mark: sum(row[-1] == mark for row in lines) for mark in dict.fromkeys(row[-1] for row in lines)}
    print(f"\n{counts}; looks took {100 * sum(cost) / max(len(cost), 1):.2f}% of the time of training on average")


if __name__ == "__main__":
    main()
