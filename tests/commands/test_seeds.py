"""One command, several seeds: from the one that was asked for on, each a run of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import untaught as ut
from untaught.commands import seeds
from untaught.commands.request import PretrainArguments
from untaught.core import Options

ROW: Options = {"features": "encoder", "probe": "knn20", "labels": "all", "metric": "accuracy", "low": 0.0, "high": 1.0, "data": "d"}


def test_seeds_go_on_from_the_one_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, Options]] = []

    def trained(one: PretrainArguments, resume: bool, finish: object) -> None:
        assert one.out is not None
        asked.append((one.out.name, one.knobs))
        one.out.mkdir(parents=True)
        rows = [ROW | {"mean": one.knobs["seed"] / 10}]
        (one.out / "evaluation.json").write_text(json.dumps({"schema": 1, "rows": rows}))

    monkeypatch.setattr(seeds, "pretrain", trained)
    places = seeds.pretrain_seeds(PretrainArguments("builtin:digits", out=tmp_path / "runs", knobs={"seed": "5", "steps": "2"}), 3)
    assert asked == [(f"seed-{seed}", {"seed": seed, "steps": "2"}) for seed in (5, 6, 7)]
    assert places == [tmp_path / "runs" / f"seed-{seed}" for seed in (5, 6, 7)]
    kept = json.loads((tmp_path / "runs" / "evaluation.json").read_text())["rows"]
    assert [(row["seed"], row["mean"]) for row in kept] == [(5, 0.5), (6, 0.6), (7, 0.7)]
    assert "mean of 3 seeds 60.0%, from 50.0% to 70.0%" in capsys.readouterr().err


def test_a_method_is_told_the_runs_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it draws itself, such as the latents of a VAE, differs between seeds."""
    monkeypatch.setattr("untaught.api.finish", lambda run: None)
    seen: list[int] = []

    class Told(ut.methods.Rotation):  # type: ignore[misc]
        def __init__(self, encoder: Any, facts: Any) -> None:
            super().__init__(encoder, facts)
            seen.append(facts.seed)

    ut.pretrain("builtin:digits", Told, encoder="conv_small", steps=1, size=8, seed=7, evaluate_every=0, out=tmp_path, encoder__width=4)
    assert seen == [7]
