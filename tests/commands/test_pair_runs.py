"""A run of two encoders, from pairs to retrieval: encoder/ by role, each of which loads alone, and towers that begin as earlier ones."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import untaught as ut
from untaught.core import UserError, View
from untaught.pipeline.pretrained import load_encoders, roles_in

KNOBS: dict[str, Any] = {
    "steps": 4,
    "batch_size": 8,
    "width": 8,
    "image__size": 8,
    "text__length": 16,
    "text__tokenizer": "characters",
    "encoder__image__width": 8,
    "encoder__text__width": 16,
    "encoder__text__depth": 1,
    "encoder__text__heads": 2,
    "log_every": 1,
    "evaluate_every": 2,
}
ENCODERS = {"image": "conv_small", "text": "bert"}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain images and two captions of each that name the colour; one image has no caption, and one caption no image."""
    root, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    rows = []
    for i in range(24):
        name = list(COLOURS)[i % 4]
        noise = random.integers(-20, 20, (10, 12, 3))
        Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)).save(root / f"{i}.png")
        part = "train" if i < 12 else "val" if i < 16 else "test"
        rows += [(part, f"{i}.png", text) for text in ((f"a {name} image", f"it is {name}") if i else ("",))]
    rows.append(("train", "", "a purple image"))
    with (root / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("split", "image", "caption"), *rows])
    return root


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> ut.Run:
    return ut.pretrain(pairs, "clip", encoder=ENCODERS, split="split", out=tmp_path_factory.mktemp("run") / "clip", **KNOBS)


def test_encoder_holds_a_folder_for_each_role(run: ut.Run) -> None:
    assert run.roles == roles_in(run.path / "encoder") == ("image", "text")
    record = yaml.safe_load((run.path / "run.yaml").read_text())
    assert record["encoder"] == ENCODERS
    assert record["modality"] == "image_text"
    assert record["resolved"]["encoder"] == {"image": {"width": 8}, "text": {"width": 16, "depth": 1, "heads": 2}}
    for role in run.roles:
        config = json.loads((run.path / "encoder" / role / "config.json").read_text())
        assert (config["modality"], config["encoder"], config["view"]) == (role, ENCODERS[role], "whole")
    assert (run.path / "encoder/text/tokenizer.json").exists()
    assert (run.path / "text.tokenizer.json").exists()


def test_streamed_pairs_train_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, random = tmp_path / "shards", np.random.default_rng(0)
    shards.mkdir()
    for shard in range(2):
        with tarfile.open(shards / f"{shard}.tar", "w") as archive:
            for i in range(16):
                name = list(COLOURS)[i % 4]
                image = io.BytesIO()
                Image.fromarray((np.array(COLOURS[name]) + random.integers(-20, 20, (10, 12, 3))).astype(np.uint8)).save(image, "png")
                captions = json.dumps({"captions": [f"a {name} image", f"it is {name}"][: 1 + i % 2]}).encode()
                for ending, content in (("png", image.getvalue()), ("json", captions)):
                    member = tarfile.TarInfo(f"{shard}-{i:02}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    how = KNOBS | {"encoder": ENCODERS, "stream": True, "evaluate_every": 0, "steps": 2}
    run = ut.pretrain(shards, "clip", out=tmp_path / "run", **how)
    said = capsys.readouterr().err
    assert "32 pairs in 2 webdataset shards" in said
    assert "text from column captions" in said
    assert "stream    2 shards" in said
    assert (run.roles, ut.Run(run.path / "encoder" / "image").embed(shards).shape[0]) == (("image", "text"), 32)
    ut.pretrain(out=run.path, resume=True, steps=4)
    assert (run.path / "checkpoints" / "step-4").is_dir()


def test_each_encoder_is_used_alone(run: ut.Run, pairs: Path) -> None:
    image, text = (ut.Run(run.path / "encoder" / role) for role in run.roles)
    assert image.embed(pairs).shape == (24, image.encoder.width)
    assert text.embed(["a red image", "it is blue"]).shape == (2, 16)
    assert text.export().format == "transformers"


def test_a_command_that_needs_one_encoder_asks_which(run: ut.Run, pairs: Path) -> None:
    said = f"holds several encoders: image and text; give {run.path}/encoder/image or {run.path}/encoder/text"
    for command in (lambda: run.encoder, lambda: run.embed(pairs), lambda: run.export(), lambda: run.finetune(pairs)):
        with pytest.raises(UserError, match=said):
            command()


def test_scores_are_recalls_beside_random_init_and_chance(run: ut.Run) -> None:
    rows = {(row["features"], row["metric"]): row for row in run.scores}
    metrics = {f"{a}_to_{b}_recall@{k}" for a, b in (("image", "text"), ("text", "image")) for k in (1, 5, 10)}
    assert rows.keys() == {(features, metric) for features in ("encoder", "random_init", "chance") for metric in metrics}
    assert rows["chance", "text_to_image_recall@5"]["mean"] == pytest.approx(5 / 8)  # of 8 pairs of the test part
    seen = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in seen if "image_to_text_recall@1" in row] == [2]
    looked = [row["health"] for row in seen if "health" in row][-1]
    assert looked["roles"].keys() == {"image", "text"}


def test_evaluating_the_folder_gives_the_scores_of_the_run(run: ut.Run, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run.path, copied)
    (copied / "evaluation.json").unlink()
    want = {(row["features"], row["metric"]): (row["mean"], row["low"], row["high"]) for row in run.scores}
    assert {(row["features"], row["metric"]): (row["mean"], row["low"], row["high"]) for row in ut.evaluate(copied)} == want
    assert len(ut.Run(copied).scores) == len(want)
    with pytest.raises(UserError, match=r"--against: .* has several encoders, evaluated by retrieval; give a single encoder"):
        ut.evaluate(copied, against=["timm/resnet18"])


