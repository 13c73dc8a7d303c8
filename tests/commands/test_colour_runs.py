"""Runs of colorization and inpainting, and what they make of new images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import untaught as ut
from untaught.core import UserError

SHORT: dict[str, Any] = {"steps": 3, "batch_size": 16, "evaluate_every": 0, "encoder": "conv_small", "encoder__width": 8}


def photos(count: int = 40) -> np.ndarray:
    """(N,24,24,3) uint8 of smooth random colours."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, (24, 24), mode="bilinear", align_corners=False)
    return (255 * smooth).byte().permute(0, 2, 3, 1).numpy()


def test_grey_photographs_are_coloured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = ut.pretrain(photos(), "colorization", out=tmp_path / "run", **SHORT)
    grey = tmp_path / "grey"
    grey.mkdir()
    for number in range(3):
        Image.fromarray(photos()[number]).convert("L").save(grey / f"{number}.png")
    Image.fromarray(photos()[3]).save(grey / "3.png")
    ut.predict(run.path, grey, out=tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.columns) == ["row", "name", "file", "ab_rmse", "ciede2000", "colourfulness", "true_colourfulness"]
    assert table["true_colourfulness"][:3].max() < 0.1
    for error in ("ab_rmse", "ciede2000"):
        assert list(table[error].isna()) == [True, True, True, False], "the true colours of grey photographs are unknown"
    said = capfd.readouterr().err
    assert "ab_rmse" in said
    assert "mean of 1 images" in said
    assert "mean of 4 images" in said
    assert table["colourfulness"].min() > 0.5
    drawn = np.asarray(Image.open(tmp_path / "out" / "0.png"))
    assert drawn.shape == (24, 24, 3)
    assert np.ptp(drawn.astype(int), 2).max() > 2


def test_holes_are_filled_and_the_rest_is_kept(tmp_path: Path) -> None:
    run = ut.pretrain(photos(), "inpainting", out=tmp_path / "run", **SHORT)
    new = tmp_path / "new"
    new.mkdir()
    Image.fromarray(photos()[0]).save(new / "a.png")
    ut.predict(run.path, new, out=tmp_path / "out")
    assert np.isfinite(pd.read_csv(tmp_path / "out" / "predictions.csv")["psnr"]).all()
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    changed = (drawn != photos()[0]).any(2)
    hole = np.zeros((24, 24), bool)
    hole[7:17, 7:17] = True  # half of the side, without a border of 1 pixel
    assert changed.any()
    assert not changed[~hole].any()


@pytest.mark.parametrize("method", ["colorization", "inpainting"])
def test_a_vit_learns_it_too(method: str, tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"encoder": "vit_mini", "encoder__embed_dim": 32, "encoder__depth": 1, "encoder__num_heads": 1}
    run = ut.pretrain(photos(), method, out=tmp_path / "run", **{"steps": 2, "batch_size": 16, "evaluate_every": 0, **knobs})
    assert torch.isfinite(torch.stack([p.norm() for p in run.encoder.parameters()])).all()


def test_grey_data_have_no_colours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the images are all grey"):
        ut.pretrain(photos()[..., :1].repeat(3, 3), "colorization", out=tmp_path / "three", **SHORT)
    with pytest.raises(UserError, match="images of 1 channel have no colours to predict"):
        ut.pretrain(photos()[..., :1], "colorization", out=tmp_path / "one", **SHORT)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"hole__side": 1.5}, "hole.side=1.5: the hole would be larger than the image"),
        ({"hole__side": 1.0, "hole__overlap": 0.0}, "a hole of 24 x 24 pixels leaves nothing"),
    ],
    ids=str,
)
def test_a_hole_larger_than_the_image_is_refused(knobs: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ut.pretrain(photos(), "inpainting", out=tmp_path / "run", **SHORT, **knobs)
