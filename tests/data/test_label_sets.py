"""Several classes a sample: how lists, separated text, 0/1 columns and matrices are read, and that nothing is guessed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from untaught.core import Preprocessor, UserError
from untaught.data.labels import hold_out, rarest
from untaught.data.sources import Source, open_source
from untaught.data.store import Store, pack
from untaught.modalities.text import TEXT

TEXTS = [f"text {number}" for number in range(6)]
SETS: list[list[str] | None] = [["dog", "beach"], ["dog"], [], None, ["cat", "beach"], ["cat"]]
WANTED = [{"dog", "beach"}, {"dog"}, set(), None, {"cat", "beach"}, {"cat"}]


def named(source: Source) -> list[set[str] | None]:
    """The class names of every row; None without a label."""
    assert source.classes is not None
    labels = [record["label"] for part in source.parts.values() for record in part]
    return [None if label is None else {source.classes[number] for number in label} for label in labels]


def opened(data: Any, **how: Any) -> Source:
    return open_source(data, TEXT, **how)


def test_lists_of_names_in_every_table(tmp_path: Path) -> None:
    rows = [{"text": text, "tags": tags} for text, tags in zip(TEXTS, SETS, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pa.table({"text": TEXTS, "tags": SETS})
    parquet.write_table(table, tmp_path / "a.parquet")
    for data in (tmp_path / "a.jsonl", tmp_path / "a.parquet", table, pd.DataFrame({"text": TEXTS, "tags": SETS})):
        source = opened(data, label="tags")
        assert (source.classes, named(source)) == (("beach", "cat", "dog"), WANTED), data
        assert "several classes per sample, 1.2 of 3 on average" in source.what


def test_named_numbers_of_datasets_and_of_its_parquet(tmp_path: Path) -> None:
    names = ["dog", "cat", "beach", "never"]
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.Sequence(datasets.ClassLabel(names=names))})
    numbers = [None if own is None else [names.index(name) for name in own] for own in SETS]
    data = datasets.Dataset.from_dict({"text": TEXTS, "labels": numbers}, features=features)
    data.to_parquet(str(tmp_path / "a.parquet"))
    for given in (data, tmp_path / "a.parquet"):
        source = opened(given)  # "labels" is a usual name
        assert source.classes == tuple(names)
        assert [own or set() for own in named(source)] == [own or set() for own in WANTED]


def test_separated_text_is_only_cut_when_asked(tmp_path: Path) -> None:
    cells = ["dog; beach", "dog", "dog;cat", "", "cat;beach", "cat;dog;beach"]
    pd.DataFrame({"text": TEXTS, "tags": cells}).to_csv(tmp_path / "a.csv", index=False)
    whole = opened(tmp_path / "a.csv", label="tags")
    assert whole.classes is not None
    assert "dog; beach" in whole.classes
    assert any("read as one class each" in note and "label_separator=semicolon" in note for note in whole.warnings)
    want = [{"dog", "beach"}, {"dog"}, {"dog", "cat"}, None, {"cat", "beach"}, {"cat", "dog", "beach"}]
    for sign in (";", "semicolon"):
        source = opened(tmp_path / "a.csv", label="tags", columns={"label_separator": sign})
        assert source.classes == ("beach", "cat", "dog")
        assert named(source) == want
        assert source.fingerprint != whole.fingerprint
    frame = pd.DataFrame({"text": TEXTS, "labels": [cell.replace(";", "|") or None for cell in cells]})
    assert named(opened(frame, columns={"label_separator": "|"})) == want
    with pytest.raises(UserError, match="--columns label_separator needs a table"):
        opened(TEXTS, columns={"label_separator": "|"})
    with pytest.raises(UserError, match="give --label NAME too"):
        opened(frame.rename(columns={"labels": "x"}), columns={"label_separator": "|"})


def test_columns_of_0_and_1(tmp_path: Path) -> None:
    flags = {name: [None if own is None else int(name in own) for own in SETS] for name in ("dog", "cat", "beach")}
    frame = pd.DataFrame({"text": TEXTS, **{f"is_{name}": own for name, own in flags.items()}})
    frame.to_csv(tmp_path / "a.csv", index=False)
    for label in ("is_dog,is_cat,is_beach", "is_*"):
        source = opened(tmp_path / "a.csv", label=label)
        assert source.classes == ("is_beach", "is_cat", "is_dog")
        assert named(source) == [None if own is None else {f"is_{name}" for name in own} for own in WANTED]
        assert "3 columns (is_dog, is_cat, is_beach)" in source.what
    frame["is_dog"] = 2
    with pytest.raises(UserError, match=r"column is_dog .* holds '2'.*each must hold 0 or 1"):
        opened(frame, label="is_*")
    with pytest.raises(UserError, match="has no column is_fish"):
        opened(frame, label="is_dog,is_fish")
    assert opened(pd.DataFrame({"text": TEXTS, "a,b": ["x", "y"] * 3}), label="a,b").classes == ("x", "y")  # one column of that name


def test_lists_of_indicators_are_told_from_lists_of_numbers() -> None:
    flags = [[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 0, 0]]
    source = opened(pa.table({"text": TEXTS, "tags": flags}), label="tags")
    assert source.classes == ("0", "1", "2")
    assert "one indicator per class" in source.what
    assert named(source) == [{str(i) for i, flag in enumerate(own) if flag} for own in flags]
    numbers = [[0, 1], [0], [1], [0], [1, 0], []]
    source = opened(pa.table({"text": TEXTS, "tags": numbers}), label="tags")
    assert source.classes == ("0", "1")
    assert named(source) == [set(map(str, own)) for own in numbers]


def test_lists_that_are_no_classes_are_refused_only_where_asked_for() -> None:
    for cells in ([[0.5, 1.5]] * 6, [[{"a": 1}]] * 6, [[[1], [2]]] * 6):
        table = pa.table({"text": TEXTS, "labels": cells})
        with pytest.raises(UserError, match="lists of class names or class numbers are allowed"):
            opened(table, label="labels")
        assert opened(table).classes is None


def test_a_matrix_beside_an_array_and_its_class_names() -> None:
    from untaught.modalities.image import IMAGE

    images, flags = np.zeros((6, 4, 4, 1), np.uint8), np.eye(6, 3, dtype=np.int64)
    flags[5] = -1
    source = open_source((images, flags), IMAGE)
    assert source.classes == ("0", "1", "2")
    assert named(source) == [{"0"}, {"1"}, {"2"}, set(), set(), None]
    assert "several per sample" in source.what
    assert open_source({"images": images, "labels": flags, "classes": ["a", "b", "c"]}, IMAGE).classes == ("a", "b", "c")
    with pytest.raises(UserError, match="one per row"):
        open_source((images, 2 * np.ones((6, 3), int)), IMAGE)


def test_the_store_keeps_them_and_reads_raw_ones_of_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    source = opened(pa.table({"text": TEXTS, "tags": SETS}), label="tags")
    store = packed(source)
    want = [[1, 0, 1], [0, 0, 1], [0, 0, 0], [-1, -1, -1], [1, 1, 0], [0, 1, 0]]
    assert store.classes == ("beach", "cat", "dog")
    assert store.labels is not None
    assert store.labels.tolist() == want
    rows = [{"text": text, "tags": tags} for text, tags in zip(TEXTS, SETS, strict=True)]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()  # nothing is scanned before it is packed
    raw = opened(stream, label="tags", columns={"text": "text"})
    assert raw.classes is None
    store = packed(raw)
    assert store.classes == ("beach", "cat", "dog")
    assert store.labels is not None
    assert [row for row in store.labels.tolist() if row != [-1, -1, -1]] == [row for row in want if row != [-1, -1, -1]]


def packed(source: Source) -> Store:
    from untaught.pipeline.preprocessor import plan

    prep: Preprocessor = plan(source, [record for part in source.parts.values() for record in part], TEXT, {"tokenizer": "characters"})
    return pack(source, prep)


def test_rows_are_held_out_in_proportion_to_the_rarest_class() -> None:
    random = np.random.default_rng(0)
    labels = np.zeros((1000, 3), np.int8)
    labels[:, 0] = 1
    labels[random.permutation(1000)[:20], 1] = 1
    labels[random.permutation(1000)[:300], 2] = 1
    labels[-5:] = -1
    assert rarest(labels)[-1] == -1
    assert rarest(np.zeros((2, 3), np.int8)).tolist() == [3, 3]
    assert (rarest(labels) == 1).sum() == (labels[:, 1] == 1).sum()
    held_out = hold_out(labels, seed=0)
    assert not held_out[-5:].any()
    assert abs(int((labels[held_out, 1] == 1).sum()) - (labels[:, 1] == 1).sum() / 5) <= 0.5


def test_movie_genres_of_real_data() -> None:
    import os

    place = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data")) / "movielens_small" / "movies.csv.gz"
    if not place.exists():
        pytest.skip("no real data")
    first = gzip.decompress(place.read_bytes()).decode("utf-8").splitlines()[0]
    label = next(name for name in first.split(",") if "genre" in name.lower())
    source = opened(place, label=label, columns={"text": first.split(",")[1], "label_separator": "|"})
    assert source.classes is not None
    assert {"Comedy", "Drama"} <= set(source.classes)
    assert len(source.classes) <= 20
