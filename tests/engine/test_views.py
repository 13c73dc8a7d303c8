"""The views of a batch: each position and epoch draws its own."""

from __future__ import annotations

import torch

from untaught.engine.views import Views
from untaught.modalities.image import IMAGE

LAYOUT = {"size": 16, "side": 16, "channels": 3, "bits": 8, "preset": "small"}
PIXELS = torch.randint(256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BATCH = {"pixels": PIXELS, "aspect": torch.ones(6), "index": torch.arange(6) + 10}


def test_views_of_one_name_differ_sample_by_sample_and_each_follows_from_its_place() -> None:
    options = [IMAGE.presets(LAYOUT)["global"]] * 2
    views = Views(("global", "global"), IMAGE, options, {"mean": [0.5] * 3, "std": [0.2] * 3}, seed=1)
    first, second = (view.x for view in views(BATCH, 0))
    assert (first - second).abs().mean((1, 2, 3)).min() > 0.05
    assert torch.equal(views.one(BATCH, 0, 1).x, second)
    assert all((a - b).abs().mean() > 0.01 for a, b in zip((first, second), (view.x for view in views(BATCH, 1)), strict=True))
    for view in views(BATCH, 0):
        assert view.where is not None
        assert torch.equal(view.where["index"], BATCH["index"])
