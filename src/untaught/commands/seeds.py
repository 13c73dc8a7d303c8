"""One run repeated with several training seeds, to measure the variance of its scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from untaught.commands.pretrain import Trained, pretrain
from untaught.commands.request import PretrainArguments
from untaught.config.overrides import parse
from untaught.console import say
from untaught.core import Options, UserError
from untaught.evaluation.evaluator import merge_rows, read_rows
from untaught.evaluation.metrics import is_main, metric_of, shown
from untaught.ops.gather import rank
from untaught.ranges import Seed
from untaught.storage.run_dir import Folder

MOST = 1000  # runs of one command


def pretrain_seeds(
    arguments: PretrainArguments, seeds: int, resume: bool = False, finish: Callable[[Trained], None] = lambda trained: None
) -> list[Path]:
    """Runs OUT/seed-S for `seeds` consecutive seeds from the knob `seed` on -> their folders. OUT/evaluation.json has every run's rows with
    their "seed".

    With `resume`, finished runs are kept, an interrupted one resumes, and the rest start.
    """
    if not 2 <= seeds <= MOST:
        raise UserError(f"--seeds {seeds}: must be between 2 and {MOST:,}; omit it for a single run")
    if arguments.out is None:
        raise UserError("--seeds requires --out, the folder for the runs")
    if Folder(arguments.out).begun:
        raise UserError(f"{arguments.out} is already a run folder; choose another --out for the runs of several seeds")
    first = parse("seed", arguments.knobs.get("seed", 0), Seed)
    read_rows(arguments.out / "evaluation.json")  # an existing file must be an evaluation
    rows: list[Options] = []
    places = [arguments.out / f"seed-{seed}" for seed in range(first, first + seeds)]
    for seed, place in enumerate(places, first):
        say(f"seed      {seed} of {first} to {first + seeds - 1}")
        begun = resume and Folder(place).begun
        knobs = {key: value for key, value in arguments.knobs.items() if key != "seed"} if begun else arguments.knobs | {"seed": seed}
        pretrain(dataclasses.replace(arguments, out=place, knobs=knobs), begun, finish)
        rows += [{**row, "seed": seed} for row in read_rows(place / "evaluation.json")]
    if rank() == 0:
        merge_rows(arguments.out / "evaluation.json", rows)
    for line in spread(rows):
        say(line)
    say(f"runs      {arguments.out}/seed-*")
    return places


def spread(rows: list[Options]) -> list[str]:
    """A line per score: its mean and range over training seeds (not a confidence interval)."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if is_main(row["metric"]) and row["features"] != "raw":
            found.setdefault((row["probe"], row["features"], row["metric"]), []).append(row["mean"])
    lines = []
    for (probe, features, metric), scores in found.items():
        mean, low, high = (shown(metric, value) for value in (float(np.mean(scores)), min(scores), max(scores)))
        name = "" if metric == "accuracy" else f"{metric_of(metric).title} "
        lines.append(f"{probe:<9} {features:<12} {name}mean of {len(scores)} seeds {mean}, from {low} to {high}")
    return lines
