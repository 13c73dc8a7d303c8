"""A run of a density: bits per dimension on held-out images, completions of new ones, an encoder that takes another size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import untaught as ut
from untaught.core import View


def test_bits_per_dimension_completions_and_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = np.random.default_rng(0)
    images = drawn.choice([0, 255], (48, 8, 8), p=[0.7, 0.3]).astype(np.uint8)
    data = tmp_path / "images.npz"
    np.savez(data, train_images=images[:32], test_images=images[32:])
    knobs: dict[str, Any] = {
        "size": 8,
        "steps": 30,
        "batch_size": 16,
        "lr": 0.02,
        "evaluate_every": 0,
        "health_every": 0,
        "encoder__width": 16,
        "encoder__depth": 1,
    }
    ut.pretrain(data, method="pixelcnn", out=tmp_path / "run", **knobs)
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    found = {row["metric"]: row["mean"] for row in rows if row["features"] == "encoder"}
    assert found["bits_per_dim"] == pytest.approx(found["nll"] / math.log(2), rel=1e-4)
    assert found["bits_per_dim"] < 6  # 8 where nothing is learned
    said = capsys.readouterr().err
    assert f"{found['bits_per_dim']:.3f} bits per dimension on test" in said
    encoder = ut.Run(tmp_path / "run").encoder
    assert encoder(View(torch.zeros(2, 1, 12, 12))).shape == (2, encoder.width)

    assert "rounded" not in said
    frame = ut.predict(tmp_path / "run", images[32:36])
    assert isinstance(frame, pd.DataFrame)
    for answer, image in zip(frame["answer"], images[32:36], strict=True):
        assert np.array_equal(answer[:4, :, 0], image[:4]), "the upper half is given"
    for seen, image in zip(frame["input"], images[32:36], strict=True):
        assert np.array_equal(seen[:4, :, 0], image[:4])
        assert (seen[4:] == 128).all(), "nothing of the lower half is seen"
    assert any(not np.array_equal(answer[4:, :, 0], image[4:]) for answer, image in zip(frame["answer"], images[32:36], strict=True))


def test_a_density_of_finer_images_says_that_they_are_rounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (16, 8, 8), dtype=np.uint16)
    knobs: dict[str, Any] = {"size": 8, "steps": 1, "batch_size": 8, "evaluate_every": 0, "health_every": 0, "encoder__width": 4}
    ut.pretrain(images, "vae", out=tmp_path / "run", **knobs)
    assert "levels: images of 16 bits are rounded to 256 levels; bits per dimension are those of the rounded" in capsys.readouterr().err
