"""What a method's head makes of new data: the trained weights, files, tables, messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import untaught as ut
from untaught.core import Method, Preprocessor, UserError, View
from untaught.encoders.timm import timm_encoder, vit_mini
from untaught.evaluation.pretext import Answers, answer
from untaught.modalities.image import IMAGE
from untaught.pipeline.heads import load_heads
from untaught.pipeline.view_pipeline import used_view
from untaught.report.answers import NEAREST, PROTOTYPES, Sheets, nearest
from untaught.training import checkpoint

pytestmark = pytest.mark.usefixtures("bare_runs")
SHORT: dict[str, Any] = {"steps": 3, "size": 16, "batch_size": 16, "precision": "float32", "evaluate_every": 0}
SMALL: dict[str, Any] = {"encoder__embed_dim": 32, "encoder__depth": 2, "encoder__num_heads": 2}


def photos(count: int = 40, channels: int = 3) -> np.ndarray:
    """Images that are brighter at the top."""
    noise = np.random.default_rng(0).integers(0, 120, (count, 16, 16, channels))
    return (noise + np.linspace(120, 0, 16)[:, None, None]).astype(np.uint8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of a few steps: rotation, swav, and simclr on a convolutional encoder; dino on a ViT."""
    place = tmp_path_factory.mktemp("runs")
    conv: dict[str, Any] = {"encoder": "conv_small", "encoder__width": 4}
    for name, how in {"rotation": conv, "simclr": conv, "swav": conv, "dino": {"encoder": "vit_mini", **SMALL}}.items():
        ut.pretrain({"train": photos(32), "test": photos(8)}, name, out=place / name, **how, **SHORT)
    return {path.name: path for path in place.iterdir()}


@pytest.mark.parametrize("name", ["rotation", "swav", "dino"])
def test_the_method_is_the_trained_one(runs: dict[str, Path], name: str) -> None:
    heads = load_heads(runs[name])
    prep = heads.encoder.prep
    batch = {"pixels": torch.from_numpy(photos(4)).permute(0, 3, 1, 2), "aspect": torch.ones(4), "index": torch.arange(4)}
    method = heads.build(batch, heads.views(prep, 0))
    state = checkpoint.load(runs[name] / "checkpoints", print)
    assert state is not None
    assert not method.training
    trained, found = state["method"], method.state_dict()
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[key], trained[key]) for key in trained)
    own = load_file(runs[name] / "heads" / "model.safetensors")
    encoder = load_file(runs[name] / "encoder" / "model.safetensors")
    assert own.keys() < trained.keys()
    assert len(own.keys()) == len(trained.keys()) - len(encoder.keys()), "the exported encoder is not stored twice"


