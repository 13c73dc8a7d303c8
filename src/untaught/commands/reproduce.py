"""A recipe: a run, and the scores that it must reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untaught.commands.pretrain import Trained, pretrain
from untaught.commands.request import Asked
from untaught.console import say
from untaught.core import Options, UserError
from untaught.evaluation.evaluate import evaluate
from untaught.evaluation.evaluator import read_rows
from untaught.storage.run_dir import RUN as KINDS
from untaught.storage.run_dir import Folder
from untaught.storage.safe_load import check_kinds, read_yaml

RUN = ("data", "method", "encoder", "modality", "columns", "label", "split", "knobs")  # what Asked takes
KEYS = {"about", "measured", "scores", *RUN}
SAID = ("knn20", "knn200", "loss")  # probes of the run itself
SCORE = {"features", "probe", "labels", "metric", "low", "high"}


class Missed(UserError):
    """A score lies outside of its interval."""


@dataclass
class Target:
    """What a recipe's file says: `run` as `untaught pretrain` takes it, `scores` as rows of evaluation.json with low and high."""

    path: Path
    run: Options
    scores: list[Options]

    @classmethod
    def read(cls, path: Path) -> Target:
        """Raises UserError for a file that is absent or is no recipe."""
        said = read_yaml(path, None)
        if not isinstance(said, dict) or not {"data", "method", "scores"} <= said.keys():
            raise UserError(f"{path} is no recipe: it must have data, method and scores")
        if unknown := sorted(map(str, said.keys() - KEYS)):
            raise UserError(f"{path} has an unknown entry {unknown[0]}; {', '.join(sorted(KEYS))} are known")
        check_kinds(said, {**KINDS, "scores": list}, f"{path} is no recipe: its")
        for score in said["scores"]:
            if not isinstance(score, dict) or score.keys() != SCORE:
                raise UserError(f"{path}: a score has {', '.join(sorted(SCORE))}, and nothing else; {score} came")
            kinds = {**dict.fromkeys(SCORE, str), "low": int | float, "high": int | float}
            check_kinds(score, kinds, f"{path}: of a score, the")
        return cls(path, {key: said[key] for key in RUN if key in said}, said["scores"])


def reproduce(path: Path, data: Any = None, out: Path | None = None, finish: Callable[[Trained], None] = lambda trained: None) -> Path:
    """Runs a recipe and measures it -> the run folder. `data` says where its data lies here; `finish` is done with the trained run.

    Raises Missed where a score lies outside of the recipe's interval.
    """
    target = Target.read(path)
    folder = out or Path("runs") / path.stem
    trained = pretrain(Asked(**{**target.run, "data": data or target.run["data"]}, out=folder), resume=Folder(folder).begun)
    run = trained.path
    if any(score["probe"] not in SAID for score in target.scores):
        evaluate(run)
    finish(trained)
    found = {_place(row): row["mean"] for row in read_rows(run / "evaluation.json")}
    missed = []
    for score in target.scores:
        mean, what = found.get(_place(score)), " ".join(_place(score))
        inside = mean is not None and score["low"] <= mean <= score["high"]
        shown = "was not measured" if mean is None else f"is {mean:.3f}"
        said = f"{what} {shown}, {score['low']:.3f} to {score['high']:.3f} is to be reached"
        say(f"{'reached' if inside else 'missed':<9} {said}")
        missed += [] if inside else [said]
    if missed:
        raise Missed(f"{path}: {len(missed)} of {len(target.scores)} scores missed; the first: {missed[0]}")
    return run


def _place(row: Options) -> tuple[str, str, str, str]:
    return row["features"], row["probe"], row["labels"], row["metric"]
