"""Fixtures of the data tests: two tiny modalities and a cache of its own for every test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import decode_picture, make_modality

from untaught.core import Modality, Preprocessor, Record
from untaught.data import table


@pytest.fixture
def pictures() -> Modality:
    return make_modality(
        name="picture",
        noun="images",
        fields={"image": ("image", "img", "images")},
        suffixes=frozenset({".png", ".jpg"}),
        decode=decode_picture,
        fit=lambda batch, prep: {"mean": batch["pixels"].float().mean().item()},
    )


@pytest.fixture
def tokens() -> Modality:
    """ "3 1 4" -> ids (3,), and their sum."""

    def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
        ids = np.array([int(word) for word in record["text"].split()], np.int32)
        return {"ids": ids, "sum": ids.sum(dtype=np.int64)}

    return make_modality(
        name="tokens", noun="texts", fields={"text": ("text", "body")}, suffixes=frozenset({".txt"}), lines=True, decode=decode
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNTAUGHT_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read is tried again at once."""
    monkeypatch.setattr(table, "PAUSES", (0.0, 0.0, 0.0))