def test_the_saved_heads_are_those_of_the_method(run: ut.Run, tmp_path: Path) -> None:
    models, heads = load_encoders(run.path)
    assert {role: tuple(head.weight.shape) for role, head in heads.items()} == {
        role: (8, model.network.width) for role, model in models.items()
    }
    copied = tmp_path / "copied"
    shutil.copytree(run.path, copied)
    (copied / "encoder/model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="has no heads into a shared space of image and text"):
        load_encoders(copied)


def test_a_run_that_is_resumed_is_the_same_run(run: ut.Run, pairs: Path, tmp_path: Path) -> None:
    place, knobs = tmp_path / "clip", {**KNOBS, "steps": 2}
    ut.pretrain(pairs, "clip", encoder=ENCODERS, split="split", out=place, **knobs, save_every=1, schedule="constant")
    ut.pretrain(out=place, resume=True, steps=4)
    whole = ut.pretrain(pairs, "clip", encoder=ENCODERS, split="split", out=tmp_path / "whole", **KNOBS, schedule="constant")
    for role in run.roles:
        one, other = ((folder / "encoder" / role / "model.safetensors").read_bytes() for folder in (place, whole.path))
        assert one == other


def test_a_tower_begins_as_an_earlier_one_and_stands_still_when_frozen(run: ut.Run, pairs: Path, tmp_path: Path) -> None:
    earlier = run.path / "encoder/image"
    knobs = {key: value for key, value in KNOBS.items() if not key.startswith(("encoder__image", "image__"))}
    lit = ut.pretrain(
        pairs, "clip", encoder={"image": str(earlier), "text": "bert"}, split="split", out=tmp_path / "lit", freeze="image", **knobs
    )
    (before, config), (after, now) = (
        (model.network.state_dict(), model.config) for model in (ut.Run(earlier).model, ut.Run(lit.path / "encoder/image").model)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert now["statistics"] == config["statistics"]
    assert now["layout"]["size"] == 8
    assert yaml.safe_load((lit.path / "run.yaml").read_text())["encoder"]["image"] == str(earlier)
    assert now["encoder"] == "conv_small"
    looked = [json.loads(line).get("health") for line in (lit.path / "metrics.jsonl").read_text().splitlines()][-1]
    assert looked["roles"].keys() == {"text"}


def test_a_text_tower_brings_its_tokenizer(run: ut.Run, pairs: Path, tmp_path: Path) -> None:
    earlier = run.path / "encoder/text"
    knobs = {key: value for key, value in KNOBS.items() if not key.startswith(("encoder__text", "text__"))}
    other = ut.pretrain(
        pairs, "clip", encoder={"image": "conv_small", "text": str(earlier)}, split="split", out=tmp_path / "other", **knobs
    )
    first, second = (ut.Run(folder / "encoder/text").config["layout"] for folder in (run.path, other.path))
    assert first["tokenizer"] == second["tokenizer"]
    single = ut.pretrain(["a red image", "it is blue"] * 8, "mlm", encoder=str(earlier), out=tmp_path / "mlm", steps=1, batch_size=4)
    assert single.config["layout"]["tokenizer"] == first["tokenizer"]


def test_encoders_that_can_not_be_are_refused(pairs: Path, run: ut.Run, tmp_path: Path) -> None:
    knobs: dict[str, Any]
    encoder: Any
    for encoder, knobs, said in (
        ("conv_small", {}, r"specify which one is conv_small: --encoder image=NAME --encoder text=NAME"),
        ({"sound": "bert"}, {}, r"unknown encoder of CLIP, sound; known: image, text"),
        (None, {"encoder__width": 8}, r"unknown knob encoder.width; .*known: encoder.image.KNOB, encoder.text.KNOB"),
        (ENCODERS, {"encoder__image__depht": 1}, r"unknown knob of conv_small encoder.image.depht; did you mean encoder.image.depth"),
        ({"text": str(run.path / "encoder/image")}, {}, r"is an encoder of images; text needs one of documents"),
        ({"image": str(run.path / "encoder/image")}, {"encoder__image__width": 8}, r"encoder.width: .* saved encoder with fixed knobs"),
    ):
        with pytest.raises(UserError, match=said):
            ut.pretrain(pairs, "clip", encoder=encoder, split="split", out=tmp_path / "out", steps=1, **knobs)
    with pytest.raises(UserError, match="clip has several encoders and can't be combined with other methods"):
        ut.pretrain(pairs, "clip+simclr", modality="image_text", out=tmp_path / "out", steps=1)


def test_views_in_another_loop(pairs: Path) -> None:
    views = ut.views("image_text", pairs, method="clip", image__size=8, text__length=16, text__tokenizer="characters")
    from untaught.encoders.conv_small import ConvSmall
    from untaught.encoders.language import bert

    encoders = {"image": ConvSmall(**views.input["image"]), "text": bert(**views.input["text"], width=16, depth=1, heads=2)}
    method = ut.methods.CLIP(encoders["image"], encoders["text"], views.facts(encoders, rows=25), width=8)
    made = views(pairs, epoch=1)
    terms = method(made, 0.0)
    assert terms["info_nce"].isfinite()
    assert isinstance(made[0], View)
    assert views.used(pairs, "text").x.ndim == 2
