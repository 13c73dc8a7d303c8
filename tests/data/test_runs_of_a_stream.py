"""Runs are the documents behind each other, cut: against a plain concatenation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from untaught.core import Modality, Preprocessor
from untaught.data.loader import Loader
from untaught.data.runs import Runs
from untaught.data.sources import open_source
from untaught.data.store import Store, pack

LENGTHS = [5, 1, 17, 2, 40, 3, 3, 11]


@pytest.fixture
def store(tokens: Modality, tmp_path: Any) -> Store:
    """Document i holds 100 i, 100 i + 1 ..."""
    for i, length in enumerate(LENGTHS):
        (tmp_path / f"{i}.txt").write_text(" ".join(str(100 * i + t) for t in range(length)))

    def decode(record: dict[str, Any], prep: Preprocessor) -> dict[str, np.ndarray]:
        return {"ids": np.array([int(word) for word in record["text"].read_text().split()], np.int32)}

    modality = Modality(**{**tokens.__dict__, "decode": decode})
    return pack(open_source(tmp_path, modality), Preprocessor(modality, {"ragged": ["ids"]}))


def stream(rows: list[int]) -> list[int]:
    return [100 * i + t for i in rows for t in range(LENGTHS[i])]


@pytest.mark.parametrize("length", [2, 5, 9, 82])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6, 7], [6, 2, 4], [4], [1, 3]], ids=str)
def test_runs_are_a_plain_concatenation_cut(store: Store, rows: list[int], length: int) -> None:
    runs, want = Runs(store, "ids", np.array(rows), length), stream(rows)
    assert len(runs) == max((len(want) - 1) // (length - 1), 0)
    found = runs.gather(np.arange(len(runs)))["ids"] if len(runs) else np.zeros((0, length), np.int32)
    assert found.shape == (len(runs), length)
    assert found.dtype == np.int32
    for i, row in enumerate(found.tolist()):
        assert row == want[i * (length - 1) : i * (length - 1) + length]


def test_every_value_but_the_first_is_once_behind_another(store: Store) -> None:
    runs = Runs(store, "ids", np.arange(8), 10)
    behind = runs.gather(np.arange(len(runs)))["ids"][:, 1:].ravel().tolist()
    assert behind == stream(list(range(8)))[1 : 1 + len(behind)]
    assert 0 <= len(stream(list(range(8)))) - 1 - len(behind) < 9


def test_runs_come_in_any_order(store: Store) -> None:
    runs = Runs(store, "ids", np.arange(8), 7)
    order = np.random.default_rng(0).permutation(len(runs))
    assert np.array_equal(runs.gather(order)["ids"], runs.gather(np.arange(len(runs)))["ids"][order])


def test_names_are_of_the_documents_that_they_begin_in(store: Store) -> None:
    runs = Runs(store, "ids", np.arange(8), 6)
    firsts = runs.gather(np.arange(len(runs)))["ids"][:, 0]
    assert runs.names(np.arange(len(runs))) == [f"{value // 100}.txt" for value in firsts]


@pytest.mark.parametrize("rows", [[], [1], [3]], ids=["none", "one value", "two values"])
def test_too_little_for_a_run_is_none(store: Store, rows: list[int]) -> None:
    assert len(Runs(store, "ids", np.array(rows, int), 4)) == 0


def test_a_loader_shuffles_them_as_rows(store: Store) -> None:
    runs = Runs(store, "ids", np.arange(8), 5)
    loader = Loader(runs, np.arange(len(runs)), 4, seed=0)
    batches = list(loader.batches(0))
    assert len(batches) == len(runs) // 4
    index = np.concatenate([batch["index"].numpy() for batch in batches])
    assert len(set(index.tolist())) == len(index)
    for batch in batches:
        assert np.array_equal(batch["ids"].numpy(), runs.gather(batch["index"].numpy())["ids"])
        assert set(batch) == {"ids", "index"}  # nothing is padded
