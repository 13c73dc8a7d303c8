"""A recipe: a run and its required scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untaught.commands.frozen import frozen_probe
from untaught.commands.pretrain import Trained, pretrain
from untaught.commands.request import PretrainArguments
from untaught.console import say
from untaught.core import Options, UserError
from untaught.evaluation.evaluate import evaluate
from untaught.evaluation.evaluator import read_rows
from untaught.pipeline.pretrained import load_encoder
from untaught.storage.run_dir import RUN as KINDS
from untaught.storage.run_dir import Folder
from untaught.storage.safe_load import check_kinds, read_yaml

RUN = ("data", "method", "encoder", "modality", "columns", "label", "split", "knobs")  # fields of PretrainArguments
KEYS = {"about", "measured", "scores", "task", *RUN}
OF_RUN = ("knn20", "knn200", "loss", "pretext", "next_item")  # probes measured by the run itself
SCORE = {"features", "probe", "labels", "metric", "low", "high"}


class Missed(UserError):
    """A score is outside its interval."""


@dataclass
class Target:
    """A parsed recipe: `run`, the arguments of `untaught pretrain`; `scores`, rows of evaluation.json with low and high; `task`, the name
    and the knobs of the downstream task by which the frozen encoder is evaluated, if it is."""

    path: Path
    run: Options
    scores: list[Options]
    task: Options

    @classmethod
    def read(cls, path: Path) -> Target:
        """Raises UserError for a file that is missing or not a recipe."""
        found = read_yaml(path, None)
        if not isinstance(found, dict) or not {"data", "method", "scores"} <= found.keys():
            raise UserError(f"{path} is not a recipe: it must have data, method and scores")
        if unknown := sorted(map(str, found.keys() - KEYS)):
            raise UserError(f"{path} has an unknown entry {unknown[0]}; known: {', '.join(sorted(KEYS))}")
        check_kinds(found, {**KINDS, "scores": list, "task": dict}, f"{path} is not a recipe: its")
        for score in found["scores"]:
            if not isinstance(score, dict) or score.keys() != SCORE:
                raise UserError(f"{path}: a score must have exactly {', '.join(sorted(SCORE))}; got {score}")
            kinds = {**dict.fromkeys(SCORE, str), "low": int | float, "high": int | float}
            check_kinds(score, kinds, f"{path}: in a score, the")
        task = found.get("task", {})
        if task and not isinstance(task.get("name"), str):
            raise UserError(f"{path}: the task must have a name; got {task}")
        return cls(path, {key: found[key] for key in RUN if key in found}, found["scores"], task)


def reproduce(path: Path, data: Any = None, out: Path | None = None, finish: Callable[[Trained], None] = lambda trained: None) -> Path:
    """Runs a recipe and evaluates it -> the run folder. `data` replaces the recipe's path to its data; `finish` is called with the trained
    run.

    Raises Missed if a score is outside the recipe's interval.
    """
    target = Target.read(path)
    folder = out or Path("runs") / path.stem
    trained = pretrain(PretrainArguments(**{**target.run, "data": data or target.run["data"]}, out=folder), resume=Folder(folder).begun)
    run = trained.path
    if target.task:
        knobs = {key: value for key, value in target.task.items() if key != "name"}
        frozen_probe((load_encoder(run), run), data or target.run["data"], target.task["name"], knobs=knobs)
    elif any(score["probe"] not in OF_RUN for score in target.scores):
        evaluate(run)
    finish(trained)
    found = {_place(row): row["mean"] for row in read_rows(run / "evaluation.json")}
    missed = []
    for score in target.scores:
        mean, what = found.get(_place(score)), " ".join(_place(score))
        inside = mean is not None and score["low"] <= mean <= score["high"]
        shown = "was not measured" if mean is None else f"is {mean:.3f}"
        line = f"{what} {shown}, {score['low']:.3f} to {score['high']:.3f} is required"
        say(f"{'reached' if inside else 'missed':<9} {line}")
        missed += [] if inside else [line]
    if missed:
        raise Missed(f"{path}: {len(missed)} of {len(target.scores)} scores missed; the first: {missed[0]}")
    return run


def _place(row: Options) -> tuple[str, str, str, str]:
    return row["features"], row["probe"], row["labels"], row["metric"]
