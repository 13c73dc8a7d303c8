"""`untaught report` and `untaught export` as a user types them, on a run that a user made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Cli
from PIL import Image

import untaught as ut

TINY = ("steps=3", "encoder.width=8", "size=16", "batch_size=8", "precision=float32")


@pytest.fixture(scope="session")
def shown(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on labelled images in class folders."""
    place = tmp_path_factory.mktemp("shown")
    for i in range(32):
        folder = place / "photos" / ("<b>cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 128 * (1 + i % 2), (20, 20, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    done = cli("pretrain", place / "photos", *TINY, "--out", place / "run")
    assert done.code == 0, done.err
    assert f"torch.export.load('{place}/run/encoder/model.pt2').module(): largest difference" in done.err
    assert f"report    {place}/run/report.html" in done.err
    return place / "run"


def test_a_run_ends_with_its_page_and_an_export(shown: Path) -> None:
    page = (shown / "report.html").read_text()
    for heading in ("What to try next", "Evaluation", "Training", "Views", "Nearest neighbours", "Map of the embedding"):
        assert heading in page
    assert "&lt;b&gt;cats" in page
    assert "<b>cats" not in page
    with np.load(shown / "sample.npz") as sample:
        assert sample["features"].shape == (32, ut.load(shown).encoder.width)
        assert sample["thumbnail"].shape == (32, 16, 16, 3)
        assert sample["held_out"].sum() == 6
        assert set(sample["label"]) == {"<b>cats", "dogs"}
        own: Any = ut.load(shown).embed(np.stack([np.asarray(Image.open(shown.parent / "photos" / name)) for name in sample["name"][:3]]))
        np.testing.assert_allclose(own, sample["features"][:3], atol=0.05)
    assert Image.open(shown / "views.png").width > 3 * 96


def test_the_data_may_go(cli: Cli, shown: Path, tmp_path: Path) -> None:
    """A run keeps what its page and its exports need."""
    moved = shutil.copytree(shown, tmp_path / "moved")
    run = (moved / "run.yaml").read_text().replace(str(shown.parent / "photos"), "/nowhere")
    (moved / "run.yaml").write_text(run)
    for command in (("report", moved), ("export", moved), ("export", moved / "encoder")):
        done = cli(*command, COLUMNS="40")
        assert done.code == 0, done.err
        assert "Traceback" not in done.err


def test_a_crashed_run_has_a_page(cli: Cli, shown: Path, tmp_path: Path) -> None:
    for name in ("run.yaml", "metrics.jsonl", "views.png"):
        shutil.copy(shown / name, tmp_path / name)
    assert cli("report", tmp_path).code == 0
    assert "Training has not ended" in (tmp_path / "report.html").read_text()
    assert "holds no encoder" in cli("export", tmp_path).error


@pytest.mark.parametrize("command", ["report", "export"])
def test_wrong_paths(cli: Cli, command: str, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in cli(command, tmp_path / "nowhere").error
    assert {"report": "is not a run folder", "export": "holds no"}[command] in cli(command, tmp_path).error
    assert list(tmp_path.iterdir()) == []


def test_wrong_exports(cli: Cli, shown: Path) -> None:
    assert "--to tflite: unknown format; known: timm, transformers, torch, onnx" in cli("export", shown, "--to", "tflite").error
    assert "timm can't build conv_small" in cli("export", shown, "--to", "timm").error
    assert "not found" in cli("export", shown, "--data", "/no/such/data").error


def test_a_module_of_the_users_own_is_exported_from_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 16, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 1), dtype=np.uint8)
    ut.pretrain(pixels, encoder=module, out=tmp_path / "run", size=16, steps=2, batch_size=8)
    assert f"export    torch.export.load('{tmp_path / 'run'}/encoder/model.pt2').module(): largest difference" in capfd.readouterr().err
    assert "no command can reproduce this run" in (tmp_path / "run" / "report.html").read_text()
    assert "architecture" not in json.loads((tmp_path / "run" / "encoder" / "config.json").read_text())
