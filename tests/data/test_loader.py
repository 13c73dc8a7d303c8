"""Loader and stream: every row once an epoch, exact resume, ranks that join to the whole, the same contents."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import encoded, threads_end, write_pictures

from untaught.core import Modality, Preprocessor, UserError
from untaught.data.loader import HELD, Loader, hold, room
from untaught.data.parts import Part
from untaught.data.sources import open_source
from untaught.data.store import Store, pack
from untaught.data.stream import Stream

LAYOUT = {"side": 8}
ROWS = 70


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", [f"{i:03}.png" for i in range(ROWS)])


@pytest.fixture
def store(root: Path, pictures: Modality) -> Store:
    return pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))


def part_without_numbers(root: Path, pictures: Modality) -> Part:
    """As a table or an archive gives them: only one after the other."""
    part = open_source(root, pictures).parts["all"]
    return Part(part.rows, part.read)


@pytest.fixture(params=["loader", "held", "stream", "buffered stream"])
def make(request: pytest.FixtureRequest, root: Path, store: Store, pictures: Modality, monkeypatch: pytest.MonkeyPatch):
    """One interface, four ways to the rows: make(batch_size, seed, rank=, world=, drop_last=, shuffle=)."""

    def build(batch_size: int = 16, seed: int = 3, **options: Any):
        if request.param == "loader":
            return Loader(store, np.arange(ROWS), batch_size, seed, **options)
        if request.param == "held":
            monkeypatch.setattr("untaught.data.loader.room", lambda device: 1 << 30)
            return Loader(store, np.arange(ROWS), batch_size, seed, held=hold(store, torch.device("cpu")), **options)
        part = open_source(root, pictures).parts["all"] if request.param == "stream" else part_without_numbers(root, pictures)
        return Stream(part, Preprocessor(pictures, LAYOUT), batch_size, seed, buffer=20, **options)

    return build


def indices(batches) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def test_every_row_once_an_epoch(make, store: Store) -> None:
    batches = list(make(drop_last=False).batches(0))
    seen = [i for batch in indices(batches) for i in batch]
    assert sorted(seen) == list(range(ROWS))
    assert seen != sorted(seen)
    assert len(batches) == make(drop_last=False).steps_per_epoch == 5
    for batch in batches:
        assert torch.equal(batch["pixels"], torch.from_numpy(store.gather(batch["index"].numpy())["pixels"]))
    assert make().steps_per_epoch == len(list(make().batches(0))) == 4


def test_what_is_held_gives_the_same_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("untaught.data.loader.room", lambda device: 1 << 30)
    held = hold(store, torch.device("cpu"))
    assert held is not None
    assert held.keys() == store.columns.keys()
    for rank in range(2):
        plain, fast = (list(Loader(store, np.arange(60), 8, 3, rank, 2, held=where).batches(1, 2)) for where in (None, held))
        assert len(plain) == len(fast) == 5
        for a, b in zip(plain, fast, strict=True):
            assert list(a) == list(b)
            assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_only_what_fits_comfortably_and_can_be_gathered_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = sum(column.nbytes for column in store.columns.values())
    assert room(torch.device("cpu")) == 0
    assert hold(store, torch.device("cpu")) is None
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (int(columns / HELD), 1 << 40))
    assert room(torch.device("cuda")) == columns
    monkeypatch.setattr("untaught.data.loader.room", lambda device: columns - 1)
    assert hold(store, torch.device("cpu")) is None
    monkeypatch.setattr("untaught.data.loader.room", lambda device: columns)
    assert hold(store, torch.device("cpu")) is not None
    store.columns["pixels"] = store.columns["pixels"].astype(np.uint16)
    monkeypatch.setattr("untaught.data.loader.room", lambda device: 1 << 30)
    assert hold(store, torch.device("cpu")) is None


def test_epochs_differ_and_repeat(make) -> None:
    assert indices(make().batches(1)) == indices(make().batches(1))
    assert indices(make().batches(1)) != indices(make().batches(2))
    assert indices(make(seed=4).batches(1)) != indices(make().batches(1))


def test_exact_resume(make) -> None:
    whole = indices(make().batches(1))
    for step in range(5):
        assert indices(make().batches(1, step)) == whole[step:]


def test_rank_shares_join_to_the_global_batch(make) -> None:
    whole = indices(make(drop_last=False).batches(2))
    shares = [indices(make(rank=rank, world=4, drop_last=False).batches(2)) for rank in range(4)]
    for step, batch in enumerate(whole):
        assert sorted(i for share in shares for i in share[step]) == sorted(batch)
        assert shares[1][step] == batch[1::4]


def test_in_order(make) -> None:
    assert [i for batch in indices(make(shuffle=False, drop_last=False).batches(0)) for i in batch] == list(range(ROWS))


def test_bad_batch_sizes(make) -> None:
    with pytest.raises(UserError, match="batch_size 71 is larger than the data: 70 rows; choose at most 70"):
        make(71)
    for size, world in ((0, 1), (-4, 1), (15, 4)):
        with pytest.raises(UserError, match=f"batch_size {size}: must be"):
            make(size, world=world)


def test_closing_stops_the_threads(make) -> None:
    before = threading.active_count()
    batches = make(4).batches(0)
    next(batches)
    batches.close()
    assert threads_end(before)


def test_exceptions_come_out_at_the_consumer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()

    def broken(_: np.ndarray) -> dict[str, np.ndarray]:
        raise RuntimeError("no such column")

    monkeypatch.setattr(store, "gather", broken)
    with pytest.raises(RuntimeError, match="no such column"):
        list(Loader(store, np.arange(ROWS), 16, 0).batches(0))
    assert threads_end(before)


# --------------------------------------------------------------------------------------------------------- stream alone


def test_unreadable_records_in_a_stream(root: Path, pictures: Modality) -> None:
    for i in (3, 40, 41):
        (root / f"{i:03}.png").write_bytes(b"")
    part = open_source(root, pictures).parts["all"]
    training = Stream(part, Preprocessor(pictures, LAYOUT), 10, 0)
    batches = indices(training.batches(0))
    assert [len(batch) for batch in batches] == [10] * 7  # another of the batch stands in
    assert set(range(ROWS)) - {i for batch in batches for i in batch} == {3, 40, 41}
    assert set(training.skipped) == {"003.png", "040.png", "041.png"}
    assert indices(training.batches(0, 4)) == batches[4:]
    once = Stream(part, Preprocessor(pictures, LAYOUT), 10, 0, shuffle=False, drop_last=False)
    for batch in once.batches(0):
        assert once.names(batch["index"]) == [f"{int(i):03}.png" for i in batch["index"]]
    assert [len(batch["index"]) for batch in once.batches(0)] == [9, 10, 10, 10, 8, 10, 10]


def test_a_stream_of_nothing_readable(root: Path, pictures: Modality) -> None:
    for path in root.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of 10 images of a batch can be read"):
        list(Stream(open_source(root, pictures).parts["all"], Preprocessor(pictures, LAYOUT), 10, 0).batches(0))


def test_a_stream_without_end_known(pictures: Modality) -> None:
    import datasets

    rows = [{"image": encoded(i)} for i in range(25)]
    part = open_source(datasets.IterableDataset.from_generator(lambda: iter(rows)), pictures).parts["all"]
    stream = Stream(part, Preprocessor(pictures, LAYOUT), 10, 0, drop_last=False)
    assert stream.steps_per_epoch is None
    assert [len(batch["index"]) for batch in stream.batches(0)] == [10, 10, 5]


def test_ragged_batches_are_padded_as_the_stores(tokens: Modality) -> None:
    import pandas

    frame = pandas.DataFrame({"text": [" ".join(["7"] * (i % 5)) for i in range(12)]})
    source = open_source(frame, tokens)
    layout = {"ragged": ["ids"]}
    store = pack(source, Preprocessor(tokens, layout))
    for batch in Stream(source.parts["all"], Preprocessor(tokens, layout), 4, 0).batches(0):
        stored = store.gather(batch.pop("index").numpy())
        assert set(batch) == set(stored) == {"ids", "ids_valid", "sum"}
        assert all(torch.equal(batch[name], torch.from_numpy(stored[name])) for name in batch)


def test_resume_decodes_nothing_that_was_seen(root: Path, pictures: Modality) -> None:
    from dataclasses import replace

    decoded: list[str] = []

    def watched(record, layout):
        decoded.append(record["name"])
        return pictures.decode(record, layout)

    list(Stream(part_without_numbers(root, pictures), Preprocessor(replace(pictures, decode=watched), LAYOUT), 10, 0).batches(0, 5))
    assert len(decoded) == 20
