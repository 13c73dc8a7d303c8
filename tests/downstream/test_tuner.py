"""Fine-tuning on planted data: which rows teach, which choose and calibrate, which are scored, and what both sides begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import dataset

import untaught as ut
from untaught.commands import finetune as command
from untaught.config.registry import build_encoder
from untaught.config.train_config import TrainConfig
from untaught.core import Options, Preprocessor
from untaught.downstream import label_sampling
from untaught.downstream.classify import Classify
from untaught.downstream.label_sampling import Trial
from untaught.downstream.network import TrainedLayers
from untaught.downstream.task import Predictions
from untaught.downstream.tuner import Settings, Tuner
from untaught.evaluation.calibration import best_temperature
from untaught.modalities.image import IMAGE
from untaught.pipeline.pretrained import Pretrained, described
from untaught.pipeline.view_pipeline import view_options

KNOBS = {"width": "4"}
LAYOUT: Options = {"size": 16, "side": 16, "channels": 1, "bits": 8, "preset": "upright"}
TINY: dict[str, Any] = {"precision": "float32", "batch_size": 16}
RIGHT = {"train": 1.0, "val": 0.9, "test": 0.3}  # the share of each part's labels that are not wrong


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def lights(counts: dict[str, int]) -> pd.DataFrame:
    """Dark and bright images, told apart without a fault, of whose labels each part has its own share wrong."""
    random = np.random.default_rng(0)
    frames = []
    for part, count in counts.items():
        bright = np.arange(count) % 2
        pixels = random.integers(0, 60, (count, 16, 16)) + 190 * bright[:, None, None]
        wrong = random.permutation(count)[round(count * RIGHT[part]) :]
        told = bright.copy()
        told[wrong] = 1 - told[wrong]
        frames.append(pd.DataFrame({"image": list(pixels.astype(np.uint8)), "label": np.array(["dark", "light"])[told], "split": part}))
    return pd.concat(frames, ignore_index=True)


PARTS = lights({"train": 80, "val": 40, "test": 40})
POOLED = lights({"train": 200, "test": 20})  # the validation part is cut out of the training part


def encoder(seed: int = 0) -> Pretrained:
    """One that was never trained."""
    torch.manual_seed(seed)
    prep = Preprocessor(IMAGE, LAYOUT, {"mean": [0.5], "std": [0.3]})
    config: Options = {"encoder": "conv_small", "encoder_knobs": KNOBS, "view": "whole", "method": "simclr", **described(prep)}
    return Pretrained(build_encoder("conv_small", prep.encoder_arguments, KNOBS).eval(), config, prep)


def tuned(frame: pd.DataFrame, folder: Path, task: str = "classify", **knobs: Any) -> ut.Model:
    return ut.Model(
        *command.finetune(encoder(), folder, frame, task=task, out=folder / "model", label="label", split="split", knobs=TINY | knobs)
    )


def tuner(
    frame: pd.DataFrame,
    cls: Any = Classify,
    trial: Options | None = None,
    layers: TrainedLayers = TrainedLayers(),  # noqa: B008  # frozen
    knobs: Options | None = None,
    **loop: Any,
) -> Tuner:
    settings = Settings(TrainConfig(optimizer="adamw", **{**TINY, **loop}), Trial(**(trial or {})), layers, knobs or {})
    prep = Preprocessor(IMAGE, LAYOUT)
    return Tuner(encoder(), dataset(frame, reading=prep), cls, settings, ("light",), view_options(("light",), prep, {}))


def logits_of(model: ut.Model, frame: Any) -> np.ndarray:
    table = model.predict(frame.filter(["image"]))
    return np.log(table[["p_dark", "p_light"]].to_numpy())


# --------------------------------------------------------------------------------------------------------- whole runs


def test_the_test_part_is_scored_and_the_val_part_chooses_and_calibrates(tmp_path: Path) -> None:
    model = tuned(PARTS, tmp_path, steps=40)
    scores = {(row["features"], row["metric"]): row["mean"] for row in model.scores}
    assert scores["encoder", "accuracy"] == pytest.approx(RIGHT["test"], abs=0.03)
    assert scores["random_init", "accuracy"] < 0.5
    rows = [json.loads(line) for line in (model.path / "metrics.jsonl").read_text().splitlines()]
    judged = [row["validation_accuracy"] for row in rows if "validation_accuracy" in row]
    assert max(judged) == pytest.approx(RIGHT["val"], abs=0.03)
    val = PARTS[PARTS["split"] == "val"]
    truth = (val["label"] == "light").to_numpy().astype(int)
    assert best_temperature(logits_of(model, val), truth) == pytest.approx(1, abs=0.02), "what was calibrated needs no more of it"
    assert 0.1 < model.config["temperature"] < 10


def test_a_regression_learns_from_training_rows_and_is_scored_on_others(tmp_path: Path) -> None:
    frame = POOLED.assign(label=[100.0 + 10 * (image.mean() > 120) for image in POOLED["image"]])
    frame.loc[frame["split"] == "test", "label"] += 50
    model = tuned(frame, tmp_path, "regress", steps=2, scratch=False)
    assert {row["metric"]: row["mean"] for row in model.scores}["mae"] == pytest.approx(50, abs=1)
    assert model.config["mean"] == pytest.approx(105, abs=1)  # of all rows it would be 109.5
    rows = [json.loads(line) for line in (model.path / "metrics.jsonl").read_text().splitlines()]
    assert next(row["validation_mae"] for row in reversed(rows) if "validation_mae" in row) < 5


def test_what_is_said_and_kept_is_the_mean_over_draws_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every draw's network is right in so many of the 20 test rows, whatever was trained."""
    right = {("encoder", 0): 16, ("encoder", 1): 20, ("random_init", 0): 4, ("random_init", 1): 8}
    seen = []

    def train(self: Tuner, features: str, draw: int, scratch: Path) -> Any:
        (scratch / "encoder").mkdir(exist_ok=True)
        (scratch / "encoder" / "metrics.jsonl").touch()
        made = Classify(encoder()[0], {"temperature": 1.0, "classes": ["dark", "light"]})
        made.right = right[features, draw]  # type: ignore[assignment]
        return made

    def predictions(self: Tuner, task: Any, rows: np.ndarray) -> tuple[Predictions, np.ndarray]:
        seen.append(rows.tolist())
        truth = self.truth[rows]
        said = truth.copy()
        said[task.right :] = 1 - said[task.right :]
        return {"logits": np.eye(2, dtype=np.float32)[said] * 9}, truth

    monkeypatch.setattr(Tuner, "train", train)
    monkeypatch.setattr(Tuner, "predictions", predictions)
    monkeypatch.setattr(command, "save_network", lambda *_: None)
    model = tuned(POOLED, tmp_path, draws=2)
    assert seen == [list(range(200, 220))] * 4
    found = {row["features"]: row for row in model.scores if row["metric"] == "accuracy"}
    assert found["encoder"]["mean"] == pytest.approx(0.9)
    assert found["random_init"]["mean"] == pytest.approx(0.3)
    assert found["encoder"]["low"] < 0.8 < 0.9 < found["encoder"]["high"]
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("accuracy "))
    assert "fine-tuned 90.0% (" in said
    assert "from scratch 30.0% (" in said
    assert "difference +60.0 (" in said


