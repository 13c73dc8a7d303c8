"""Images a second of every method on CIFAR-10, and what an image costs beside simclr with the same encoder and batch.

python benchmarks/speed_images.py [--method byol ...] [--rounds 3] [--steps 8] [--write]

Encoders and batches are those of methods_images.py, everything else the defaults; each trains from a store of encoded files. The
methods of one encoder and batch take turns with simclr, in one process; the first steps of each are not counted, nor packing. Medians
over rounds, lowest and highest beside them; a cost is the ratio within a round. --write puts them into measured.yaml, for the cards;
then run: untaught methods --write docs/methods. Measure on a machine that does nothing else: the load is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml
from end_to_end import export
from measured import save
from methods_images import BATCH, BATCHES, KNOBS
from rounds import machine, table

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.config.registry import method_class
from untaught.console import console
from untaught.methods import METHODS
from untaught.modalities.image import IMAGE
from untaught.report.method_cards import MEASURED

WARM = 3  # steps of each run that are not counted
Span = tuple[float, float, float]  # median, lowest, highest


def encoder_of(method: str) -> tuple[str, ...]:
    """Name and knobs."""
    knobs = tuple(knob for knob in KNOBS.get(method, ()) if knob.startswith("encoder."))
    needs = method_class(method).needs
    return "vit_causal" if "causal" in needs else "vit_mini" if knobs or "tokens" in needs else "conv_small", *knobs


def speed(folder: Path, runs: Path, method: str, encoder: tuple[str, ...], batch: int, steps: int) -> float:
    """Images a second of the counted steps of one run."""
    out = Path(tempfile.mkdtemp(dir=runs))
    fixed = {"steps": WARM + steps, "batch_size": batch, "log_every": 1, "warmup": 0, "schedule": "constant", "health_every": 0}
    name, *of_encoder = encoder
    own = [knob for knob in KNOBS.get(method, ()) if not knob.startswith("encoder.")]
    pretrain(PretrainArguments(str(folder), method, name, out, knobs=fixed | dict(knob.split("=") for knob in (*of_encoder, *own))))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][WARM:]
    return batch * len(rows) / sum(batch / row["samples_per_second"] for row in rows)


def span(values: list[float]) -> Span:
    return statistics.median(values), min(values), max(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = [name for name in METHODS if set(method_class(name).views) <= set(IMAGE.views)]
    parser.add_argument("--method", nargs="+", default=pictures, choices=pictures)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    console.quiet = True
    kinds: dict[tuple[tuple[str, ...], int], list[str]] = {}
    for name in asked.method:
        kinds.setdefault((encoder_of(name), BATCHES.get(name, BATCH)), []).append(name)
    found: dict[str, list[float]] = {name: [] for name in asked.method}
    costs: dict[str, list[float]] = {name: [] for name in asked.method}
    with tempfile.TemporaryDirectory() as scratch:
        folder, runs = Path(scratch) / "images", Path(scratch) / "runs"
        folder.mkdir()
        runs.mkdir()
        os.environ["UNTAUGHT_CACHE"] = str(Path(scratch) / "cache")
        export(folder, 8192)
        for _ in range(asked.rounds):
            for (encoder, batch), names in kinds.items():
                beside = speed(folder, runs, "simclr", encoder, batch, asked.steps)
                for name in names:
                    found[name].append(beside if name == "simclr" else speed(folder, runs, name, encoder, batch, asked.steps))
                    costs[name].append(beside / found[name][-1])
    print(f"{machine()}; load {os.getloadavg()[1]:.1f}; {asked.rounds} rounds of {asked.steps} steps\n")
    said = lambda values: "{:.3g} ({:.3g} to {:.3g})".format(*span(values))  # noqa: E731
    print(table(["method", "batch", "images/s", "cost beside simclr"], [
        [name, str(BATCHES.get(name, BATCH)), said(found[name]), said(costs[name])] for name in sorted(found, key=lambda n: span(costs[n]))
    ]))  # fmt: skip
    if asked.write:
        write({name: {"rounds": asked.rounds, "pictures_per_second": span(found[name]), "cost": span(costs[name])} for name in found})


def write(speeds: dict[str, dict[str, Any]]) -> None:
    """Into the entries of methods that have one."""
    entries = yaml.safe_load(MEASURED.read_text())
    for name in entries.keys() & speeds.keys():
        spans = {key: [float(f"{number:.3g}") for number in speeds[name][key]] for key in ("pictures_per_second", "cost")}
        entries[name] = entries[name] | {"speed": {"rounds": speeds[name]["rounds"], **spans}}
    save(entries)


if __name__ == "__main__":
    main()
