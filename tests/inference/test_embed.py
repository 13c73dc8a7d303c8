"""Vectors and predictions say which of the given records they are of, in every format, and are finite or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from torch import nn

from untaught.api import Model, Run
from untaught.config.registry import modality_named
from untaught.core import Encoder, Features, Preprocessor, UserError, View
from untaught.data.sources import open_source
from untaught.data.store import pack
from untaught.inference.embed import Embedder, rows_beside, vectors_of, write_vectors
from untaught.inference.predict import Predictor, write_predictions
from untaught.pipeline.pretrained import Pretrained

LAYOUT: Any = {"size": 8, "side": 8, "channels": 3, "bits": 8, "preset": "small"}
STATISTICS = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
PREP = Preprocessor(modality_named("image"), LAYOUT, STATISTICS)
CONFIG: Any = {"view": "whole"}
THERE = [0, 1, 3, 4, 5, 7, 8, 10]  # by part: train, then test


class Mean(Encoder):
    """The mean of each channel, by which an image is known again."""

    width = 3

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=view.x.mean((2, 3)))


class First(nn.Module):
    """A fine-tuned network whose outputs are the first features of its encoder."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.encoder, self.outputs = Mean(), outputs

    def forward(self, view: View) -> torch.Tensor:
        return self.encoder(view)[:, : self.outputs]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))


def records() -> dict[str, np.ndarray]:
    """Eleven float images of one value each, in the order in which they are numbered; 2, 6 and 9 can't be read."""
    pixels = np.ones((11, 8, 8, 3), np.float32) * np.arange(11, dtype=np.float32)[:, None, None, None] / 16
    pixels[[2, 6, 9], 0, 0, 0] = np.nan
    return {"test_images": pixels[7:], "train_images": pixels[:7]}


def embedder(network: Any = None, batch_size: int = 3) -> Embedder:
    return Embedder(Pretrained(network or Mean(), CONFIG, PREP), records(), batch_size=batch_size)


@pytest.mark.parametrize("kept", [False, True])
def test_rows_are_numbered_as_they_were_given(capsys: pytest.CaptureFixture[str], kept: bool) -> None:
    if kept:  # by a run on the same data
        image = modality_named("image")
        pack(open_source(records(), image), Preprocessor(image, LAYOUT))
    vectors = vectors_of(embedder())
    assert vectors.rows is not None
    assert vectors.rows.tolist() == THERE
    assert np.allclose(vectors[:, 0], np.array(THERE) / 16, atol=0.01)
    assert vectors.names == [*(f"train row {i}" for i in (0, 1, 3, 4, 5)), *(f"test row {i}" for i in (0, 1, 3))]
    assert "skipped 3 that are not readable images" in capsys.readouterr().err
    assert getattr(vectors[:2], "rows", 0) is None  # of a slice it would be wrong


def test_files_say_it_too(tmp_path: Path) -> None:
    write_vectors(embedder(), tmp_path / "v.parquet")
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["row", "name", "vector"]
    assert table["row"].to_pylist() == THERE
    assert write_vectors(embedder(), tmp_path / "v.npy") == 8
    assert rows_beside(tmp_path / "v.npy") == tmp_path / "v.rows.npy"
    assert np.load(tmp_path / "v.rows.npy").tolist() == THERE
    assert np.array_equal(np.load(tmp_path / "v.npy"), np.array(table["vector"].to_pylist(), np.float32))


def test_predictions_say_it_too() -> None:
    config = {**CONFIG, "task": "classify", "classes": ["a", "b", "c"], "temperature": 1.0}
    tables = list(Predictor(Pretrained(First(3), config, PREP), records(), batch_size=3))
    assert [row for table in tables for row in table["row"].to_pylist()] == THERE


def test_predictions_are_counted_over_all_batches(tmp_path: Path) -> None:
    config = {**CONFIG, "task": "classify", "classes": ["a", "b", "c"], "temperature": 1.0}
    assert write_predictions(Predictor(Pretrained(First(3), config, PREP), records(), batch_size=3), tmp_path / "said.parquet") == 8
    assert parquet.read_table(tmp_path / "said.parquet")["row"].to_pylist() == THERE


def test_vectors_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    class Broken(Mean):
        def forward(self, view: View) -> torch.Tensor:
            return 1 / ((super().forward(view) * 16).round() - 3)  # of the fourth image an infinity

    for out in ("v.npy", "v.parquet"):
        with pytest.raises(UserError, match=r"not finite for 1 of 3 samples, first train row 3"):
            write_vectors(embedder(Broken()), tmp_path / out)
    assert [*tmp_path.iterdir()] == []


def test_a_run_reads_the_column_that_is_named() -> None:
    run = Run("run", Pretrained(Mean(), CONFIG, PREP))
    pixels = np.ones((4, 8, 8, 3), np.float32)
    data = {"image": pixels * 0.25, "other": pixels * 0.75}
    assert np.allclose(run.embed(data, columns={"image": "other"}), 0.75, atol=0.01)


def test_so_does_a_model(tmp_path: Path) -> None:
    config = {**CONFIG, "task": "regress", "mean": 0.0, "std": 1.0}
    model = Model(tmp_path, Pretrained(First(1), config, PREP))
    pixels = np.ones((4, 8, 8, 3), np.float32)
    data = {"image": pixels * 0.25, "other": pixels * 0.75}
    assert np.allclose(model.predict(data, columns={"image": "other"})["value"], 0.75, atol=0.01)
