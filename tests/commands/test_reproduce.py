"""Recipes: read strictly, run, and held to their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from untaught.commands.reproduce import Missed, Target, reproduce
from untaught.core import UserError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
KNN = {"features": "encoder", "probe": "knn20", "labels": "all", "metric": "accuracy"}


def recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    said = {"data": "builtin:digits", "method": "simclr", "knobs": {"steps": 2, "batch_size": 64, "encoder.width": 4}, "scores": []}
    path.write_text(yaml.safe_dump(said | changes))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_names_a_score(path: Path) -> None:
    read = Target.read(path)
    assert read.scores
    assert all(0 <= score["low"] < score["high"] <= (10 if score["probe"] == "loss" else 1) for score in read.scores)


def test_there_are_recipes() -> None:
    assert RECIPES


def test_a_score_inside_its_interval_is_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished = []
    path = recipe(tmp_path, scores=[{**KNN, "low": 0.5, "high": 1.0}])
    run = reproduce(path, out=tmp_path / "run", finish=finished.append)
    assert [trained.path for trained in finished] == [run]
    assert "reached   encoder knn20 all accuracy is 0." in capsys.readouterr().err


def test_a_score_outside_fails_and_both_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [{**KNN, "low": 0.0, "high": 0.01}, {**KNN, "probe": "knn3", "low": 0.0, "high": 1.0}]
    with pytest.raises(Missed, match="2 of 2 scores missed; the first: encoder knn20 all accuracy is 0"):
        reproduce(recipe(tmp_path, scores=scores), out=tmp_path / "run")
    assert "missed    encoder knn3 all accuracy was not measured" in capsys.readouterr().err


def test_a_loss_on_held_out_text_is_a_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "val"):
        (tmp_path / f"{part}.txt").write_text("to be or not to be, that is the question\n" * 60)
    knobs = {
        "steps": 2,
        "batch_size": 8,
        "length": 16,
        "tokenizer": "characters",
        "encoder.width": 8,
        "encoder.depth": 1,
        "encoder.heads": 1,
    }
    wanted = {"features": "encoder", "probe": "loss", "labels": "none", "metric": "next_tokens", "low": 0.0, "high": 9.0}
    path = recipe(tmp_path, data=str(tmp_path), method="clm", modality="text", knobs=knobs, scores=[wanted])
    reproduce(path, out=tmp_path / "run")
    assert "reached   encoder loss none next_tokens is " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": None, "colour": 1}, "unknown entry colour"),
        ({"scores": [{"probe": "knn20"}]}, "a score must have exactly features, high, labels, low, metric, probe"),
        ({"method": "simclrr", "scores": [{**KNN, "low": 0.0, "high": 1.0}]}, "unknown method simclrr"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        reproduce(recipe(tmp_path, **changes), out=tmp_path / "run")


@pytest.mark.parametrize("text", ["[1, 2]", "data: x", "a: [", "\x00"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(UserError, match=r"tiny.yaml (is not a recipe|can't be read)"):
        reproduce(tmp_path / "tiny.yaml")


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        reproduce(tmp_path / "none.yaml")
