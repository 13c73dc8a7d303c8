"""Seconds of the whole battery on one set of features of CIFAR-10, 50,000 + 10,000 x 512, and of its kNN.

python benchmarks/battery.py [--width 512]

The features are those of an untrained conv_small; encoding them is not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rounds import machine, table

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    asked = parser.parse_args()
    if not (DATA / "cifar10").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds cifar10/")
    print(machine())

    import torch

    from untaught.config.registry import build_encoder, modality_named
    from untaught.evaluation.battery import Encoded, battery
    from untaught.evaluation.evaluator import Scorer
    from untaught.ops.precision import has_bfloat16
    from untaught.pipeline.dataset import open_dataset

    torch.manual_seed(0)
    encoder = build_encoder("conv_small", {"channels": 3, "size": 32}, {"width": asked.width // 8})
    dataset = open_dataset(str(DATA / "cifar10"), modality_named("image"), columns=None, label=None, split=None, overrides={})
    dataset.open(False, seed=0)
    scorer = Scorer(dataset, "whole", torch.device("cpu"), has_bfloat16("cpu"), seed=0)
    train, test = (scorer.features(encoder, rows) for rows in (scorer.bank, scorer.queries))
    encoded = Encoded(test, train, scorer.labels(scorer.queries), scorer.labels(scorer.bank))

    rows, coming, began = [], "", time.perf_counter()
    first = began
    for following, _ in battery(encoded):
        now = time.perf_counter()
        if coming:
            rows.append([coming, f"{now - began:.1f}"])
        coming, began = following, now
    print(f"\n{len(train):,} + {len(test):,} x {train.shape[1]}, {torch.get_num_threads()} threads\n")
    print(table(["step", "seconds"], [*rows, ["all", f"{time.perf_counter() - first:.1f}"]]))


if __name__ == "__main__":
    main()
