"""What a run folder tells, whole or in pieces: a crashed run has less of it, never none."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from untaught.core import Options, UserError
from untaught.engine.run import name_of, read_run
from untaught.engine.sample import load_sample
from untaught.engine.score import read_rows


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
            if _is_number(value) and np.isfinite(value):
                found.append((row["step"], float(value)))
        return found

    @property
    def terms(self) -> list[str]:
        """The loss, and its terms where there is more than one."""
        known = {"step", "epoch", "seconds", "samples", "samples_per_second", "loss", "lr", "health"}
        names = dict.fromkeys(name for row in self.rows if "loss" in row for name in row)
        terms = [name for name in names if name not in known and not name.startswith(("share_", "knn"))]
        return ["loss", *terms] if len(terms) > 1 else ["loss"]

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
        facts.run = read_run(path / "run.yaml")
    except UserError as error:
        facts.missing.append(f"What was asked is not known: {error}.")
    facts.rows = _metrics(path / "metrics.jsonl")
    if not facts.last:
        facts.missing.append("No step of training has been written to metrics.jsonl yet.")
    facts.ended = (path / "encoder" / "model.safetensors").exists()
    if not facts.ended:
        step = facts.rows[-1]["step"] if facts.rows else 0
        again = f"untaught pretrain --out {path} --resume"
        facts.missing.append(f"Training has not ended: its metrics reach step {step}, and no encoder was kept. Go on with: {again}")
    facts.scores = _scores(path / "evaluation.json", facts.missing)
    facts.sample = load_sample(path)
    if facts.ended and facts.sample is None:
        facts.missing.append("No samples were kept (sample.npz), so neighbours and the map are not shown.")
    if (path / "views.png").exists():
        facts.views = (path / "views.png").read_bytes()
    return facts


def _metrics(path: Path) -> list[Options]:
    """Every whole row; the last of a process that was killed may be cut."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and _is_number(row["step"]):
            rows.append({key: value for key, value in row.items() if _is_number(value) or (key == "health" and isinstance(value, dict))})
    return rows


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63)


def _scores(path: Path, missing: list[str]) -> list[Options]:
    try:
        return read_rows(path)
    except UserError as error:
        missing.append(f"{error}.")
        return []