def test_a_folder_of_images_and_a_table(runs: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "photos"
    (data / "overview").mkdir(parents=True)
    for i, pixels in enumerate(photos(5)):
        Image.fromarray(pixels).save(data / "overview" / f"{i}.png")
    Image.fromarray(photos(1)[0]).save(data / "overview.png")
    assert ut.predict(runs["rotation"], data, tmp_path / "out") == tmp_path / "out"
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table) == ["row", "name", "file", "turned", "right"]
    assert sorted(table["name"]) == sorted([*(f"overview/{i}.png" for i in range(5)), "overview.png"])
    images = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert images == {"overview.png", "overview-2.png", *(f"overview_{i}.png" for i in range(5))}, "a sheet never replaces a sample"
    assert dict(zip(table["name"], table["file"], strict=True))["overview.png"] == "overview-2.png"
    frame = ut.predict(runs["rotation"], data)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["turned"]) == list(table["turned"])
    for name, turned, pixels in zip(frame["name"], frame["turned"], frame["answer"], strict=True):
        upright = np.rot90(np.asarray(Image.open(data / name)), -turned // 90)
        np.testing.assert_allclose(pixels.astype(int), upright.astype(int), atol=1)
    with pytest.raises(UserError, match="out already exists; choose another --out"):
        ut.predict(runs["rotation"], data, tmp_path / "out")
    for _ in range(2):  # a table of ours is replaced
        ut.predict(runs["rotation"], data, tmp_path / "table.csv")
        ut.predict(runs["rotation"], data, tmp_path / "table.parquet")
    assert pd.read_parquet(tmp_path / "table.parquet").equals(frame[["row", "name", "turned", "right"]])


def test_written_files_are_told_apart_and_found_by_their_row(runs: dict[str, Path], tmp_path: Path) -> None:
    data, pixels = tmp_path / "photos", photos(4)
    deep, leaf = data / ("\u5199" * 60), "\u771f" * 60
    deep.mkdir(parents=True)
    names = ["a.png", "a.bmp", "-A.png", f"{deep.name}/{leaf}.png"]  # the last one joined: over 255 bytes
    for name, one in zip(names, pixels, strict=True):
        Image.fromarray(one).save(data / name)
    ut.predict(runs["rotation"], data, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("row").sort_index()
    assert sorted(table["file"]) == sorted({file.lower(): file for file in table["file"]}.values()), "also where case does not count"
    for name, file, turned in zip(sorted(names), table["file"], table["turned"], strict=True):
        upright = np.rot90(np.asarray(Image.open(data / name)), -turned // 90)
        np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out" / file)).astype(int), upright.astype(int), atol=1)


def test_answers_that_are_not_finite_are_refused_but_a_perfect_one_is_not(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, float] = {}
    monkeypatch.setattr(
        "untaught.inference.pretext.answer", lambda *_: Answers({name: np.full(5, value) for name, value in found.items()}, {})
    )
    found |= {"psnr": np.inf, "ab_rmse": np.nan, "right": 1.0}
    ut.predict(runs["rotation"], photos(5))
    for name, value in (("psnr", np.nan), ("psnr", -np.inf), ("right", np.nan), ("colourfulness", np.inf)):
        with monkeypatch.context() as patch:
            patch.setitem(found, name, value)
            with pytest.raises(UserError, match="the network output is not finite for 5 of 5 samples"):
                ut.predict(runs["rotation"], photos(5))


def test_prototypes_are_those_of_the_trained_head(runs: dict[str, Path], tmp_path: Path) -> None:
    frame = ut.predict(runs["swav"], photos(10))
    assert isinstance(frame, pd.DataFrame)
    heads = load_heads(runs["swav"])
    prep = heads.encoder.prep
    batch = {"pixels": torch.from_numpy(photos(10)).permute(0, 3, 1, 2), "aspect": torch.ones(10), "index": torch.arange(10)}
    method: Any = heads.build(batch, heads.views(prep, 0))
    with torch.no_grad():
        z = method.projector(method.encoder(used_view(prep, "whole")(batch, 0)[0]))
        cosines = torch.nn.functional.cosine_similarity(z[:, None], method.prototypes.weight[None], dim=2)
    np.testing.assert_allclose(frame["prototype_score"], cosines.max(1).values, atol=2e-2)
    best = cosines.gather(1, torch.tensor(frame["prototype"].to_numpy())[:, None]).squeeze(1)
    np.testing.assert_allclose(best, cosines.max(1).values, atol=2e-2)
    ut.predict(runs["swav"], photos(10), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.csv", "overview.png", "prototypes.png"}


def test_the_nearest_images_of_the_most_used_prototypes() -> None:
    prototype, score = np.array([7, 3, 7, 9, 7]), np.array([0.1, 0.5, 0.9, 0.2, 0.4])
    image = np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 2, 2, 3)
    rows = np.stack(nearest(prototype, score, image))[..., 0, 0, 0].T
    assert rows.shape == (3, NEAREST)
    assert rows[:, :3].tolist() == [[2, 4, 0], [1, 255, 255], [3, 255, 255]]
    many = nearest(np.arange(40), np.zeros(40), np.zeros((40, 2, 2, 3), np.uint8))
    assert len(many[0]) == PROTOTYPES


def test_means_leave_out_what_is_infinite() -> None:
    sheets = Sheets()
    for psnr in ([10.0, np.inf], [20.0, 30.0]):
        sheets.add(Answers({"psnr": np.array(psnr), "turned": np.array([0, 90]), "ab_rmse": np.full(2, np.nan)}, {}))
    assert sheets.means() == {"psnr": 20.0}
    assert sheets.counts["psnr"] == 3


@pytest.mark.parametrize(("method", "knobs"), [("mae", {"normalise": False}), ("vae", {"views": "whole"})])
def test_answers_for_series(tmp_path: Path, method: str, knobs: dict[str, Any]) -> None:
    time = np.linspace(0, 6, 24)
    series = np.sin(time + np.random.default_rng(0).uniform(0, 6, (20, 1, 1)))
    how: dict[str, Any] = {"modality": "series", "steps": 2, "batch_size": 8, "evaluate_every": 0, "precision": "float32", **knobs}
    ut.pretrain({"train": series[:16], "test": series[16:]}, method, out=tmp_path / "run", encoder="patch_series", encoder__width=16, **how)
    frame = ut.predict(tmp_path / "run", series[16:])
    assert isinstance(frame, pd.DataFrame)
    assert list(frame) == ["row", "name", "rmse", "input", "answer"]
    assert (frame["rmse"] > 0).all()
    assert {image.shape for image in (*frame["input"], *frame["answer"])} == {(48, 96, 3)}
    ut.predict(tmp_path / "run", series[16:], tmp_path / "out")
    names = [f"the_array_row_{row}.png" for row in range(4)]
    expected = {"predictions.csv", "overview.png", *names} | ({"samples.png"} if method == "vae" else set())
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected


# ------------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("class_token", [True, False])
def test_attention_is_what_the_last_block_computes(class_token: bool) -> None:
    own = {} if class_token else {"class_token": False, "global_pool": "avg"}
    encoder: Any = timm_encoder("vit_tiny_patch16_224", size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, **own).eval()
    view = View(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    found = encoder.attention(view)
    assert found.shape == (2, 3, 16)
    last = encoder.model.blocks[-1]
    last.attn.fused_attn, weights = False, []
    last.attn.attn_drop.register_forward_hook(lambda module, given, result: weights.append(result))
    encoder(view)
    full = weights[0]  # (B,heads,N,N), as timm computes them
    want = full[:, :, 0, 1:] if class_token else full.mean(2)
    torch.testing.assert_close(found, want)


def test_attention_maps_of_a_run_are_of_its_exported_encoder(runs: dict[str, Path], tmp_path: Path) -> None:
    data = photos(3)
    frame = ut.predict(runs["dino"], data)
    assert isinstance(frame, pd.DataFrame)
    assert frame["attention"][0].shape == (16, 16, 3)
    encoder = ut.load(runs["dino"]).encoder
    view = used_view(ut.load(runs["dino"]).model.prep, "whole")
    batch = {"pixels": torch.from_numpy(data).permute(0, 3, 1, 2), "aspect": torch.ones(3), "index": torch.arange(3)}
    with torch.no_grad():
        want = answer(None, encoder, None, view, batch, bf16=False).images["attention"]
    np.testing.assert_allclose(np.stack(list(frame["attention"])).astype(int), want.astype(int), atol=4)  # bf16


def test_the_darkest_and_the_brightest_token() -> None:
    assert "attention" in vit_mini(size=16).offers
    prep = IMAGE
    statistics = {"mean": [0.0], "std": [1.0]}
    view = View(torch.ones(1, 1, 4, 4))
    drawn = prep.overlay(view, torch.tensor([[[0.2, 0.2], [0.2, 0.7]]]), {}, Preprocessor(prep, {}, statistics))  # type: ignore[misc]
    assert drawn[0, 0, 0, 0] < 50
    assert drawn[0, 3, 3, 0] == 255


# -------------------------------------------------------------------------------------------------------------- messages


def test_a_method_that_makes_nothing_says_which_do(runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"its method simclr makes nothing .* swav \(prototypes\), .* rotation \(images turned upright\)"):
        ut.predict(runs["simclr"], photos(2))


def test_a_run_of_an_earlier_version_says_how_to_add_the_heads(runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs["rotation"], tmp_path / "run")
    shutil.rmtree(run / "heads")
    with pytest.raises(UserError, match=r"rotation/encoder is the encoder alone; .* in the run folder: give .*rotation$"):
        ut.predict(runs["rotation"] / "encoder", photos(2))
    with pytest.raises(UserError, match=r"run has no heads/.* untaught pretrain --out .*run --resume"):
        ut.predict(run, photos(2))
    ut.pretrain({"train": photos(32), "test": photos(8)}, out=run, resume=True)
    assert load_file(run / "heads" / "model.safetensors").keys() == load_file(runs["rotation"] / "heads" / "model.safetensors").keys()


def test_a_fine_tuned_model_comes_first(runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs["rotation"], tmp_path / "run")
    labelled = {"train_images": photos(16), "train_labels": np.arange(16) % 2}
    np.savez(tmp_path / "labelled.npz", **labelled)
    ut.finetune(run, tmp_path / "labelled.npz", steps=2, scratch=False)
    frame = ut.predict(run, photos(2))
    assert isinstance(frame, pd.DataFrame)
    assert "label" in frame
    answers = ut.Run(run).solve(photos(2))
    assert isinstance(answers, pd.DataFrame)
    assert "right" in answers


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "nonsense"}, "unknown method nonsense"),
        ({"method": "jigsaw"}, "can't be loaded: in its config.json views=rotations: Jigsaw takes 2 views"),
        ({"views": [{"name": "rotations", "size": "large"}]}, "size"),
        ({"views": [{"size": 16}]}, "views must have names"),
        ({"rows": "many"}, "rows"),
        ({"knobs": None}, "knobs"),
    ],
)
def test_a_tampered_config_is_one_line(runs: dict[str, Path], tmp_path: Path, change: dict[str, Any], says: str) -> None:
    run = shutil.copytree(runs["rotation"], tmp_path / "run")
    config = json.loads((run / "heads" / "config.json").read_text())
    (run / "heads" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=says) as fault:
        ut.predict(run, photos(2))
    assert "\n" not in str(fault.value)