# ------------------------------------------------------------------------------------------------------- one at a time


def test_no_row_both_teaches_and_chooses_and_draws_differ() -> None:
    made = tuner(POOLED, trial={"draws": 3, "labels": "60/class"})
    truth = made.truth
    for rows, validation in made.plans:
        assert validation is not None
        assert np.bincount(truth[rows]).tolist() == [48, 48]
        assert np.bincount(truth[validation]).tolist() == [12, 12]
        assert not set(rows) & set(validation)
        assert set(rows) | set(validation) <= set(range(200))
    taken = [frozenset(rows) | frozenset(validation) for rows, validation in made.plans if validation is not None]
    assert len(set(taken)) == 3, "other labels in every draw"
    again = tuner(POOLED, trial={"draws": 3, "labels": "60/class"}, seed=1)
    assert not {frozenset(rows) for rows, _ in made.plans} & {frozenset(rows) for rows, _ in again.plans}
    share, _ = tuner(POOLED, trial={"labels": "25%", "validation": 0}).plans[0]
    assert np.bincount(truth[share]).tolist() == [25, 25]


def test_all_labels_are_divided_anew_in_every_draw() -> None:
    made = tuner(POOLED, trial={"draws": 2})
    (first, held), (second, other) = made.plans
    assert held is not None
    assert other is not None
    for rows, validation in made.plans:
        assert sorted([*rows, *(validation if validation is not None else ())]) == list(range(200))
    assert set(held) != set(other)
    assert (len(first), len(held)) == (len(second), len(other)) == (160, 40)


