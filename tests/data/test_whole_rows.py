"""Tables whose rows are the records: every column but label, split and group, from files and frames."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from untaught.core import UserError
from untaught.data.sources import open_source
from untaught.modalities.image import IMAGE
from untaught.modalities.table import TABLE
from untaught.modalities.table.columns import plain
from untaught.pipeline.infer import chosen_modality

FRAME = pd.DataFrame(
    {
        "age": [31, 42, 53, 64],
        "town": ["a", "b", "a", None],
        "income": ["low", "high", "high", "low"],
        "split": ["train", "train", "test", "train"],
    }
)


def records(data: Any, **options: Any) -> dict[str, list[Any]]:
    source = open_source(data, TABLE, **options)
    return {part: list(rows) for part, rows in source.parts.items()}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "pandas", "pyarrow"])
def test_rows_are_all_columns_but_label_and_split(kind: str, tmp_path: Path) -> None:
    data: Any = FRAME
    if kind.startswith("csv"):
        data = tmp_path / f"people.{kind}"
        text = FRAME.to_csv(index=False).encode()
        data.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pandas(FRAME), data := tmp_path / "people.parquet")
    elif kind == "pyarrow":
        data = pa.Table.from_pandas(FRAME)
    found = records(data, label="income", split="split")
    assert {part: len(rows) for part, rows in found.items()} == {"train": 3, "test": 1}
    row = found["train"][0]["table"]
    assert list(row) == ["age", "town"]
    assert (float(row["age"]), row["town"]) == (31.0, "a")
    assert [one["label"] for one in found["train"]] == [1, 0, 1]
    assert plain(found["train"][2]["table"]["town"]) is None


def test_a_label_with_a_usual_name_is_no_feature() -> None:
    (rows,) = records(FRAME.rename(columns={"income": "target"}).drop(columns="split")).values()
    assert list(rows[0]["table"]) == ["age", "town"]
    (rows,) = records(FRAME.drop(columns="split")).values()
    assert list(rows[0]["table"]) == ["age", "town", "income"]


def test_names_of_our_own_are_columns_like_others() -> None:
    frame = FRAME.assign(row=[1, 2, 3, 4], bytes=[5, 6, 7, 8], path=["a.png", "b.png", "c.png", "d.png"])
    found = records(frame, label="income", split="split")
    assert list(found["train"][0]["table"]) == ["age", "town", "row", "bytes", "path"]


def test_a_group_is_no_feature() -> None:
    found = records(FRAME, label="income", split="split", columns={"group": "town"})
    assert list(found["train"][0]["table"]) == ["age"]
    assert found["train"][0]["group"] == "a"


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (FRAME.rename(columns={"town": "age"}), "column age occurs twice in the table; rename one"),
        (FRAME[["income", "split"]], "the table has no columns besides income, split"),
        (FRAME.iloc[:0], "the table has no rows"),
    ],
)
def test_impossible_tables_are_one_line(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_source(frame, TABLE, label="income", split="split")


def test_a_split_that_was_not_named_is_doubted() -> None:
    (doubt,) = open_source(FRAME, TABLE, label="income").warnings
    assert doubt == "column split is read as a feature, but its values (test, train) name splits: give --split split"


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (["low", "high", "high", "low"], "the label column income equals column copy: is it a label?"),
        ([10, 70, 70, 10], "column copy has one value per value of the label column income: does it leak the label?"),
    ],
)
def test_a_column_that_leaks_the_label_is_said(column: list[Any], says: str) -> None:
    assert says in open_source(FRAME.assign(copy=column), TABLE, label="income", split="split").warnings
    numbers = FRAME.assign(income=[0.5, 1.5, 1.5, 0.5], copy=[0.5, 1.5, 1.5, 0.5])
    assert any("equals column copy" in one for one in open_source(numbers, TABLE, label="income", split="split").warnings)
    assert not open_source(FRAME.assign(copy=[1, 2, 3, 4]), TABLE, label="income", split="split").warnings


def test_changed_values_change_the_fingerprint() -> None:
    same = [open_source(FRAME.copy(), TABLE, label="income").fingerprint for _ in range(2)]
    assert same[0] == same[1]
    assert open_source(FRAME.assign(age=[1, 2, 3, 4]), TABLE, label="income").fingerprint != same[0]


def test_any_table_that_is_nothing_else_is_a_table(tmp_path: Path) -> None:
    assert chosen_modality(None, FRAME).name == "table"
    assert chosen_modality(None, pd.DataFrame({"text": ["one word", "and two"], "n": [1, 2]})).name == "text"
    assert chosen_modality(None, np.zeros((4, 8, 8, 3), np.uint8)) is IMAGE


@pytest.mark.parametrize(
    ("name", "rows", "classes"), [("cancer", 569, ("benign", "malignant")), ("wine", 178, ("class_0", "class_1", "class_2"))]
)
def test_tables_of_scikit_learn_have_their_names(name: str, rows: int, classes: tuple[str, ...]) -> None:
    source = open_source(f"builtin:{name}", TABLE)
    assert source.classes == classes
    assert source.rows == rows
    assert chosen_modality(None, f"builtin:{name}") is TABLE
    with pytest.raises(UserError, match="has no images; give --modality table"):
        open_source(f"builtin:{name}", IMAGE)


def test_a_leak_is_seen_though_labels_are_missing() -> None:
    frame = pd.DataFrame({"x": range(8), "y": ["a", "b", "a", "b", None, None, "a", "b"], "copy": [1, 2, 1, 2, None, None, 1, 2]})
    (doubt,) = open_source(frame, TABLE, label="y").warnings
    assert doubt == "column copy has one value per value of the label column y: does it leak the label?"


def test_many_numbers_as_classes_are_doubted() -> None:
    frame = pd.DataFrame({"x": range(400), "delay": [number % 130 for number in range(400)]})
    (doubt,) = open_source(frame, TABLE, label="delay").warnings
    assert doubt == "the label column delay has 130 numbers as classes; if they are quantities, use --task regress"


@pytest.mark.parametrize("kind", ["parquet", "pyarrow"])
def test_row_labels_of_pandas_are_no_feature(kind: str, tmp_path: Path) -> None:
    data: Any = pa.Table.from_pandas(FRAME.iloc[[2, 0, 3, 1]])
    assert "__index_level_0__" in data.column_names
    if kind == "parquet":
        parquet.write_table(data, tmp_path / "people.parquet")
        data = tmp_path / "people.parquet"
    found = records(data, label="income", split="split")
    assert list(found["train"][0]["table"]) == ["age", "town"]