def test_other_or_missing_weights_are_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs["rotation"], tmp_path / "run")
    file = run / "heads" / "model.safetensors"
    weights = load_file(file)
    save_file({key: value for key, value in weights.items() if not key.endswith("bias")}, file)
    with pytest.raises(UserError, match="heads/ can't be used: its weights do not match rotation"):
        ut.predict(run, photos(2))
    file.unlink()
    with pytest.raises(UserError, match=r"heads.*model\.safetensors"):
        ut.predict(run, photos(2))
    file.symlink_to(runs["rotation"] / "heads" / "model.safetensors")
    with pytest.raises(UserError, match="leads outside"):
        ut.predict(run, photos(2))


def test_what_only_python_knows_is_not_saved(tmp_path: Path) -> None:
    class Mine(ut.methods.Rotation):  # type: ignore[misc]
        pass

    ut.pretrain(photos(32), Mine, encoder="conv_small", out=tmp_path / "run", encoder__width=4, **SHORT)
    assert not (tmp_path / "run" / "heads").exists()
    assert (tmp_path / "run" / "overview.png").exists()


def test_every_method_with_answers_reads_a_view_that_can_be_drawn() -> None:
    from untaught.config.registry import method_class, modality_named
    from untaught.methods import METHODS
    from untaught.modalities import MODALITIES

    kinds = [modality_named(name) for name in MODALITIES]
    for name in METHODS:
        cls = method_class(name)
        assert bool(cls.answers) == (cls.solve is not Method.solve), name
        assert bool(cls.generates) == (cls.sample is not Method.sample), name
        if cls.answers:
            assert any(cls.views[0] in kind.pretexts for kind in kinds), name


def test_a_row_is_restored_in_the_units_of_its_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    height = random.normal(170, 10, 200)
    table = pd.DataFrame({"height": height, "inches": height / 2.54, "tall": np.where(height > 170, "yes", "no")})
    run = ut.pretrain(table, "denoising", out=tmp_path / "run", modality="table", steps=150, batch_size=64)
    new = table.iloc[:20].assign(inches=[None if i % 2 else value for i, value in enumerate(table["inches"][:20])])
    found: Any = run.solve(new)
    assert list(found.columns)[:6] == ["row", "name", "rmse", "height.restored", "inches.restored", "tall.restored"]
    error = (found["inches.restored"].astype(float) - table["inches"][:20]).abs()
    assert error[1::2].mean() < table["inches"].std() / 2  # read from the height
    assert set(found["tall.restored"]) <= {"yes", "no"}
    run.solve(new, tmp_path / "restored.csv")
    assert pd.read_csv(tmp_path / "restored.csv")["inches.restored"].tolist() == pytest.approx(found["inches.restored"].tolist())
