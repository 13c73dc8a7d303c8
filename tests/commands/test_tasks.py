"""Segmentation and tagging from data to predictions, on planted data that a small network learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import nn

import untaught as ut

pytestmark = pytest.mark.usefixtures("bare_runs")
TINY: dict[str, Any] = {"precision": "float32", "scratch": False}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def squares(folder: Path, count: int = 40) -> Path:
    """Grey images with a bright square each, and masks of it: 255 where it is."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels, mask = random.integers(0, 80, (24, 32), dtype=np.uint8), np.zeros((24, 32), np.uint8)
        top, left = random.integers(0, 12), random.integers(0, 20)
        pixels[top : top + 10, left : left + 10] += 150
        mask[top : top + 10, left : left + 10] = 255
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        Image.fromarray(mask).save(folder / f"{number:02}_mask.png")
    return folder


def test_squares_are_found(tmp_path: Path, capfd: Any) -> None:
    data = squares(tmp_path / "data")
    images = sorted(str(path) for path in data.glob("??.png"))
    run = ut.pretrain(images, "simclr", out=tmp_path / "run", steps=2, batch_size=16, size=32, encoder__width=8, precision="float32")
    capfd.readouterr()
    model = run.finetune(data, "segment", out=tmp_path / "model", steps=60, batch_size=16, lr=1e-2, **TINY)
    said = capfd.readouterr().err
    assert "40 images without labels under" in said
    assert "each with its mask (*_mask)" in said
    assert (
        "labels    pixel values 0, 255: 2 classes, all above 0 form one class; 40 images to learn from, none to stop by, none to test"
        in said
    )
    assert model.scores == [], "the encoder was trained on all of the images: none of them can test"
    assert model.config["values"] == [0, 255]
    masks = ut.load(model.path).predict(data, tmp_path / "masks")
    assert sorted(path.name for path in masks.glob("*.png")) == [f"{number:02}.png" for number in range(40)]
    ious = []
    for number in range(40):
        said, truth = (np.asarray(Image.open(place)) > 0 for place in (masks / f"{number:02}.png", data / f"{number:02}_mask.png"))
        assert said.shape == truth.shape == (24, 32)
        ious.append((said & truth).sum() / (said | truth).sum())
    assert np.mean(ious) > 0.6
    table = pd.read_csv(masks / "predictions.csv")
    assert list(table.columns) == ["row", "name", "file", "share_0", "share_255"]
    assert list(table["file"]) == list(table["name"]), "a mask is found by its row"
    assert table["share_255"].mean() == pytest.approx(100 / (24 * 32), abs=0.06)
    with pytest.raises(ut.UserError, match="already exists; choose another --out"):
        model.predict(data, tmp_path / "masks")
    with pytest.raises(
        ut.UserError, match=r"Tag needs tags, which modality image does not offer; it offers masks|requires an encoder with tokens"
    ):
        run.finetune(data, "tag", out=tmp_path / "no")


def test_new_images_test(tmp_path: Path) -> None:
    data = squares(tmp_path / "data", 60)
    noise = np.random.default_rng(1).integers(0, 255, (32, 24, 32), dtype=np.uint8)
    run = ut.pretrain(noise, "simclr", out=tmp_path / "run", steps=2, batch_size=16, size=32, encoder__width=4, precision="float32")
    model = run.finetune(data, "segment", out=tmp_path / "model", steps=4, batch_size=8, head="linear", train="frozen", **TINY)
    rows = {row["metric"]: row for row in model.scores}
    assert set(rows) == {"miou", "pixel_accuracy"}
    assert rows["miou"]["probe"] == "finetune-frozen"
    assert rows["miou"]["low"] <= rows["miou"]["mean"] <= rows["miou"]["high"]
    assert json.loads((run.path / "evaluation.json").read_text())["rows"][-1]["metric"] in rows


def test_another_size_than_in_pretraining(tmp_path: Path) -> None:
    """Learned positions are interpolated; the model that is saved reads, builds and predicts as it was trained."""
    data = squares(tmp_path / "data", 60)
    noise = np.random.default_rng(1).integers(0, 255, (32, 24, 32), dtype=np.uint8)
    small: dict[str, Any] = {"encoder": "vit_mini", "encoder__depth": 1, "encoder__embed_dim": 24}
    run = ut.pretrain(noise, "mae", out=tmp_path / "run", steps=2, batch_size=16, size=16, **small)
    model = run.finetune(data, "segment", out=tmp_path / "model", steps=4, batch_size=8, size=32, **TINY)
    assert (model.config["layout"]["size"], model.config["side"]) == (32, 32)
    assert model.config["encoder_arguments"] == {"channels": 1, "size": 16}
    kept = json.loads((tmp_path / "model" / "config.json").read_text())
    assert kept["maps"][-1][1:] == [16, 16], "patches of 2 x 2, as in pretraining"
    loaded = ut.load(model.path)
    assert isinstance(loaded, ut.Model)
    places = [each.predict(data, tmp_path / name) for name, each in (("own", model), ("loaded", loaded))]
    pairs = [[np.asarray(Image.open(place / f"{number:02}.png")) for place in places] for number in range(60)]
    assert all((own == again).all() for own, again in pairs)
    with pytest.raises(ut.UserError, match="size=3: must be"):
        run.finetune(data, "segment", out=tmp_path / "no", size=3)
    for damaged in ({"channels": 1}, {"channels": 1, "size": "x"}, {"channels": 1, "size": 16, "pretrained": True}, [16]):
        (tmp_path / "model" / "config.json").write_text(json.dumps(kept | {"encoder_arguments": damaged}))
        with pytest.raises(ut.UserError, match="encoder_arguments"):
            ut.load(tmp_path / "model")