def test_the_datas_own_val_part_chooses() -> None:
    made = tuner(PARTS)
    assert made.test is not None
    ((rows, validation),) = made.plans
    assert validation is not None
    assert (rows.tolist(), validation.tolist(), made.test.tolist()) == (
        list(range(80)),
        list(range(80, 120)),
        list(range(120, 160)),
    )


def test_a_val_part_that_tests_does_not_choose_as_well() -> None:
    made = tuner(lights({"train": 160, "val": 40}))
    assert made.test is not None
    assert made.test.tolist() == list(range(160, 200))
    ((rows, validation),) = made.plans
    assert validation is not None
    assert sorted([*rows, *validation]) == list(range(160))


def test_a_large_validation_part_gives_back_what_it_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sampling, "VALIDATED", 25)
    ((rows, validation),) = tuner(POOLED).plans
    assert validation is not None
    assert len(validation) == 25
    assert sorted([*rows, *validation]) == list(range(200))
    ((rows, validation),) = tuner(PARTS).plans
    assert validation is not None
    assert len(validation) == 25
    assert set(validation) <= set(range(80, 120))
    assert rows.tolist() == list(range(80))


def test_the_head_begins_as_a_probe_of_the_training_rows_alone(tmp_path: Path) -> None:
    begun = []

    class Spied(Classify):
        def begin(self, encode: Any, targets: np.ndarray) -> None:
            begun.append((encode(), targets))
            super().begin(encode, targets)

    made = tuner(POOLED, Spied, steps=1)
    rows, _ = made.plans[0]
    made.train("encoder", 0, tmp_path)
    ((features, truth),) = begun
    np.testing.assert_allclose(features, made.pooled(encoder()[0], rows), atol=1e-6)
    assert truth.tolist() == made.truth[rows].tolist()


@pytest.mark.parametrize("train", ["full", "frozen"])
def test_from_scratch_is_a_network_that_has_learned_nothing_and_learns_whole(train: Any, tmp_path: Path) -> None:
    made = tuner(POOLED, layers=TrainedLayers(train), steps=1, lr=1e-12)
    pretrained = encoder().network
    tuned, scratch = (made.train(features, 0, tmp_path).network for features in ("encoder", "random_init"))
    torch.manual_seed(0)
    drawn = build_encoder("conv_small", IMAGE.encoder_arguments(LAYOUT), KNOBS)
    for name, value in pretrained.named_parameters():
        torch.testing.assert_close(tuned.encoder.get_parameter(name), value)
        torch.testing.assert_close(scratch.encoder.get_parameter(name), drawn.get_parameter(name))
    assert all(p.requires_grad for p in scratch.parameters())
    assert any(p.requires_grad for p in tuned.encoder.parameters()) is (train == "full")


def test_scratch_does_not_begin_with_what_was_learned(tmp_path: Path) -> None:
    made = tuner(POOLED, steps=1, lr=1e-12)
    with torch.no_grad():
        for parameter in made.encoder.parameters():
            parameter.fill_(7.0)
    scratch = made.train("random_init", 0, tmp_path).network
    assert not any((parameter == 7).any() for parameter in scratch.parameters())


def test_what_is_left_open_is_decided_by_the_number_of_labels() -> None:
    made = tuner(POOLED, batch_size=None)
    configs = [made.decide(np.arange(labels), scratch) for labels in (30, 5000) for scratch in (False, True)]
    assert [(train_config.batch_size, train_config.lr) for train_config in configs] == [(30, 3e-4), (30, 1e-3), (256, 3e-4), (256, 1e-3)]
    assert made.decide(np.arange(5000), False).steps == 400
    assert made.decide(np.arange(50_000), False).steps == 15 * (50_000 // 256)
    assert tuner(POOLED, lr=0.5, steps=7).decide(np.arange(30), True) == TrainConfig(optimizer="adamw", lr=0.5, steps=7, **TINY)


def test_classes_are_weighed_as_the_training_rows_have_them(tmp_path: Path) -> None:
    frame = POOLED.copy()
    frame.loc[frame["split"] == "test", "label"] = "dark"  # 120 to 100, all rows counted
    made = tuner(frame, knobs={"balance": "weights"}, trial={"probe": False}, steps=1)
    assert made.train("encoder", 0, tmp_path).weights.tolist() == [1.0, 1.0]
