"""A modality without channels and size goes through every command: nothing outside modalities/ asks for either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import untaught as ut
from untaught.config.registry import modality_table
from untaught.core import UserError, View
from untaught.modalities import MODALITIES

KNOBS: dict[str, Any] = {"batch_size": 32, "precision": "float32", "encoder__width": 16, "encoder__depth": 1, "seed": 1}


@pytest.fixture(scope="module", autouse=True)
def point(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODALITIES, "point", "point:POINT")
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def clusters(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Points (rows,6) around two centres, and which of the two."""
    random = np.random.default_rng(seed)
    label = np.arange(rows) % 2
    return {"point": (random.normal(size=(rows, 6)) + 2 * label[:, None]).astype(np.float32), "label": label}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "points.npz"
    parts = {part: clusters(rows, seed) for seed, (part, rows) in enumerate({"train": 160, "test": 60}.items())}
    np.savez(path, **{f"{part}_{name}s": value for part, found in parts.items() for name, value in found.items()})  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ut.Run:
    """Interrupted after 6 steps and resumed: pretrain, export, report."""
    out = tmp_path_factory.mktemp("runs") / "run"
    ut.pretrain(data, out=out, modality="point", steps=6, **KNOBS)
    return ut.pretrain(data, out=out, resume=True, steps=12, **KNOBS)


def test_it_is_pretrained_and_resumed_bit_for_bit(run: ut.Run, data: Path, tmp_path: Path) -> None:
    again = ut.pretrain(data, out=tmp_path / "run", modality="point", steps=12, schedule="constant", **KNOBS)
    half = ut.pretrain(data, out=tmp_path / "half", modality="point", steps=6, schedule="constant", **KNOBS)
    half = ut.pretrain(data, out=half.path, resume=True, steps=12, schedule="constant", **KNOBS)
    states = [ut.Run(one.path).encoder.state_dict() for one in (again, half)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert run.config["encoder"] == "mlp"
    assert run.config["layout"] == {"inputs": 6}


def test_its_page_and_its_pictures_are_drawn(run: ut.Run, data: Path, tmp_path: Path) -> None:
    assert (run.path / "views.png").stat().st_size > 500
    assert "<svg" in (run.path / "report.html").read_text()
    assert ut.preview(data, out=tmp_path / "views.png", modality="point").stat().st_size > 500


def test_it_is_measured_beside_its_baselines(run: ut.Run, data: Path) -> None:
    rows = run.evaluate()
    mean = {row["features"]: row["mean"] for row in rows if (row["probe"], row["labels"], row["metric"]) == ("knn20", "all", "accuracy")}
    assert mean.keys() == {"encoder", "random_init", "raw"}
    assert mean["raw"] > 0.95
    module = nn.Linear(6, 3)
    assert {row["features"] for row in ut.evaluate(module, data, modality="point")} == {"encoder", "random_init", "raw"}
    with pytest.raises(UserError, match="timm/resnet18 takes images, not points"):
        ut.evaluate(run, against=["timm/resnet18"])


def test_it_is_fine_tuned_and_predicts(run: ut.Run, data: Path, tmp_path: Path) -> None:
    model = run.finetune(data, out=tmp_path / "model", steps=20, batch_size=32, scratch=False)
    new = clusters(40, 9)
    table = model.predict(new["point"])
    assert (table["label"].astype(int).to_numpy() == new["label"]).mean() > 0.9


def test_it_is_embedded(run: ut.Run) -> None:
    vectors = run.embed(clusters(12, 3)["point"])
    assert vectors.shape == (12, 16)


def test_it_is_exported(run: ut.Run) -> None:
    exported = ut.Run(run.path).export("torch")
    assert exported.deviation < 1e-4
    program = torch.export.load(exported.path).module()
    x = torch.from_numpy(clusters(5, 4)["point"])
    torch.testing.assert_close(program(x).detach(), run.encoder(View(x)).detach(), atol=1e-4, rtol=0)


def test_a_module_is_its_encoder(data: Path, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    run = ut.pretrain(data, encoder=module, out=tmp_path / "run", modality="point", steps=2, batch_size=32)
    assert json.loads((run.path / "encoder" / "config.json").read_text())["width"] == 8


def test_it_is_found_by_what_can_read_the_data(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ut.pretrain(data, out=tmp_path / "run", steps=2, **KNOBS)
    assert "modality  point" in capsys.readouterr().err
    assert "point" in modality_table()