def test_an_encoder_of_one_size_stays_at_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (32, 16, 16), dtype=np.uint8)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 8))
    run = ut.pretrain(noise, "simclr", encoder=flat, out=tmp_path / "run", steps=2, batch_size=16, size=16)
    with pytest.raises(ut.UserError, match=r"size: module:.* takes only images as in pretraining; leave it out"):
        run.finetune((noise, np.arange(32) % 2), "classify", out=tmp_path / "no", size=32)


def test_names_are_tagged(tmp_path: Path, capfd: Any) -> None:
    random = np.random.default_rng(0)
    names, places, verbs = ["Ann", "Bob", "Cy"], ["Rome", "Oslo", "New York"], ["saw", "left", "liked"]
    lines = []
    for _ in range(200):
        place = str(random.choice(places)).split()
        words = [str(random.choice(names)), str(random.choice(verbs)), *place]
        tags = ["B-person", "O", "B-place", *["I-place"] * (len(place) - 1)]
        lines.append("\n".join(f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.conll").write_text("\n\n".join(lines[:150]))
    (tmp_path / "data" / "test.conll").write_text("\n\n".join(lines[150:]))
    small: Any = {"encoder__width": 32, "encoder__depth": 1, "encoder__heads": 2, "length": 16, "vocabulary": 300}
    run = ut.pretrain(tmp_path / "data" / "train.conll", "mlm", modality="text", out=tmp_path / "run", steps=2, batch_size=16, **small)
    capfd.readouterr()
    model = run.finetune(tmp_path / "data", "tag", out=tmp_path / "model", steps=60, batch_size=32, lr=1e-2, **TINY)
    assert "2 entity types (person, place) on " in capfd.readouterr().err
    rows = {row["metric"]: row["mean"] for row in model.scores}
    assert set(rows) == {"entity_f1", "entity_precision", "entity_recall", "word_accuracy"}
    assert rows["entity_f1"] > 0.95
    loaded = ut.load(model.path)
    assert isinstance(loaded, ut.Model)
    table = loaded.predict(["Bob left New York", "Ann saw Oslo"])
    assert list(table.columns) == ["row", "name", "word", "token", "tag", "probability", "entity"]
    assert list(table["token"]) == ["Bob", "left", "New", "York", "Ann", "saw", "Oslo"]
    assert list(table["entity"]) == ["person 1", "", "place 2", "place 2", "person 1", "", "place 2"]
    assert list(table["row"]) == [0] * 4 + [1] * 3
    probed = {(row["features"], row["metric"]): row["mean"] for row in run.evaluate(tmp_path / "data", task="tag")}
    assert set(probed) == {(features, metric) for features in ("encoder", "random_init") for metric in rows}
    assert probed["encoder", "word_accuracy"] > 0.5


def test_maps_are_probed_on_the_frozen_encoder_beside_its_random_init(tmp_path: Path, capfd: Any) -> None:
    data = squares(tmp_path / "data", 60)
    noise = np.random.default_rng(1).integers(0, 255, (32, 24, 32), dtype=np.uint8)
    run = ut.pretrain(noise, "simclr", out=tmp_path / "run", steps=2, batch_size=16, size=32, encoder__width=4, precision="float32")
    before = {name: value.clone() for name, value in run.encoder.state_dict().items()}
    rows = run.evaluate(data, task="segment", against=[run.path / "encoder"])
    found = {(row["features"], row["metric"]): row["mean"] for row in rows}
    names = ["encoder", "random_init", "raw", f"against:{run.path / 'encoder'}"]
    assert set(found) == {(name, metric) for name in names for metric in ("miou", "pixel_accuracy")}
    for probe in ("frozen", "kmeans"):
        miou = {row["features"]: row["mean"] for row in rows if (row["probe"], row["metric"]) == (probe, "miou")}
        assert list(miou) == names
        assert miou["encoder"] == miou[names[3]] != miou["random_init"]
    assert {(row["probe"], row["labels"], row["draws"]) for row in rows} == {("frozen", "all", 1), ("kmeans", "none", 5)}
    kept = json.loads((run.path / "evaluation.json").read_text())["rows"]
    assert [row for row in kept if row["probe"] in ("frozen", "kmeans")] == rows
    assert all((value == before[name]).all() for name, value in run.encoder.state_dict().items())
    assert "model  " not in capfd.readouterr().err, "heads are not kept"
    assert not (run.path / "finetuned").exists()
    with pytest.raises(ut.UserError, match="pass some with targets for --task segment"):
        run.evaluate(task="segment")
