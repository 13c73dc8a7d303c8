"""Scores of a fine-tuned network beside those of the same network trained from scratch."""

from __future__ import annotations

import numpy as np

from untaught.console import say
from untaught.core import Options
from untaught.downstream.label_sampling import Trial
from untaught.downstream.task import Task
from untaught.evaluation.interval import Measured

Scores = dict[str, dict[str, Measured]]  # "encoder" or "random_init" -> metric -> score


def score_rows(measured: Scores, trial: Trial, train: str, data: str, setting: str = "") -> list[Options]:
    """Rows of evaluation.json. train: which layers learned, as `TrainedLayers.train`; data: the name of the data; setting: as
    `Task.setting`."""
    probe = "finetune" if train == "full" else f"finetune-{train}"
    return [
        {"features": features, "probe": probe, "labels": trial.labels, "metric": f"{name}{setting}", "mean": score.mean}
        | {"low": score.interval[0], "high": score.interval[1], "draws": trial.draws, "data": data}
        for features, scores in measured.items()
        for name, score in scores.items()
    ]


def print_scores(measured: Scores, task: type[Task], truth: np.ndarray, draws: int, noun: str, train: str) -> None:
    """The scores on the test part, whose targets are `truth` (M,), with 95% intervals. noun: what its samples are called; train: as in
    `score_rows`."""
    over = f", mean of {draws} draws" if draws > 1 else ""
    say(f"measured  on {len(truth):,} {noun} not learned from{over}, 95% intervals in brackets")
    unit, times = ("%", 100) if task.percent else ("", 1)
    number = lambda value, sign="": f"{value * times:{sign}.{1 if times == 100 else 4}{'f' if times == 100 else 'g'}}"  # noqa: E731
    shown = lambda score, sign="": (  # noqa: E731
        f"{number(score.mean, sign)}{'' if sign else unit} ({number(score.interval[0], sign)} to {number(score.interval[1], sign)})"
    )
    others = {name: scores for name, scores in measured.items() if name not in ("encoder", "random_init")}
    title = "frozen" if train == "frozen" else "fine-tuned"
    spared = task.spared(truth)
    for name, score in measured["encoder"].items():
        if name in spared:
            continue
        line = f"{name.replace('_', ' '):<18} {title} {shown(score)}"
        if scratch := measured.get("random_init", {}).get(name):
            line += f", from scratch {shown(scratch)}, difference {shown(score - scratch, '+')}"
        say(line + "".join(f", {title.replace('_', ' ')} {shown(scores[name])}" for title, scores in others.items()))
