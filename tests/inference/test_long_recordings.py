"""Long recordings are embedded in pieces, as in training: each row says which recording it is of, and which part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from untaught.core import Encoder, Features, Preprocessor, View
from untaught.data.pieces import records_of
from untaught.data.sources import open_source
from untaught.data.store import pack
from untaught.inference.embed import Embedder, vectors_of
from untaught.modalities.audio import AUDIO
from untaught.modalities.audio.decode import plan
from untaught.pipeline.dataset import in_pieces
from untaught.pipeline.pretrained import Pretrained

soundfile = pytest.importorskip("soundfile", reason="pip install untaught[audio]")
RATE = 8000
SECONDS = (0.3, 1.0, 0.4, 0.9)  # of the recordings; the second and the last are cut into three
OF = [0, 1, 1, 1, 2, 3, 3, 3]


class Loudest(Encoder):
    """The loudest band of each sample, by which the tone is known again, and its number of frames."""

    width = 2

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        valid: Tensor = view.valid
        level = (view.x * valid.unsqueeze(2)).sum(1)
        return Features(pooled=torch.stack([level.argmax(1), valid.sum(1)], 1).float())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "sound"
    place.mkdir()
    for number, seconds in enumerate(SECONDS):
        time = np.arange(round(seconds * RATE)) / RATE
        soundfile.write(place / f"{number}.wav", 0.5 * np.sin(2 * np.pi * (300 + 600 * number) * time), RATE)
    return place


def model(folder: Path) -> Pretrained:
    settings = plan(list(next(iter(open_source(folder, AUDIO).parts.values()))), {"segment": 0.4})
    return Pretrained(Loudest().eval(), {"view": "whole"}, Preprocessor(AUDIO, settings, {"mean": [-9.0], "std": [3.0]}))


def check(vectors: Any) -> None:
    assert vectors.rows.tolist() == OF
    assert [name.split(".wav")[0][-1] for name in vectors.names] == [str(number) for number in OF]
    assert [name.partition(".wav")[2] for name in vectors.names][1:4] == [" 0.00-0.33 s", " 0.33-0.67 s", " 0.67-1.00 s"]
    bands = [vectors[vectors.rows == number, 0] for number in range(4)]
    assert all(len(set(each.tolist())) == 1 for each in bands)
    assert bands[0][0] < bands[1][0] < bands[2][0] < bands[3][0]
    assert vectors[:, 1].tolist() == [31, 34, 34, 34, 41, 31, 31, 31]


@pytest.mark.parametrize("batch_size", [3, 100])
def test_a_row_is_a_piece_and_knows_its_recording(batch_size: int, folder: Path) -> None:
    check(vectors_of(Embedder(model(folder), folder, batch_size=batch_size)))


def test_what_a_run_has_packed_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = model(folder)
    pack(in_pieces(open_source(folder, AUDIO), found.prep), found.prep)
    monkeypatch.setattr("untaught.inference.embed.Stream", None)
    check(vectors_of(Embedder(found, folder)))


def test_rows_count_over_parts_and_unreadable_recordings(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / part).mkdir()
    for number, part in enumerate(("train", "train", "test", "test")):
        (folder / f"{number}.wav").rename(folder / part / f"{number}.wav")
    found = model(folder)
    (folder / "train" / "0.wav").write_bytes(b"no sound")
    vectors = vectors_of(Embedder(found, folder))
    assert vectors.rows is not None
    assert vectors.rows.tolist() == OF[1:]


def test_recordings_that_are_not_cut_have_a_row_each(folder: Path) -> None:
    found = model(folder)
    found.prep.settings["segment"] = 2.0
    vectors = vectors_of(Embedder(found, folder))
    assert vectors.rows is not None
    assert vectors.rows.tolist() == [0, 1, 2, 3]
    source = open_source(folder, AUDIO)
    assert in_pieces(source, found.prep) is source
    assert np.array_equal(records_of(source, np.arange(4)), np.arange(4))
