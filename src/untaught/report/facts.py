"""What a run folder tells, whole or in pieces: a crashed run has less of it, never none."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from untaught.console import escaped
from untaught.core import Options, UserError
from untaught.evaluation.evaluator import LARGEST, read_rows
from untaught.report.samples import load_sample
from untaught.storage.run_dir import name_of, read_run
from untaught.storage.safe_open import read_file
from untaught.training.metrics import read_metrics

LARGEST_PICTURE = 1 << 26  # bytes of views.png
MOST_SCORES = 5_000
MOST_TERMS = 24  # curves of a plot; no method has as many


@dataclass
class Facts:
    """Of one run. What is not there is empty or None, and `missing` says so in words."""

    path: Path
    run: Options = field(default_factory=dict)  # run.yaml
    rows: list[Options] = field(default_factory=list)  # metrics.jsonl
    scores: list[Options] = field(default_factory=list)  # rows of evaluation.json
    sample: dict[str, np.ndarray] | None = None
    views: bytes | None = None  # views.png
    ended: bool = False  # an encoder was kept
    missing: list[str] = field(default_factory=list)

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) wherever a row of metrics has a finite number of this name; health.NAME is one of its health."""
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
        """The loss, and its terms where there is more than one."""
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
        """Seconds of training that went to data, views and computing."""
        total: dict[str, float] = {"data": 0.0, "views": 0.0, "compute": 0.0}
        before = 0.0
        for row in self.rows:
            if "share_data" in row and "seconds" in row:
                for name in total:
                    total[name] += row.get(f"share_{name}", 0.0) * max(row["seconds"] - before, 0.0)
                before = row["seconds"]
        return total

    def score(self, features: str, probe: str) -> Options | None:
        """The accuracy with all labels: on the run's own data where it was measured on them, else on what it was measured on last."""
        wanted = (features, probe, "all", "accuracy")
        found = [r for r in self.scores if (r["features"], r["probe"], r["labels"], r["metric"]) == wanted and "seed" not in r]
        return next((row for row in reversed(found) if not self.elsewhere(row)), found[-1] if found else None)

    def elsewhere(self, row: Options) -> str:
        """The data that a score was measured on, where they are not the run's own; else ""."""
        data = row.get("data")
        return str(data) if data and data != name_of(self.run) else ""

    def beside(self, own: Options, features: str) -> Options | None:
        """The same score of other features, on the same data."""
        same = ("probe", "labels", "metric", "data")
        rows = (r for r in self.scores if r["features"] == features and all(r.get(key) == own.get(key) for key in same))
        return next((row for row in rows if "seed" not in row), None)


def gather(path: Path) -> Facts:
    """Reads what there is in a run folder; a UserError where it is none at all."""
    if not path.is_dir():
        raise UserError(f"{path} is no run folder; give one that untaught pretrain has made")
    if not any((path / name).exists() for name in ("run.yaml", "metrics.jsonl", "evaluation.json")):
        raise UserError(f"{path} holds no run (no run.yaml, metrics.jsonl or evaluation.json); give a run folder")
    facts = Facts(path)
    try:
        facts.run = _escaped(read_run(path / "run.yaml"))
    except UserError as error:
        facts.missing.append(f"What was asked is not known: {error}.")
    facts.rows = _metrics(path / "metrics.jsonl", facts.missing)
    if not facts.last:
        facts.missing.append("No step of training has been written to metrics.jsonl yet.")
    facts.ended = (path / "encoder" / "model.safetensors").exists()
    if not facts.ended:
        step = facts.rows[-1]["step"] if facts.rows else 0
        again = f"untaught pretrain --out {path} --resume"
        facts.missing.append(f"Training has not ended: its metrics reach step {step}, and no encoder was kept. Go on with: {again}")
    facts.scores = _scores(path / "evaluation.json", facts.missing)
    facts.sample = load_sample(path)
    if facts.sample is not None:
        facts.sample |= {key: np.array([escaped(str(text)) for text in facts.sample[key]]) for key in ("name", "label")}
    if facts.ended and facts.sample is None:
        facts.missing.append("No samples were kept (sample.npz), so neighbours and the map are not shown.")
    if os.path.lexists(path / "views.png"):
        try:
            facts.views = read_file(path / "views.png", LARGEST_PICTURE, path)
        except UserError as error:
            facts.missing.append(f"{error}.")
    return facts


def _metrics(path: Path, missing: list[str]) -> list[Options]:
    """The rows of training, with what is a number in them."""
    try:
        rows = read_metrics(path) if os.path.lexists(path) else []
    except UserError as error:
        missing.append(f"{error}.")
        return []
    health = lambda key, value: key == "health" and isinstance(value, dict)  # noqa: E731
    return [_escaped({key: value for key, value in row.items() if _is_number(value) or health(key, value)}) for row in rows]


def _escaped(value: Any) -> Any:
    """The document without characters that a reader, or a terminal that shows the page, would obey."""
    if isinstance(value, dict):
        return {_escaped(key): _escaped(part) for key, part in value.items()}
    return [_escaped(part) for part in value] if isinstance(value, list) else escaped(value) if isinstance(value, str) else value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return type(value) in (int, float) and abs(value) < LARGEST  # NaN is none


def _scores(path: Path, missing: list[str]) -> list[Options]:
    try:
        rows = read_rows(path)
        if len(rows) > MOST_SCORES:
            missing.append(f"Of {len(rows):,} scores the last {MOST_SCORES:,} are shown.")
        return _escaped(rows[-MOST_SCORES:])
    except UserError as error:
        missing.append(f"{error}.")
        return []
