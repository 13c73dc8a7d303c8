"""Fine-tuning whole, on digits: what it writes, what it chooses, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import untaught as ut
from untaught.commands import finetune as commands
from untaught.data.labels import hold_out, number_labels
from untaught.evaluation.evaluator import merge_rows
from untaught.training.early_stopping import BestWeights

pytestmark = pytest.mark.usefixtures("bare_runs")

TINY: dict[str, Any] = {"steps": 6, "precision": "float32", "batch_size": 16}
LONGER: dict[str, Any] = TINY | {"steps": 60}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data: Any = load_digits()
    return np.round(data.images[:600] * (255 / 16)).astype(np.uint8), data.target[:600]


@pytest.fixture(scope="module")
def run(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> ut.Run:
    """An encoder of digits, barely trained."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return ut.pretrain(digits, "simclr", out=out, steps=12, batch_size=64, encoder__width=8, precision="float32")


def rows_of(scores: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["features"], row["metric"]): row for row in scores}


def metrics(model: ut.Model) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model.path / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("given", [False, True])
def test_two_at_once_get_a_folder_each(
    run: ut.Run, digits: tuple[np.ndarray, np.ndarray], given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ut.load(shutil.copytree(run.path, tmp_path / "run"))
    how: dict[str, Any] = {"out": tmp_path / "model" if given else None, "scratch": False, **TINY}
    others: list[ut.Model] = []
    real = commands.score_rows

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(commands, "score_rows", real)
        others.append(run.finetune(digits, seed=1, **how))  # begins and ends before the first has written anything
        return real(*arguments)

    monkeypatch.setattr(commands, "score_rows", meanwhile)
    first = run.finetune(digits, **how)
    (other,) = others
    assert [json.loads((model.path / "config.json").read_text())["resolved"]["seed"] for model in (first, other)] == [0, 1]
    assert first.path != other.path


def test_a_classifier_learns_predicts_and_is_kept(run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    run = ut.load(shutil.copytree(run.path, tmp_path / "run"))  # other tests fine-tune the shared one
    model = run.finetune(digits, out=tmp_path / "model", **LONGER)
    assert {path.name for path in model.path.iterdir()} == {"model.safetensors", "config.json", "metrics.jsonl"}
    rows = rows_of(model.scores)
    accuracy = rows["encoder", "accuracy"]
    assert accuracy["probe"] == "finetune"
    assert accuracy["labels"] == "all"
    assert 0.5 < accuracy["low"] < accuracy["mean"] < accuracy["high"] <= 1
    assert ("random_init", "accuracy") in rows
    written = json.loads((run.path / "evaluation.json").read_text())["rows"]
    assert [row for row in written if row["probe"] == "finetune"] == model.scores
    assert {row["probe"] for row in written} == {"finetune", "knn20", "knn200"}, "what pretraining measured is kept"

    table = model.predict(digits[0])
    assert list(table.columns) == ["row", "name", "label", "probability", *(f"p_{i}" for i in range(10))]
    held_out = hold_out(digits[1], 0)
    right = table["label"].astype(int) == digits[1]
    assert right[held_out].mean() == pytest.approx(accuracy["mean"])  # of all rows more are right: most were learned from
    assert right.mean() != pytest.approx(accuracy["mean"])
    chances = table[[f"p_{i}" for i in range(10)]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(table["probability"], chances.max(1))
    loaded = ut.load(model.path)
    assert type(loaded) is ut.Model
    pd.testing.assert_frame_equal(loaded.predict(digits[0]), table)
    readers: dict[str, Any] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    for ending, read in readers.items():
        file = model.predict(digits[0], tmp_path / f"p{ending}", batch_size=100)
        again = read(file)
        np.testing.assert_allclose(again[[f"p_{i}" for i in range(10)]], chances, atol=1e-5)
        assert list(again["label"].astype(str)) == list(table["label"])


def test_a_number_is_estimated_in_its_own_unit(run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    ink = digits[0].mean((1, 2)).astype(np.float64) * 10 + 5000.5
    model = run.finetune((digits[0], ink), "regress", out=tmp_path / "model", scratch=False, **LONGER)
    rows = rows_of(model.scores)
    assert set(rows) == {("encoder", metric) for metric in ("mae", "rmse", "r2")}
    assert rows["encoder", "r2"]["mean"] > 0.5
    table = model.predict(digits[0])
    assert list(table.columns) == ["row", "name", "value"]
    assert np.abs(table["value"] - ink).mean() < 0.7 * ink.std()


def test_draws_of_labels_are_repeatable(run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, capfd: Any) -> None:
    first = run.finetune(digits, out=tmp_path / "a", labels="10/class", draws=2, scratch=False, **TINY)
    assert "10 classes, 80 images to learn from (10/class, 2 draws), 20 to stop by and calibrate, " in capfd.readouterr().err
    second = run.finetune(digits, out=tmp_path / "b", labels="10/class", draws=2, scratch=False, **TINY)
    assert first.scores == second.scores
    assert {row["draws"] for row in first.scores} == {2}
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


def test_too_few_labels_to_validate_are_all_learned_from(
    run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, capfd: Any
) -> None:
    model = run.finetune(digits, out=tmp_path / "model", labels="1/class", scratch=False, precision="float32", steps=2)
    said = capfd.readouterr().err
    assert "10 classes, 10 images to learn from (1/class), none to stop by" in said
    assert "too few labels for a validation part" in said
    assert model.config["temperature"] == 1.0


def test_frozen_and_partial_leave_the_encoder_as_it_was(run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    before = run.encoder.state_dict()
    frozen = run.finetune(digits, out=tmp_path / "frozen", train="frozen", scratch=False, validation=0, **TINY)
    partial = run.finetune(digits, out=tmp_path / "partial", train="partial", scratch=False, validation=0, **TINY)
    assert {row["probe"] for row in frozen.scores} == {"finetune-frozen"}
    for name, value in before.items():
        assert torch.equal(frozen.network.state_dict()[f"encoder.{name}"], value)
        moved = not torch.equal(partial.network.state_dict()[f"encoder.{name}"], value)
        assert moved is name.startswith("stages.2"), name


def test_training_ends_early_and_the_best_weights_stay(run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    model = run.finetune(digits, out=tmp_path / "model", scratch=False, lr=0.5, patience=2, **LONGER)
    rows = [row for row in metrics(model) if "validation_loss" in row]
    assert rows[-1]["step"] < 60
    assert rows_of(model.scores)["encoder", "accuracy"]["mean"] > max(row["validation_accuracy"] for row in rows[-2:])  # of the ruined ones


def test_best_keeps_the_least_and_counts_since_then() -> None:
    class Task:
        network = nn.Linear(1, 1, bias=False)
        facts: dict[str, Any] = {}
        settled = 0

        def judge(self, outputs: np.ndarray, truth: np.ndarray) -> float:
            return float(outputs[0, 0])

        def settle(self, outputs: np.ndarray, truth: np.ndarray) -> None:
            self.settled = float(outputs[0, 0])

        outcome = staticmethod(lambda outputs, truth: outputs)
        scores = staticmethod(lambda outcome: {})

    task = Task()
    best: Any = BestWeights(task, lambda: (task.network.weight.detach().numpy(), np.zeros(1)), patience=2)  # type: ignore[arg-type,return-value]
    for value, enough in ((3.0, False), (1.0, False), (2.0, False), (1.5, True)):
        nn.init.constant_(task.network.weight, value)
        assert best() == {"validation_loss": value}
        assert best.enough() is enough
    best.restore()
    assert task.network.weight.item() == task.settled == 1.0


def test_a_module_of_ones_own_is_tuned_without_scratch(digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, capfd: Any) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8))
    run = ut.pretrain(digits, "simclr", encoder=module, out=tmp_path / "run", steps=2, batch_size=32, precision="float32")
    model = run.finetune(digits, **TINY)
    assert model.path == tmp_path / "run" / "finetuned"
    assert len(model.predict(digits[0][:5])) == 5
    assert "can't be drawn anew" in capfd.readouterr().err
    assert run.finetune(digits, **TINY).path == tmp_path / "run" / "finetuned-2"


def test_rows_are_replaced_by_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    row = {"features": "encoder", "probe": "finetune", "labels": "1%", "metric": "accuracy", "mean": 0.1}
    merge_rows(file, [row, row | {"labels": "all"}])
    merge_rows(file, [row | {"mean": 0.2}, row | {"probe": "linear"}])
    assert json.loads(file.read_text()) == {
        "schema": 1,
        "rows": [row | {"labels": "all"}, row | {"mean": 0.2}, row | {"probe": "linear"}],
    }


def test_text_among_measured_labels_makes_classes() -> None:
    values, classes = number_labels([0.5, "abc", None, 0.5], None)
    assert classes == ("0.5", "abc")
    assert values is not None
    assert values.tolist() == [0, 1, -1, 0]


# ----------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"labels": "5"}, "labels=5: must be all, a share as 1%, or a number a class as 10/class"),
        ({"labels": "0%"}, "labels=0%: must be all"),
        ({"labels": "x/class"}, "labels=x/class: must be all"),
        ({"draws": 0}, "draws=0: must be a whole number from 1 to 1,000"),
        ({"validation": 0.9}, "validation=0.9: must be a number from 0 to 0.5"),
        ({"train": "half"}, "train=half: must be one of full, partial, frozen"),
        ({"last": 0}, "last=0: must be a whole number from 1 to 1,000"),
        ({"balanse": "weights"}, "unknown knob balanse; did you mean balance?"),
        ({"light__scale": 7}, "light.scale=7: must be 2 comma-separated numbers"),
        ({"sizes": 64}, "unknown knob sizes; did you mean size"),
        ({"batch_size": 500}, "batch_size=500 is larger than the labels, 384 to learn from"),
        ({"task": "clasify"}, "unknown task clasify; did you mean classify?"),
        ({"task": "regress", "labels": "5/class"}, "labels=5/class: --task regress has no classes"),
    ],
)
def test_wrong_knobs_are_one_line(
    run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, knobs: dict[str, Any], said: str
) -> None:
    with pytest.raises(ut.UserError) as error:
        run.finetune(digits, out=tmp_path / "model", **knobs)
    assert str(error.value).startswith(said)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("labels", "task", "said"),
    [
        (None, "classify", "the data has no labels; give class folders, or a table with --label COLUMN"),
        (np.zeros(40, int), "classify", "the training labels have 1 class (0); at least 2 needed"),
        (np.zeros(40), "regress", "the 30 training labels are all equal"),  # the run itself held out ten of these
        (np.linspace(0, 1, 40), "classify", "the labels are continuous numbers (0, 0.025641, 0.0512821 ...); use --task regress"),
        (np.array(["a", "b"] * 20), "regress", "--task regress needs numbers, but found the label 'a'; use --task classify"),
    ],
)
def test_labels_that_do_not_fit_the_task(
    run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, labels: Any, task: str, said: str
) -> None:
    data = digits[0][:40] if labels is None else (digits[0][:40], labels)
    with pytest.raises(ut.UserError) as error:
        run.finetune(data, task, out=tmp_path / "model")
    assert str(error.value).startswith(said)


def test_rare_missing_and_unseen_classes_are_said(run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, capfd: Any) -> None:
    labels = ["a"] * 30 + ["b"] * 8 + ["c", None]
    frame = pd.DataFrame({"image": list(digits[0][:40]), "label": labels, "split": ["train"] * 30 + ["test"] * 2 + ["train"] * 8})
    frame.loc[31, "label"] = "z"
    model = run.finetune(frame, split="split", out=tmp_path / "model", scratch=False, precision="float32", steps=2)
    said = capfd.readouterr().err
    assert "1 of 40 images have no label and are left out" in said
    assert "class c has one training sample" in said
    assert "1 class is not in the training split and always misclassified: z" in said
    assert "imbalanced, 1 to 30 samples" in said
    assert "balanced accuracy" not in said  # the two test rows are of two classes
    assert model.config["classes"] == ["a", "b", "c", "z"]


def test_pictures_of_another_kind_are_converted_and_said(
    run: ut.Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, capfd: Any
) -> None:
    large = np.random.default_rng(0).integers(0, 256, (40, 48, 48, 3), dtype=np.uint8)
    model = run.finetune((large, np.arange(40) % 2), out=tmp_path / "model", scratch=False, precision="float32", steps=2)
    said = capfd.readouterr().err
    assert "the images have channels 3, size 48; they are converted to channels 1, size 16, as the encoder was trained" in said
    assert len(model.predict(large)) == 40


def test_a_weighted_sum_of_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Layers of a transformer: the head reads their softmax-weighted sum, and the weights move, are said, and stay with the model."""
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    truth = np.arange(80) % 2
    waves = (np.sin(np.arange(64) * (0.3 + 0.5 * truth[:, None])) + 0.3 * random.normal(size=(80, 64))).astype(np.float32)
    options: dict[str, Any] = {"encoder__width": 16, "encoder__depth": 3, "encoder__patch": 8, "precision": "float32"}
    run = ut.pretrain(waves, "vicreg", encoder="patch_series", modality="series", out=tmp_path / "run", steps=1, batch_size=16, **options)
    given: dict[str, Any] = {"train": "frozen", "read": "layers", "scratch": False, "validation": 0, "precision": "float32"}
    parts = np.where(np.arange(80) < 56, "train", "test")
    table = {"series": list(waves), "label": truth, "split": parts}
    model = run.finetune(table, out=tmp_path / "model", split="split", steps=40, lr=1e-3, **given)
    weights = model.config["layer_weights"]
    assert len(weights) == 3
    assert sum(weights) == pytest.approx(1, abs=1e-3)
    assert max(weights) - min(weights) > 0.02, "they are learned at a rate of their own"
    assert "layers    " + " + ".join(f"{weight:.2f} x {i}" for i, weight in enumerate(weights, 1)) in capfd.readouterr().err
    assert model.scores[0]["mean"] > 0.8
    one, other = (each.predict(waves[56:]) for each in (model, ut.load(model.path)))
    assert list(one["label"]) == list(other["label"])

    capfd.readouterr()
    speakers = [f"s{row // 16}" for row in range(80)]
    order = random.permutation(80)  # speakers do not lie side by side
    frame = pd.DataFrame({"series": [waves[i] for i in order], "label": truth[order], "speaker": [speakers[i] for i in order]})
    model = run.finetune(frame, out=tmp_path / "unseen", columns={"group": "speaker"}, steps=40, lr=1e-3, **given)
    assert "by group, seed 0: train 64, val 16" in " ".join(capfd.readouterr().err.split()), "one speaker is held out whole"
    assert len(model.config["layer_weights"]) == 3
    assert model.scores[0]["mean"] > 0.8
    conv = ut.pretrain(waves, "vicreg", encoder="conv_series", modality="series", out=tmp_path / "conv", **TINY)
    with pytest.raises(ut.UserError, match="read=layers requires an encoder with layers; ConvSeries offers any_size"):
        conv.finetune(table, out=tmp_path / "no", split="split", steps=2, **given)


# ------------------------------------------------------------------------------------------------------- other columns


def people(columns: tuple[str, ...], count: int = 80) -> pd.DataFrame:
    random = np.random.default_rng(0)
    every = {name: random.normal(size=count) for name in ("age", "height", "weight", "income")}
    every["city"] = random.choice(["Rome", "Oslo"], count)
    return pd.DataFrame({name: every[name] for name in columns}).assign(label=np.where(every["age"] > 0, "old", "young"))


@pytest.fixture(scope="module")
def rows_run(tmp_path_factory: pytest.TempPathFactory) -> ut.Run:
    out = tmp_path_factory.mktemp("tables") / "run"
    small: dict[str, Any] = {"encoder__width": 16, "encoder__depth": 1, "steps": 8, "batch_size": 16, "precision": "float32"}
    return ut.pretrain(people(("age", "height", "city")), "mlm", out=out, modality="table", **small)


def test_a_table_with_other_columns_is_fine_tuned_and_predicted(rows_run: ut.Run, tmp_path: Path, capsys: Any) -> None:
    data = people(("weight", "age", "city", "income"))
    model = ut.finetune(rows_run, data, out=tmp_path / "model", **TINY)
    said = capsys.readouterr().err
    assert (
        "columns   2 as in pretraining: age, city; 2 new, whose weights are drawn: weight, income; 1 of pretraining not in this table"
        in said
    )
    found = ut.load(tmp_path / "model").predict(data.drop(columns="label"))
    assert found["label"].tolist() == model.predict(data)["label"].tolist()
    assert {row["features"] for row in model.model.config["scores"]} == {"encoder", "random_init"}
    again = ut.finetune(model.path, people(("age", "city", "height")), out=tmp_path / "again", **TINY, scratch=False)
    assert "has learned from labels" in capsys.readouterr().err
    assert [one["name"] for one in again.model.config["layout"]["features"]] == ["age", "city", "height"]


def test_shared_columns_begin_with_the_weights_of_pretraining(rows_run: ut.Run) -> None:
    tuner = commands.open_tuner(rows_run.model, rows_run.path, people(("income", "age", "city")), task="classify", knobs=TINY)
    own: Any = tuner.encoder
    old: Any = rows_run.encoder
    assert own.names == ["age", "city", "income"]
    for at, before in ((0, 0), (1, 2)):
        assert torch.equal(own.columns[at], old.columns[before])
    assert torch.equal(own.transformer.norm.weight, old.transformer.norm.weight)
    assert torch.equal(own.first, old.first)


def test_a_network_without_a_token_per_column_needs_its_columns(tmp_path: Path) -> None:
    run = ut.pretrain(people(("age", "height")), "simclr", out=tmp_path / "run", modality="table", steps=4, batch_size=16)
    with pytest.raises(ut.UserError, match="has no column height"):
        ut.finetune(run, people(("age", "weight")), **TINY)
