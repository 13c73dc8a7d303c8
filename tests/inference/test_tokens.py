"""The vectors of tokens and maps of new data: their order, grid and files, for samples of one size and of different lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from untaught.config.registry import modality_named
from untaught.core import Encoder, Features, Preprocessor, UserError, View
from untaught.encoders.patch_series import PatchSeries
from untaught.inference.embed import Embedder, grid_beside, rows_beside, write_vectors
from untaught.inference.tokens import TokenEmbedder, tokens_of, write_tokens
from untaught.pipeline.pretrained import Pretrained

PREP = Preprocessor(
    modality_named("image"), {"size": 8, "side": 8, "channels": 3, "bits": 8, "preset": "small"}, {"mean": [0.0] * 3, "std": [1.0] * 3}
)
SERIES = Preprocessor(
    modality_named("series"),
    {"channels": 1, "length": 8, "missing": False, "standardise": "channel", "ragged": ["values"]},
    {"mean": [0.0], "std": [1.0]},
)


class Quarters(Encoder):
    """Maps of 4 x 8 and 2 x 4 places: means of the pixels at each. Its places are those of the last one."""

    width = 3
    offers = frozenset({"maps"})

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        maps = [torch.nn.functional.adaptive_avg_pool2d(view.x, size) for size in ((4, 8), (2, 4))]
        return Features(pooled=view.x.mean((2, 3)), maps=maps)


class Pooled(Encoder):
    width = 3

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=view.x.mean((2, 3)))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))


def images() -> np.ndarray:
    return np.random.default_rng(0).random((7, 8, 8, 3)).astype(np.float32)


def embedder(encoder: Encoder | None = None, data: Any = None) -> TokenEmbedder:
    return TokenEmbedder(Pretrained(encoder or Quarters(), {"view": "whole"}, PREP), images() if data is None else data, batch_size=3)


def expected() -> np.ndarray:
    """Place (i,j) of a 2 x 4 grid is the mean of 4 x 2 pixels; row-major."""
    pixels = (images() * 255).round() / 255  # stored as bytes
    return np.stack([pixels[:, 4 * i : 4 * i + 4, 2 * j : 2 * j + 2].mean((1, 2)) for i in range(2) for j in range(4)], 1)


def test_vectors_are_those_of_the_last_map_in_row_major_order() -> None:
    found = tokens_of(embedder())
    assert found.grid == (2, 4)
    assert found.shape == (7, 8, 3)
    assert found.rows is not None
    assert found.rows.tolist() == list(range(7))
    np.testing.assert_allclose(found, expected(), atol=0.01)


def test_npy_has_the_grid_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "t.npy"
    assert write_tokens(embedder(), out) == 7
    assert np.array_equal(np.load(out), tokens_of(embedder()))
    assert np.load(rows_beside(out)).tolist() == list(range(7))
    assert json.loads(grid_beside(out).read_text()) == {"grid": [2, 4], "width": 3}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"t.npy", "t.rows.npy", "t.grid.json"}


def test_parquet_has_a_list_of_vectors_and_the_grid_in_its_schema(tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    write_tokens(embedder(), out)
    table = parquet.read_table(out)
    assert json.loads(table.schema.metadata[b"grid"]) == [2, 4]
    assert table["row"].to_pylist() == list(range(7))
    np.testing.assert_array_equal(np.array(table["tokens"].to_pylist(), np.float32), tokens_of(embedder()))


def test_samples_of_different_lengths_are_lists_without_padding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchSeries(channels=1, length=8, patch=2, width=4, depth=1, heads=1).eval()
    lengths = [8, 4, 6, 2]
    data = pa.table({"series": [np.random.default_rng(0).normal(size=length).tolist() for length in lengths]})
    make = lambda: TokenEmbedder(Pretrained(encoder, {"view": "whole"}, SERIES), data, batch_size=2)  # noqa: E731
    out = tmp_path / "t.parquet"
    assert write_tokens(make(), out) == 4
    table = parquet.read_table(out)
    assert [len(tokens) for tokens in table["tokens"].to_pylist()] == [4, 2, 3, 1]
    assert table.schema.metadata is None or b"grid" not in table.schema.metadata
    with pytest.raises(UserError, match=r"differ in their number of tokens, which \.npy can't hold; give out=FILE\.parquet"):
        write_tokens(make(), tmp_path / "t.npy")
    assert not (tmp_path / "t.npy").exists()


def test_an_encoder_of_pooled_vectors_alone_is_refused() -> None:
    with pytest.raises(UserError, match="Pooled offers neither tokens nor maps, only pooled vectors"):
        embedder(Pooled())


def test_a_file_of_ours_is_replaced_and_no_grid_of_it_is_left(tmp_path: Path) -> None:
    pooled = Embedder(Pretrained(Quarters(), {"view": "whole"}, PREP), images())
    for name in ("t.npy", "t.parquet"):
        out = tmp_path / name
        for _ in range(2):
            assert write_tokens(embedder(), out) == 7
        for _ in range(2):
            assert write_vectors(pooled, out) == 7
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"t.npy", "t.rows.npy", "t.parquet"}
    assert write_tokens(embedder(), tmp_path / "t.npy") == 7
    mine = tmp_path / "mine.npy"
    np.save(mine, np.zeros((2, 3, 4), np.float32))
    with pytest.raises(UserError, match=r"mine\.npy already exists and was not written by untaught"):
        write_tokens(embedder(), mine)
