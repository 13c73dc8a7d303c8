"""Retrieval on flickr8k_mini (500 photos of five captions each): clip from scratch with small encoders, beside its random init and chance.

    python benchmarks/pairs.py choose    every fifth of the 400 training photos validates, each setting for --steps; test is not seen
    python benchmarks/pairs.py final     the setting of the best mean recall on these, on all 400, two seeds, measured on the 100 of test

UNTAUGHT_DATA is the folder of data sets; runs go to --out (/tmp/pairs).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import untaught as ut

SMALL = {"image.size": 64, "text.length": 32, "text.vocabulary": 1000, "encoder.text.width": 128, "encoder.text.depth": 2, "batch_size": 80}
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {},
    "width 128": {"width": 128},
    "strong decay": {"weight_decay": 0.3},
    "wide text": {"encoder.text.width": 256},
    "batch 160": {"batch_size": 160},
    "adamw": {"optimizer": "adamw", "lr": 1e-3},
    "hot": {"temperature": 0.2},
}


def listing(folder: Path, final: bool) -> Path:
    """A table of the captions with their photos beside it; of those that are not final, the test part is left out."""
    source = Path(os.environ["UNTAUGHT_DATA"]) / "flickr8k_mini"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source / "images.tar") as archive:
        archive.extractall(folder, filter="data")
    with gzip.open(source / "captions.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not final:
        rows = [row for row in rows if row["split"] == "train"]
        images = list(dict.fromkeys(row["image"] for row in rows))
        validation = set(images[::5])
        rows = [row | {"split": "val" if row["image"] in validation else "train"} for row in rows]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def trained(data: Path, out: Path, steps: int, knobs: dict[str, Any]) -> list[dict[str, Any]]:
    how: dict[str, Any] = {key.replace(".", "__"): value for key, value in (SMALL | knobs).items()}
    run = ut.pretrain(
        data,
        "clip",
        encoder={"image": "conv_small", "text": "bert"},
        split="split",
        out=out,
        steps=steps,
        **how,
    )
    return run.scores


def recalls(scores: list[dict[str, Any]], features: str) -> dict[str, float]:
    return {row["metric"]: row["mean"] for row in scores if row["features"] == features}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("choose", "final"))
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--out", type=Path, default=Path("/tmp/pairs"))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    asked = parser.parse_args()
    found = asked.out / "validation.json"
    if asked.what == "choose":
        data = listing(asked.out / "validating", final=False)
        means = json.loads(found.read_text()) if found.exists() else {}
        for name in asked.settings:
            scores = recalls(trained(data, asked.out / f"val-{name.replace(' ', '-')}", asked.steps, SETTINGS[name]), "encoder")
            means[name] = sum(scores.values()) / len(scores)
            print(f"{name:<14} mean recall {means[name]:.1%}", flush=True)
            found.write_text(json.dumps(means, indent=1))
        return
    means = json.loads(found.read_text())
    best = max(means, key=lambda name: means[name])
    data = listing(asked.out / "testing", final=True)
    for seed in range(2):
        scores = trained(data, asked.out / f"test-{seed}", asked.steps, SETTINGS[best] | {"seed": seed})
        for row in scores:
            low, high = (100 * row[key] for key in ("low", "high"))
            print(
                f"{best} seed {seed} {row['features']:<12} {row['metric']:<26} {100 * row['mean']:.1f} ({low:.1f} to {high:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
