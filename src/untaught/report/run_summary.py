"""The contents of a run folder, complete or partial: a crashed run has fewer files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from untaught.console import escaped
from untaught.core import Options, UserError
from untaught.evaluation.evaluator import LARGEST, read_rows
from untaught.evaluation.metrics import is_main, place
from untaught.report.samples import load_sample
from untaught.storage.run_dir import DRAWN, name_of, read_run
from untaught.storage.safe_open import read_file
from untaught.training.metrics import read_metrics

LARGEST_IMAGE = 1 << 26  # bytes of an image
MOST_SCORES = 5_000
MOST_TERMS = 24  # curves in a plot, at most; no method has as many terms


@dataclass
class RunSummary:
    """The contents of one run folder. Whatever is absent is empty or None, and described in `missing`."""

    path: Path
    run: Options = field(default_factory=dict)  # run.yaml
    rows: list[Options] = field(default_factory=list)  # metrics.jsonl
    scores: list[Options] = field(default_factory=list)  # rows of evaluation.json
    sample: dict[str, np.ndarray] | None = None
    images: dict[str, bytes] = field(default_factory=dict)  # by name: views.png ...
    ended: bool = False  # an encoder was saved
    missing: list[str] = field(default_factory=list)

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of each row of metrics that has a finite number of this name; health.NAME reads from its health entry."""
        place, dot, inner = name.partition(".")
        found = []
        for row in self.rows:
            value = row.get(place)
            if dot:
                value = value.get(inner) if isinstance(value, dict) else None
            if _is_number(value):
                found.append((row["step"], float(value)))
        return found

    @property
    def terms(self) -> list[str]:
        """The loss, and its terms if there is more than one."""
        known = {"step", "epoch", "seconds", "samples", "samples_per_second", "loss", "lr", "health"}
        names = dict.fromkeys(name for row in self.rows if "loss" in row for name in row)
        terms = [name for name in names if name not in known and not name.startswith(("share_", "knn"))]
        return ["loss", *terms[:MOST_TERMS]] if len(terms) > 1 else ["loss"]

    @property
    def health(self) -> list[tuple[int, Options]]:
        return [(row["step"], row["health"]) for row in self.rows if isinstance(row.get("health"), dict)]

    @property
    def last(self) -> Options:
        """The last row of training."""
        return next((row for row in reversed(self.rows) if "loss" in row), {})

    def shares(self) -> dict[str, float]:
        """Seconds of training spent on data, views and computing."""
        total: dict[str, float] = {"data": 0.0, "views": 0.0, "compute": 0.0}
        before = 0.0
        for row in self.rows:
            if "share_data" in row and "seconds" in row:
                for name in total:
                    total[name] += row.get(f"share_{name}", 0.0) * max(row["seconds"] - before, 0.0)
                before = row["seconds"]
        return total

    def score(self, features: str, probe: str) -> Options | None:
        """The main metric with all labels: on the run's own data where it was measured on them, else on what it was measured on last."""
        found = [r for r in self.scores if (r["features"], r["probe"]) == (features, probe) and r["labels"] in ("all", "none")]
        found = [r for r in found if is_main(r["metric"]) and "seed" not in r]
        found.sort(key=lambda row: -place(row["metric"]))
        return next((row for row in reversed(found) if not self.elsewhere(row)), found[-1] if found else None)

    def elsewhere(self, row: Options) -> str:
        """The dataset of a score if it is not the run's own, else ""."""
        data = row.get("data")
        return str(data) if data and data != name_of(self.run) else ""

    def baseline(self, own: Options, features: str) -> Options | None:
        """The same score with other features, on the same data."""
        same = ("probe", "labels", "metric", "data")
        rows = (r for r in self.scores if r["features"] == features and all(r.get(key) == own.get(key) for key in same))
        return next((row for row in rows if "seed" not in row), None)


def gather(path: Path, drawn: bool = True) -> RunSummary:
    """Reads a run folder; without its sample and images if not `drawn`. Raises UserError if it is not one."""
    if not path.is_dir():
        raise UserError(f"{path} is not a run folder; give a folder made by untaught pretrain")
    if not any((path / name).exists() for name in ("run.yaml", "metrics.jsonl", "evaluation.json")):
        raise UserError(
            f"{path} is not a run folder (no run.yaml, metrics.jsonl or evaluation.json); give a folder made by untaught pretrain"
        )
    summary = RunSummary(path)
    try:
        summary.run = _escaped(read_run(path / "run.yaml"))
    except UserError as error:
        summary.missing.append(f"The run's settings are unknown: {error}.")
    summary.rows = _metrics(path / "metrics.jsonl", summary.missing)
    if not summary.last:
        summary.missing.append("metrics.jsonl has no training steps yet.")
    summary.ended = (path / "encoder" / "model.safetensors").exists()
    if not summary.ended:
        step = summary.rows[-1]["step"] if summary.rows else 0
        again = f"untaught pretrain --out {path} --resume"
        summary.missing.append(f"Training has not ended: the metrics reach step {step}, and no encoder was saved. Continue with: {again}")
    summary.scores = _scores(path / "evaluation.json", summary.missing)
    if not drawn:
        return summary
    summary.sample = load_sample(path)
    if summary.sample is not None:
        summary.sample |= {key: np.array([escaped(str(text)) for text in summary.sample[key]]) for key in ("name", "label")}
    if summary.ended and summary.sample is None:
        summary.missing.append("No samples were saved (sample.npz), so neighbours and the map are not shown.")
    for name in DRAWN:
        if os.path.lexists(path / name):
            try:
                summary.images[name] = read_file(path / name, LARGEST_IMAGE, path)
            except UserError as error:
                summary.missing.append(f"{error}.")
    return summary


def _metrics(path: Path, missing: list[str]) -> list[Options]:
    """The rows of metrics, with only their numbers and health entries."""
    try:
        rows = read_metrics(path) if os.path.lexists(path) else []
    except UserError as error:
        missing.append(f"{error}.")
        return []
    health = lambda key, value: key == "health" and isinstance(value, dict)  # noqa: E731
    return [_escaped({key: value for key, value in row.items() if _is_number(value) or health(key, value)}) for row in rows]


def _escaped(value: Any) -> Any:
    """The document with control characters escaped."""
    if isinstance(value, dict):
        return {_escaped(key): _escaped(part) for key, part in value.items()}
    return [_escaped(part) for part in value] if isinstance(value, list) else escaped(value) if isinstance(value, str) else value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return type(value) in (int, float) and abs(value) < LARGEST  # excludes NaN


def _scores(path: Path, missing: list[str]) -> list[Options]:
    try:
        rows = read_rows(path)
        if len(rows) > MOST_SCORES:
            missing.append(f"Only the last {MOST_SCORES:,} of {len(rows):,} scores are shown.")
        return _escaped(rows[-MOST_SCORES:])
    except UserError as error:
        missing.append(f"{error}.")
        return []
