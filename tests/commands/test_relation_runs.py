"""Runs of the relation methods: the accuracy of the pretext task beside chance, previews, combinations, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import untaught as ut
from untaught.core import UserError

SHORT: dict[str, Any] = {"steps": 4, "batch_size": 64, "log_every": 1, "evaluate_every": 2, "encoder__width": 8}
CHANCE = {"rotation": 0.25, "relative_patch": 0.125, "jigsaw": 0.01}


@pytest.mark.parametrize("method", CHANCE)
def test_the_accuracy_on_held_out_samples_is_reported_beside_chance(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ut.pretrain("builtin:digits", method, encoder="conv_small", out=tmp_path / "run", **SHORT)
    rows = json.loads((run.path / "evaluation.json").read_text())["rows"]
    found = {(row["features"], row["metric"]): row["mean"] for row in rows if row["probe"] == "pretext"}
    assert found["chance", "accuracy"] == CHANCE[method]
    assert 0 <= found["encoder", "accuracy"] <= 1
    assert found["encoder", "cross_entropy"] > 0
    said = capsys.readouterr().err
    assert f"accuracy {100 * found['encoder', 'accuracy']:.1f}% (chance {100 * CHANCE[method]:.1f}%)" in said
    watched = [json.loads(line) for line in (run.path / "metrics.jsonl").open()]
    assert [row["step"] for row in watched if "held_out_accuracy" in row] == [2]
    health = [row["health"] for row in watched if "health" in row]
    assert health
    assert all(row["alignment"] is not None for row in health)
    losses = [row for row in watched if "loss" in row]
    assert all(row["loss"] == row["cross_entropy"] for row in losses)  # the accuracy is only logged
    assert all(row["measures"]["loss"] == pytest.approx(row["measures"]["first_loss"], abs=4.0) for row in health)


def test_the_probe_batchs_loss_has_no_accuracy_in_it(tmp_path: Path) -> None:
    """At initialisation a classifier of four rotations has a loss of about log 4; a logged accuracy would add a quarter."""
    knobs: dict[str, Any] = {**SHORT, "lr": 1e-8}
    run = ut.pretrain("builtin:digits", "rotation", encoder="conv_small", out=tmp_path / "run", **knobs)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").open()]
    first = next(row["health"]["measures"]["first_loss"] for row in rows if "health" in row)
    trained = next(row["cross_entropy"] for row in rows if "cross_entropy" in row)
    assert first == pytest.approx(trained, abs=0.12)


@pytest.mark.parametrize("method", CHANCE)
def test_a_preview_shows_the_parts(method: str, tmp_path: Path) -> None:
    out = ut.preview("builtin:digits", method=method, out=tmp_path / "views.png", rows=2)
    assert Image.open(out).width > 200


def test_a_given_tile_smaller_than_the_stride_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiles of 4 x 4 pixels are smaller than the encoder's stride of 8; choose puzzle.tile=8"):
        ut.pretrain("builtin:digits", "jigsaw", encoder="conv_small", out=tmp_path / "run", puzzle__tile=4, **SHORT)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"puzzle__grid": 2, "puzzle__permutations": 25}, r"puzzle.permutations=25: 4 tiles have only 24"),
        ({"puzzle__grid": 4}, r"puzzle.grid=4: must be from 2 to 3"),
        ({"puzzle__gap": -0.1}, r"puzzle.gap=-0.1: must be from 0 to 4"),
        ({"puzzle__shift": 0.6}, r"puzzle.shift=0.6: must be from 0 to 0.5"),
        ({"puzzle__permutations": 1}, r"puzzle.permutations=1: must be from 2"),
        ({"puzzle__drop": 1.0}, r"unknown option of the view puzzle drop"),
        ({"views": "global,whole"}, r"jigsaw reads several parts of each sample"),
        ({"views": "puzzle"}, r"takes 2 views"),
    ],
    ids=str,
)
def test_bad_options_are_refused(knobs: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ut.pretrain("builtin:digits", "jigsaw", encoder="conv_small", out=tmp_path / "run", **SHORT, **knobs)


def test_a_puzzle_of_four_tiles_in_any_encoder(tmp_path: Path) -> None:
    """A ViT, whose tiles are whole patches, on grey images."""
    small = {"encoder__embed_dim": 32, "encoder__depth": 1, "encoder__num_heads": 1}
    knobs: dict[str, Any] = {**small, "puzzle__grid": 2, "puzzle__permutations": 24}
    knobs |= {key: value for key, value in SHORT.items() if key != "encoder__width"}
    run = ut.pretrain("builtin:digits", "jigsaw", encoder="vit_mini", out=tmp_path / "run", **knobs)
    assert torch.isfinite(torch.stack([p.norm() for p in run.encoder.parameters()])).all()


def test_two_methods_on_one_encoder(tmp_path: Path) -> None:
    run = ut.pretrain("builtin:digits", "rotation+jigsaw:0.5", encoder="conv_small", out=tmp_path / "run", **SHORT)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").open()]
    last = [row for row in rows if "loss" in row][-1]
    assert last["loss"] == pytest.approx(last["rotation.cross_entropy"] + last["jigsaw.cross_entropy"], rel=1e-4)
