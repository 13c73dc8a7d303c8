"""Six methods on series of the UCR and UEA archives: a linear probe and 1-NN on frozen features, beside random init and the raw series.

python benchmarks/series.py OUT [--sets ItalyPowerDemand,GunPoint] [--methods simclr,mae] [--steps 100]

Pretraining sees the training part without labels; the probes are fitted on it with labels and judged on the archive's test part, once.
Knobs are the defaults: nothing is chosen.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import untaught as ut

METHODS = "simclr,vicreg,byol,dino,mae,data2vec"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", default="ItalyPowerDemand,GunPoint,BasicMotions")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--steps", type=int, default=100)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ["UNTAUGHT_DATA"]) / "ucr"
    with (asked.out / "rows.jsonl").open("a") as file:
        for name in asked.sets.split(","):
            for method in asked.methods.split(","):
                place = asked.out / f"{name}-{method}"
                run = ut.pretrain(f"{data}/{name}_*.ts", method, out=place, modality="series", steps=asked.steps, evaluate_every=0, seed=0)
                run.evaluate(modality="series")
                rows = [row for row in json.loads((place / "evaluation.json").read_text())["rows"] if row.get("labels") == "all"]
                file.write(json.dumps({"set": name, "method": method, "rows": rows}) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
