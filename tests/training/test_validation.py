"""The loss on held-out samples: of which part, each sample counted once, with nothing of training left on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import dataset
from torch import nn

from untaught.core import Method, Terms, View
from untaught.pipeline.view_pipeline import Views
from untaught.training import validation as held_out
from untaught.training.validation import HeldOut, both


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))


class Brightness(Method):
    """The mean brightness of a batch, twice as large in training."""

    views = ("whole",)

    def __init__(self) -> None:
        super().__init__()
        self.encoder: Any = nn.Identity()

    def forward(self, views: list[View], progress: float) -> Terms:
        self.pending.append(0)
        return {"brightness": views[0].x.mean() * (2 if self.training else 1), "progress": torch.tensor(progress)}


VALUES = {"train": 200, "val": np.arange(40), "test": 100 + np.arange(20)}  # the brightness of each image


def measured(parts: list[str], batch_size: int = 16) -> tuple[HeldOut, Brightness]:
    values = [np.broadcast_to(VALUES[part], 30 if part == "train" else len(VALUES[part])) for part in parts]
    frame = pd.DataFrame({"split": np.repeat(parts, [len(v) for v in values]), "label": "x"})
    frame["image"] = [np.full((16, 16), value, np.uint8) for value in np.concatenate(values)]
    found = dataset(frame)
    prep = replace(found.prep, statistics={"mean": [0.0], "std": [1.0]})
    views = Views(("whole",), prep, [prep.presets()["whole"]], 0)
    method = Brightness()
    return HeldOut(method, views, found, torch.device("cpu"), False, batch_size), method


@pytest.mark.parametrize(
    ("parts", "part", "mean"), [("train val test", "val", 19.5), ("train val", "val", 19.5), ("train test", "test", 109.5)]
)
def test_it_is_the_mean_over_samples_of_val_else_of_test(parts: str, part: str, mean: float) -> None:
    made, method = measured(parts.split())
    assert made.part == part
    found = made()
    assert found == {"held_out_brightness": pytest.approx(mean / 255, rel=1e-5), "held_out_progress": pytest.approx(1.0)}
    assert method.training
    assert method.pending == []


def test_of_many_samples_some_are_measured_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST", 15)
    made, _ = measured(["train", "val"])
    assert made()["held_out_brightness"] * 255 == pytest.approx(np.arange(0, 40, 3).mean(), rel=1e-5)


def test_two_measurements_are_one() -> None:
    second = lambda: {"b": 2.0}  # noqa: E731
    assert both(None, second) is second
    assert both(lambda: {"a": 1.0}, second)() == {"a": 1.0, "b": 2.0}
