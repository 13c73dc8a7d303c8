"""Feature distillation into a smaller network, beside its teacher and beside SimCLR with the same network and time.

untaught pretrain cifar10/ --method simclr minutes=20 --out runs/teacher
python benchmarks/distillation.py runs/teacher [--minutes 3] [--knobs encoder.width=16] [--variant dense=0 ...] [--test] [--out runs/distil]

kNN (k=20) of a held-out fifth of the training part, so that variants may be chosen by it; with --test of the test part, and training has
the whole training part. Each variant is a set of knobs of feature_distillation, separated by commas. A run that exists is not repeated.
Random init is the small network's. Intervals are 95%, by image.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from rounds import machine, table

from untaught.console import console
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.models import open_model
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.dataset import open_dataset
from untaught.storage.run_dir import read_run

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data")) / "cifar10"


def train(out: Path, data: Path, method: str, knobs: list[str]) -> Path:
    if not (out / "evaluation.json").exists():
        arguments = [str(data), "--method", method, "--out", str(out), "evaluate_every=0", *knobs]
        with out.with_suffix(".log").open("w") as log:
            subprocess.run([sys.executable, "-m", "untaught.cli", "pretrain", *arguments], stdout=log, stderr=log, check=True)
    return out


def scores(run: Path, data: Path, init: bool = False) -> list[str]:
    """kNN of a run's encoder, or of the same at random init."""
    model = open_model(str(run))
    dataset = open_dataset(str(data), model.modality, columns=None, label=None, split=None, overrides=read_run(run / "run.yaml")["layout"])
    dataset.open(False, seed=0)
    dataset.prep = model.shown(dataset.prep)
    scorer = Scorer(dataset, model.view, torch.device("cpu"), has_bfloat16("cpu"), 0)
    network = model.random_init(dataset) if init else model.build(dataset)
    row = next(row for row in scorer.knn("encoder", network) if row["probe"] == "knn20")
    return [f"{row['mean']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--knobs", nargs="*", default=["encoder.width=16"], help="of the small network, for both methods")
    parser.add_argument("--variant", nargs="*", default=[""], help="knobs of feature_distillation, separated by commas")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/distil"))
    asked = parser.parse_args()
    console.quiet = True
    data = DATA if asked.test else DATA / "train.parquet"
    asked.out.mkdir(parents=True, exist_ok=True)
    part, knobs = "test" if asked.test else "val", [f"minutes={asked.minutes:g}", *asked.knobs]
    lines = [["teacher", *scores(asked.teacher, data)]]
    simclr = train(asked.out / f"simclr-{part}", data, "simclr", knobs)
    lines += [["simclr", *scores(simclr, data)], ["random init", *scores(simclr, data, init=True)]]
    for variant in asked.variant:
        name = f"feature_distillation {variant}".strip()
        out = asked.out / f"{name}-{part}".replace(" ", "-").replace("=", "")
        run = train(out, data, "feature_distillation", [f"teachers={asked.teacher}", *knobs, *filter(None, variant.split(","))])
        lines.append([name, *scores(run, data)])
        print(lines[-1], flush=True)
    print(f"{machine()}\n")
    print(table(["encoder", f"kNN ({part})", "95% interval"], lines))


if __name__ == "__main__":
    main()
