"""One run repeated with several training seeds: how much of a score is luck."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from untaught.commands.pretrain import Trained, pretrain
from untaught.commands.request import Asked
from untaught.config.overrides import parse
from untaught.console import say
from untaught.core import Options, UserError
from untaught.evaluation.evaluator import merge_rows, read_rows
from untaught.ops.gather import rank
from untaught.ranges import Seed
from untaught.storage.run_dir import Folder

MOST = 1000  # runs of one command


def pretrain_seeds(asked: Asked, seeds: int, resume: bool = False, finish: Callable[[Trained], None] = lambda trained: None) -> list[Path]:
    """Runs OUT/seed-S for `seeds` seeds from the recipe's on -> their folders. OUT/evaluation.json has every run's rows with their "seed".

    With `resume`, runs that have ended are kept, one that was stopped goes on, and the rest begin.
    """
    if not 2 <= seeds <= MOST:
        raise UserError(f"--seeds {seeds}: from 2 to {MOST:,} are run, for a spread; leave it out for one run")
    if asked.out is None:
        raise UserError("--seeds needs --out, the folder that will hold the runs")
    if Folder(asked.out).begun:
        raise UserError(f"{asked.out} already holds a run; choose another --out for the runs of several seeds")
    first = parse("seed", asked.knobs.get("seed", 0), Seed)
    read_rows(asked.out / "evaluation.json")  # what is there must be an evaluation
    rows: list[Options] = []
    places = [asked.out / f"seed-{seed}" for seed in range(first, first + seeds)]
    for seed, place in enumerate(places, first):
        say(f"seed      {seed}, of {first} to {first + seeds - 1}")
        begun = resume and Folder(place).begun
        knobs = {key: value for key, value in asked.knobs.items() if key != "seed"} if begun else asked.knobs | {"seed": seed}
        pretrain(dataclasses.replace(asked, out=place, knobs=knobs), begun, finish)
        rows += [{**row, "seed": seed} for row in read_rows(place / "evaluation.json")]
    if rank() == 0:
        merge_rows(asked.out / "evaluation.json", rows)
    for line in spread(rows):
        say(line)
    say(f"runs      {asked.out}/seed-*")
    return places


def spread(rows: list[Options]) -> list[str]:
    """A line a score: its mean over training seeds and its range, which is no interval of a score."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["metric"] == "accuracy":
            found.setdefault((row["probe"], row["features"]), []).append(100 * row["mean"])
    return [
        f"{probe:<9} {features:<12} mean of {len(scores)} seeds {np.mean(scores):.1f}%, from {min(scores):.1f}% to {max(scores):.1f}%"
        for (probe, features), scores in found.items()
        if features != "raw"
    ]
