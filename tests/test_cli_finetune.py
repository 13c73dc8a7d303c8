"""`untaught finetune` and `untaught predict` as a user runs them: what works, and one clear line for what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import Cli
from PIL import Image
from pyarrow import csv

TINY = ("steps=3", "precision=float32")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and bright images in class folders."""
    root = tmp_path_factory.mktemp("data") / "labelled"
    for i in range(48):
        place = root / ("bright" if i % 2 else "dark") / f"{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 128, (20, 20, 3), dtype=np.uint8) + 120 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    return root


@pytest.fixture(scope="module")
def run(cli: Cli, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = cli("pretrain", labelled, *TINY, "encoder.width=8", "size=16", "batch_size=8", "--out", out)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def model(cli: Cli, run: Path, labelled: Path) -> Path:
    done = cli("finetune", run, "steps=20", "precision=float32")  # on the run's own data
    assert done.code == 0, done.err
    assert "classes, 38 images to learn from, none to stop by" in done.err
    assert "accuracy           fine-tuned " in done.err
    assert "from scratch" in done.err
    assert "balanced accuracy" not in done.err  # the classes are
    assert f"untaught predict {run / 'finetuned'} DATA -o predictions.csv" in done.err
    assert done.out == ""
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    assert {row["features"] for row in rows if row["probe"] == "finetune"} == {"encoder", "random_init"}
    assert any(row["probe"] == "knn20" for row in rows)
    return run / "finetuned"


def test_new_pictures_get_a_class(cli: Cli, model: Path, labelled: Path, tmp_path: Path) -> None:
    done = cli("predict", model, labelled, "-o", tmp_path / "said.csv")
    assert done.err.endswith(f"wrote     48 predictions to {tmp_path / 'said.csv'}\n")
    table = csv.read_csv(tmp_path / "said.csv").to_pydict()
    assert list(table) == ["row", "name", "label", "probability", "p_bright", "p_dark"]
    right = [name.split("/")[0] == label for name, label in zip(table["name"], table["label"], strict=True)]
    assert np.mean(right) > 0.9
    assert cli("predict", model.parent, labelled, "-o", tmp_path / "again.csv").code == 0  # the run itself is enough
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "said.csv").read_bytes()


def test_a_second_model_gets_a_name_of_its_own(cli: Cli, run: Path, model: Path, labelled: Path) -> None:
    done = cli("finetune", run / "encoder", "--data", labelled, *TINY, "scratch=no")
    assert f"model     {run / 'finetuned-2'};" in done.err
    assert (model / "model.safetensors").exists()


def listing(folder: Path, labelled: Path, rows: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "list.csv"
    file.write_text("file,value\n" + "\n".join(rows) + "\n")
    shutil.copytree(labelled, folder / "images", dirs_exist_ok=True)
    return file


def test_files_that_a_csv_names_and_are_not_there_are_counted_and_named(cli: Cli, run: Path, labelled: Path, tmp_path: Path) -> None:
    names = [f"images/{'bright' if i % 2 else 'dark'}/{i:02}.png" for i in range(40)]
    values = [f"{name},{i % 2 * 3.5 + 0.25}" for i, name in enumerate(names)]
    file = listing(tmp_path / "t", labelled, [*values, "images/gone.png,1.5", "images/lost.png,2.5", "images/bright/41.png,"])
    done = cli("finetune", run, "--data", file, "--label", "value", "--task", "regress", "--out", tmp_path / "m", *TINY, "scratch=no")
    assert done.code == 0, done.err
    assert "skipped 2 that are not readable images: " in done.err
    assert "gone.png" in done.err
    assert "1 of 41 images have no label and are left out" in done.err
    assert "r2" in done.err
    assert cli("predict", tmp_path / "m", labelled, "-o", tmp_path / "v.csv").code == 0
    assert csv.read_csv(tmp_path / "v.csv").column_names == ["row", "name", "value"]


def test_faults_are_one_line(cli: Cli, run: Path, model: Path, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    half, foreign = tmp_path / "half", tmp_path / "foreign"
    for folder in (half, foreign):
        shutil.copytree(run / "encoder", folder)
    (half / "model.safetensors").unlink()
    (foreign / "config.json").write_text('{"model_type": "vit"}')
    cut = shutil.copytree(model, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:100])
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    alone = shutil.copytree(run / "encoder", tmp_path / "alone")
    given = ("--data", labelled)
    for words, said in {
        ("finetune", alone): f"{alone} has no data of its own; pass labelled data with --data",
        ("finetune", tmp_path / "nope", *given): f"{tmp_path / 'nope'} does not exist",
        ("finetune", tmp_path / "empty", *given): f"{tmp_path / 'empty'} holds no encoder (config.json and model.safetensors)",
        ("finetune", half, *given): f"{half} holds no encoder",
        ("finetune", foreign, *given): f"{foreign} does not hold an untaught encoder",
        ("finetune", run, "--data", tmp_path / "gone"): f"{tmp_path / 'gone'} not found",
        ("finetune", run, "--data", tmp_path / "empty"): f"no images in {tmp_path / 'empty'}",
        ("finetune", run, "--data", labelled / "dark"): "the data has no labels; give class folders, or a table with --label COLUMN",
        (
            "finetune",
            run,
            *given,
            "--task",
            "segmint",
        ): "unknown task segmint; did you mean segment? known: classify, forecast, multilabel, regress, segment, tag",
        ("finetune", run, *given, "--task", "regress"): "--task regress needs numbers, but found the label 'bright'",
        ("finetune", run, *given, "--out", model): f"{model} already exists; choose another --out",
        ("finetune", run, *given, "labls=1%"): "unknown knob labls; did you mean labels",
        ("predict", tmp_path / "nope", labelled): f"{tmp_path / 'nope'} does not exist; give the folder of a fine-tuned model",
        ("predict", run / "encoder", labelled): f"{run / 'encoder'} holds no fine-tuned model, and its method simclr makes nothing",
        ("predict", bare, labelled): f"{bare} has no model.safetensors",
        ("predict", cut, labelled): f"{cut} can't be loaded: ",
        ("predict", model, tmp_path / "empty"): f"no images in {tmp_path / 'empty'}",
        ("predict", model, labelled, "-o", "said.txt"): "said.txt: the suffix sets the format; allowed: .csv, .parquet",
        ("embed", run, labelled, "-o", "said.txt"): "said.txt: the suffix sets the format; allowed: .parquet, .npy",
    }.items():
        assert cli(*words).error.startswith(said)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(cli: Cli, run: Path, labelled: Path) -> None:
    place = run / "run.yaml" / "x"  # below a file
    done = cli("finetune", run, "--data", labelled, *TINY, "--out", place)
    assert done.error == f"{place} can't be written: File exists; choose another --out"
    assert "trained" not in done.err
    done = cli("preview", labelled, "-o", place.with_suffix(".png"))
    assert done.error == f"{place.with_suffix('.png')} can't be written: File exists; choose another --out"


def test_new_pictures_of_another_kind_are_converted_and_that_is_said(cli: Cli, run: Path, labelled: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8))
    done = cli("embed", run, tmp_path / "grey.npy", "-o", tmp_path / "grey_vectors.npy")
    assert "input     images converted from channels 1 to 3, as in training" in done.err
    assert "channels" not in cli("embed", run, labelled, "-o", tmp_path / "vectors.npy").err
