"""`untaught evaluate` on small real data: what is measured, what is said, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command import Cli
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import untaught as ut
from untaught.core import Preprocessor, UserError
from untaught.data.labels import doubts
from untaught.evaluation.evaluate import _alike, _open, _own_data, as_text, evaluate
from untaught.evaluation.evaluator import merge_rows, read_rows
from untaught.evaluation.models import open_model
from untaught.modalities.image import IMAGE
from untaught.modalities.text import TEXT, learn, plan
from untaught.pipeline.seen_rows import SeenRows

TINY = ("steps=2", "encoder.width=8", "size=16", "batch_size=8", "precision=float32")


def pictures(folder: Path, classes: dict[str, int], mode: str = "RGB") -> Path:
    """Class folders of images, each class of its own brightness."""
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            low = 40 * number
            pixels = np.random.default_rng([number, i]).integers(low, low + 100, (20, 20, len(mode)), dtype=np.uint8).squeeze()
            Image.fromarray(pixels).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "animals", {"cat": 15, "dog": 15})


@pytest.fixture(scope="session")
def trained(cli: Cli, animals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = cli("pretrain", animals, *TINY, "--out", out)
    assert done.code == 0, done.err
    return out


def features(rows: list[dict]) -> set[str]:
    return {row["features"] for row in rows}


def test_a_run_is_measured_on_its_own_data_beside_its_baselines(cli: Cli, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    done = cli("evaluate", run)
    assert done.code == 0, done.err
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    assert features(rows) == {"encoder", "random_init", "raw"}
    assert {row["probe"] for row in rows} == {"knn20", "knn200", "linear", "kmeans", "spectrum"}
    assert next(row["mean"] for row in rows if (row["features"], row["probe"], row["labels"]) == ("raw", "linear", "all")) == 1.0
    assert "random init" in done.out
    assert "raw data" in done.out
    assert "\x1b" not in done.out
    assert "10/class" in done.out
    assert "skipping 1%: 0 labels are fewer than the 2 classes" in done.err


def test_pretraining_and_evaluating_measure_the_same_knn(cli: Cli, trained: Path, tmp_path: Path) -> None:
    before = {(row["features"], row["probe"]): row["mean"] for row in read_rows(trained / "evaluation.json")}
    done = cli("evaluate", trained / "encoder", "--json", "--out", tmp_path / "new")
    assert done.code == 0, done.err
    after = {(row["features"], row["probe"]): row["mean"] for row in json.loads(done.out) if row["metric"] == "accuracy"}
    assert before == {key: after[key] for key in before}  # random_init too: the run's seed draws it again
    assert read_rows(tmp_path / "new" / "evaluation.json") == json.loads(done.out)


def test_rows_that_a_run_was_trained_on_are_not_held_out_for_its_scores(cli: Cli, animals: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cli("pretrain", animals, *TINY, "seed=3", "--out", run)
    assert "seed 3: train 24, val 6" in done.err
    before = {(row["features"], row["probe"]): row["mean"] for row in read_rows(run / "evaluation.json")}
    done = cli("evaluate", run)
    assert "seed 3: train 24, val 6" in done.err
    after = {(row["features"], row["probe"]): row["mean"] for row in read_rows(run / "evaluation.json") if row["metric"] == "accuracy"}
    assert before == {key: after[key] for key in before}
    assert "seed 3: train 24, val 6" in cli("finetune", run, "steps=2", "--data", animals).err


def test_no_labels_and_other_unusable_ones_are_said(cli: Cli, trained: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "one", {"cat": 6})
    names = [f"cat/{i:03}.png" for i in range(6)]
    tables = {
        "floats.csv": "file,label\n" + "".join(f"one/{name},2.5\n" for name in names),
        "single.csv": "file,label\n" + "".join(f"one/{name},cat\n" for name in names),
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    for data, said in {"one": "has no labels", "floats.csv": "have the same label", "single.csv": "are of one class"}.items():
        done = cli(
            "evaluate", trained, "--data", tmp_path / data, *(["--label", "label"] if "csv" in data else []), "--json", "--out", tmp_path
        )
        assert done.code == 0, done.err
        assert said in done.err
        assert "label-free metrics only" in done.err
        assert {row["probe"] for row in json.loads(done.out)} == {"spectrum"}
        assert features(json.loads(done.out)) == {"encoder", "random_init"}


def test_missing_labels_and_files_are_counted_and_a_class_of_one_is_kept(cli: Cli, trained: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "p", {"cat": 10, "dog": 10, "owl": 1})
    lines = [f"p/{path.parent.name}/{path.name},{path.parent.name}" for path in sorted((tmp_path / "p").rglob("*.png"))]
    lines[0] = lines[0].replace("cat", "cat", 1).rsplit(",", 1)[0] + ","
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *lines, "p/gone.png,cat"]) + "\n")
    done = cli("evaluate", trained, "--data", tmp_path / "t.csv", "--label", "label", "--out", tmp_path, COLUMNS="40")
    assert done.code == 0, done.err
    assert "1 images have no label" in done.err
    assert "gone.png: there is no such file" in done.err
    assert "3 classes of 1 to" in done.err
    assert max(map(len, done.out.splitlines()[:-1])) <= 40


def test_other_channels_and_sizes_are_read_as_in_training_and_said(cli: Cli, trained: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", x=np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8), y=np.arange(30) % 2)
    done = cli("evaluate", trained, "--data", tmp_path / "grey.npz", "--out", tmp_path)
    assert done.code == 0, done.err
    assert "converted from channels 1 to 3" in done.err


def test_what_is_wrong_is_said_in_a_line(cli: Cli, trained: Path, animals: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"hidden_size": 3}')
    save_file({"w": torch.zeros(1)}, foreign / "model.safetensors")
    unfinished = shutil.copytree(trained, tmp_path / "unfinished", ignore=shutil.ignore_patterns("encoder"))
    other = shutil.copytree(trained / "encoder", tmp_path / "other")
    save_file({"w": torch.zeros(1)}, other / "model.safetensors")
    cut = shutil.copytree(trained / "encoder", tmp_path / "cut")
    (cut / "model.safetensors").write_bytes(b"short")
    np.save(tmp_path / "deep.npy", np.zeros((8, 16, 16, 5), np.uint8))
    faults = {
        ("nothing",): "nothing not found; allowed: a run folder",
        (tmp_path / "empty",): "holds no encoder (config.json and model.safetensors)",
        (unfinished,): "holds no encoder",
        (foreign,): "does not hold an untaught encoder",
        (other,): "its weights do not match conv_small",
        (cut,): "can't be loaded",
        (trained / "encoder", "--data", tmp_path / "gone"): "gone not found",
        (trained, "--data", tmp_path / "empty"): "no images in",
        (trained, "--data", tmp_path / "deep.npy"): "has 5 channels, the other images 3",
        (trained, "--against", "timm/resnett18=x.pth"): "x.pth",
        (trained, "--against", trained, "--against", trained): "contains an encoder twice",
        ("timm/resnet18",): "no data of its own",
        (trained, "--data", animals, "--out", trained / "run.yaml" / "x"): "can't be written",
    }
    for arguments, said in faults.items():
        assert said in cli("evaluate", *arguments).error, arguments


def test_against_another_run_and_a_model_of_timm_from_a_file(cli: Cli, trained: Path, animals: Path, tmp_path: Path) -> None:
    import timm

    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    other = f"timm/test_resnet={tmp_path / 'w.safetensors'}"
    done = cli("evaluate", trained, "--data", animals, "--against", trained / "encoder", "--against", other, "--json", "--out", tmp_path)
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert features(rows) == {"encoder", "random_init", "raw", f"against:{trained / 'encoder'}", f"against:{other}"}
    same = [[row["mean"] for row in rows if row["features"] == name] for name in ("encoder", f"against:{trained / 'encoder'}")]
    assert same[0] == same[1]


def test_a_model_of_transformers_from_a_folder(animals: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        ut.evaluate(tmp_path / "vit", animals)
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6]}')
    rows = ut.evaluate(tmp_path / "vit", animals)
    assert features(rows) == {"encoder", "random_init", "raw"}


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) @ self.w


def test_modules_of_the_users_own(animals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())
    assert features(ut.evaluate(net, animals)) == {"encoder", "random_init", "raw"}
    assert features(ut.evaluate(Bare(), animals)) == {"encoder", "raw"}
    assert "skipping the random-init baseline" in capsys.readouterr().err


def test_seeds_are_runs_of_their_own_and_reported_apart(cli: Cli, animals: Path, tmp_path: Path) -> None:
    done = cli("pretrain", animals, *TINY, "--seeds", "2", "--out", tmp_path / "s")
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "s" / "evaluation.json")
    assert {row["seed"] for row in rows} == {0, 1}
    assert "mean of 2 seeds" in done.err
    first, second = ((tmp_path / "s" / f"seed-{seed}" / "encoder" / "model.safetensors").read_bytes() for seed in (0, 1))
    assert first != second
    again = cli("pretrain", animals, *TINY, "--seeds", "2", "--out", tmp_path / "s", "--resume")
    assert again.code == 0, again.err
    assert read_rows(tmp_path / "s" / "evaluation.json") == rows
    assert "between 2 and 1,000" in cli("pretrain", animals, "--seeds", "1", "--out", tmp_path / "t").error
    assert "requires --out" in cli("pretrain", animals, "--seeds", "2").error


def row(features: str, mean: float, **more: object) -> dict:
    return {"features": features, "probe": "linear", "labels": "all", "metric": "accuracy", "mean": mean, "low": mean, "high": mean, **more}


def test_rows_are_replaced_by_what_they_measure(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    merge_rows(path, [row("encoder", 0.5), row("raw", 0.3)])
    merge_rows(path, [row("encoder", 0.6), row("encoder", 0.7, seed=1)])
    assert [(found["features"], found["mean"]) for found in read_rows(path)] == [("raw", 0.3), ("encoder", 0.6), ("encoder", 0.7)]
    merge_rows(path, [row("raw", 0.9, data="others/")])
    assert [(found["features"], found["mean"]) for found in read_rows(path)][-1] == ("raw", 0.9)
    assert len(read_rows(path)) == 4, "rows of other data stand beside those of the run's own"
    path.write_text('{"schema": 9, "rows": []}')
    with pytest.raises(UserError, match="schema 9"):
        merge_rows(path, [])
    path.write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        read_rows(path)


def test_a_table_fits_its_width_or_becomes_paragraphs() -> None:
    rows = [row("encoder", 0.5), row("raw", 0.25), row("random_init", 0.3)]
    wide, narrow = as_text(rows, 80), as_text(rows, 20)
    assert "encoder" in wide.splitlines()[0]
    assert "50.0 +- 0.0" in wide
    assert narrow.splitlines()[:3] == ["linear", "  encoder      50.0 +- 0.0", "  raw data     25.0 +- 0.0"]


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.52), (0.48, 0.6)])
def test_of_an_interval_the_longer_half_is_shown(low: float, high: float) -> None:
    assert "50.0 +- 10.0" in as_text([row("encoder", 0.5, low=low, high=high)], 80)


@pytest.mark.parametrize(
    ("mean", "low", "high", "text"),
    [(0.003723, 0.0026, 0.0048, "0.0037 +- 0.0011"), (0.371, 0.366, 0.376, "0.371 +- 0.005"), (36.9, 34.8, 38.9, "36.9 +- 2.1")],
)
def test_an_error_has_the_digits_that_its_interval_tells_apart(mean: float, low: float, high: float, text: str) -> None:
    assert text in as_text([{**row("encoder", mean, low=low, high=high), "metric": "mse"}], 80)


def test_a_run_is_never_measured_on_another_folder_of_the_same_name(
    animals: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    said = yaml.safe_load((run / "run.yaml").read_text())
    assert said["data"] == str(animals)
    monkeypatch.chdir(animals.parent)
    (run / "run.yaml").write_text(yaml.safe_dump({**{k: v for k, v in said.items() if k != "contents"}, "data": "animals"}))  # an older one
    known = SeenRows.of(run)
    divided = _open(open_model(run), *_own_data(open_model(run), run), known, True, {})
    assert divided.name == "animals"
    monkeypatch.chdir(pictures(tmp_path / "b" / "animals", {"cat": 15, "dog": 15}).parent)
    with pytest.raises(UserError, match=r"animals is not what .* was trained on"):
        evaluate(run)


def test_pictures_that_came_after_training_are_not_held_out(animals: Path, trained: Path, tmp_path: Path) -> None:
    data = shutil.copytree(animals, tmp_path / "animals")
    run = shutil.copytree(trained, tmp_path / "run")
    said = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump({**said, "data": str(data)}))
    pictures(tmp_path / "new", {"x": 0, "y": 0, "cat": 20})
    for path in (tmp_path / "new" / "cat").iterdir():
        shutil.copy(path, data / "cat" / f"new{path.name}")
    model = open_model(run)
    before = _open(model, str(animals), None, None, None, SeenRows.of(run), False, {})
    after = _open(model, *_own_data(model, run), SeenRows.of(run), True, {})
    for part in ("train", "val"):
        names = [[Path(name).name for name in m.store.names(m.parts[part])] for m in (before, after) if m.store]
        assert names[0] == names[1]


def test_doubts_about_labels_are_said() -> None:
    train, classes = np.array([0, 0, 1]), ("ant", "bee", "cat")
    assert doubts(train, np.array([0, 1, 1]), classes, "images of test") == []
    (one,) = doubts(train, np.array([1, 1]), classes, "images of test")
    assert one.startswith("all 2 labelled images of test are of one class (bee)")
    (unseen,) = doubts(train, np.array([0, 2, 2]), classes, "images of test")
    assert unseen == "1 class is not in the training split and always misclassified: cat (2 images of test)"


def test_scores_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    row = {"features": "encoder", "probe": "loss", "labels": "none", "metric": "mlm", "mean": float("nan"), "data": "x"}
    with pytest.raises(UserError, match=r"the score encoder loss mlm is not finite"):
        merge_rows(tmp_path / "evaluation.json", [row])
    assert [*tmp_path.iterdir()] == []


def test_encoders_are_compared_on_data_that_both_read_alike() -> None:
    image: Any = {"size": 32, "side": 32, "channels": 3, "bits": 8, "preset": "small"}
    one, other = (
        Preprocessor(TEXT, *learn(records, plan(records, {"length": 16, "vocabulary": 300})))
        for records in ([{"text": f"{word} went to town {i} times"} for i in range(9)] for word in ("foxes", "ants"))
    )
    images = Preprocessor(IMAGE, image)
    assert _alike(images, Preprocessor(IMAGE, image | {"size": 64}))
    assert not _alike(images, Preprocessor(IMAGE, image | {"channels": 1}))
    assert _alike(one, replace(one, settings=one.settings | {"length": 32}))
    assert not _alike(one, other)
    assert not _alike(one, images)
    assert not _alike(images, one)
