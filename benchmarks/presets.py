"""The paper's settings of a method beside those of short runs (`defaults=paper`, `defaults=short`), in the same number of steps: CIFAR-10.

python benchmarks/presets.py [--method simclr ...] [--defaults short paper] [--minutes 10] [--seeds 1] [--test] [--out runs/presets]

The methods are the eight best after ten minutes in RESULTS.md that have a paper's settings. Each has as many steps as it made there in
that time, or in proportion, so that the load of the machine does not decide; the processor time that each run took is beside its scores.
kNN (k = 20) of a held-out fifth of the training part, so that presets may be chosen by it; with --test of the test part, and training has
the whole training part. A run that has been measured in --out is not measured again, so that runs may be made one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from methods_images import BATCH, BATCHES
from rounds import machine, table

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data")) / "cifar10"
STEPS = {  # in ten minutes of a core, from RESULTS.md
    "simclr": 1071,
    "dcl": 1061,
    "vicreg": 651,
    "moco": 1631,
    "w_mse": 1122,
    "simsiam": 995,
    "mocov3": 1460,
    "nnclr": 927,  # by its speed beside simclr
}
PRESETS = ("short", "paper")
HEAD = ["method", "steps", *(f"{name}: kNN" for name in PRESETS), "random init", *(f"{name}: minutes" for name in PRESETS), "health"]


def measured(method: str, defaults: str, seed: int, minutes: float, data: Path, out: Path) -> dict[str, Any]:
    """Trains and measures one run, or reads what an earlier call has measured; keeps what it printed beside it."""
    place = out / f"{method}-{defaults}-{seed}"
    said = place.with_suffix(".json")
    if said.exists():
        return json.loads(said.read_text())
    knobs = [f"defaults={defaults}", f"steps={round(STEPS[method] * minutes / 10)}", f"batch_size={BATCHES.get(method, BATCH)}"]
    command = [sys.executable, "-m", "untaught.cli", "pretrain", str(data), "--method", method, "--encoder", "conv_small"]
    with place.with_suffix(".log").open("w") as log:
        child = subprocess.Popen([*command, "--out", str(place), *knobs, f"seed={seed}", "evaluate_every=0"], stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{method}, {defaults}: see {place.with_suffix('.log')}")
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    health = next((row["health"] for row in reversed(rows) if "health" in row), {})
    scores = json.loads((place / "evaluation.json").read_text())["rows"]
    result = {
        "steps": max(row["step"] for row in rows),
        "minutes": (usage.ru_utime + usage.ru_stime) / 60,
        "health": health.get("because") or "healthy",
        **{row["features"]: row["mean"] for row in scores if row["probe"] == "knn20" and row["metric"] == "accuracy"},
    }
    said.write_text(json.dumps(result, indent=1))
    return result


def line(method: str, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Means over seeds, with half the span between the lowest and the highest; runs by preset."""

    def share(rows: list[dict[str, Any]], key: str) -> str:
        values = [100 * row[key] for row in rows]
        spread = f" +- {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    minutes = [f"{statistics.mean(row['minutes'] for row in runs[name]):.1f}" for name in PRESETS]
    ill = [f"{name}: {row['health']}" for name in PRESETS for row in runs[name] if row["health"] != "healthy"]
    scores = [*(share(runs[name], "encoder") for name in PRESETS), share(runs["short"], "random_init")]
    return [method, str(runs["short"][0]["steps"]), *scores, *minutes, "; ".join(dict.fromkeys(ill)) or "healthy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--defaults", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/presets"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    data = DATA if asked.test else DATA / "train.parquet"
    lines = []
    for method in asked.method:
        runs = {
            name: [measured(method, name, seed, asked.minutes, data, asked.out) for seed in range(asked.seeds)] for name in asked.defaults
        }
        if set(runs) == set(PRESETS):
            lines.append(line(method, runs))
    if lines:
        part = "the test part" if asked.test else "a fifth of the training part, held out"
        print(f"{machine()}\n{part}, steps of {asked.minutes:g} minutes, {asked.seeds} seeds\n\n{table(HEAD, lines)}")


if __name__ == "__main__":
    main()
