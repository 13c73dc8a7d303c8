"""Labels: what is a class, what is measured, what is none, and what looks like no label at all."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch

from untaught.core import Modality, UserError
from untaught.data.labels import class_name, name_labels, number_labels
from untaught.data.sources import open_source

PIXELS = np.zeros((6, 4, 4), np.uint8)
AB = ["a", "b"] * 3
HOLES = ["a", None, "b", "a", None, "b"]


def named(source: Any) -> list[Any]:
    """The class name of every row; None without one."""
    labels = [record.get("label") for record in source.parts["all"]]
    return [None if label is None or label == -1 else source.classes[label] for label in labels]


def test_what_a_class_is_called() -> None:
    same: list[tuple[Any, str | None]] = [
        (3, "3"), (3.0, "3"), (np.float32(3), "3"), ("3", "3"), ("03", "03"), ("3.0", "3.0"), (True, "1"), (np.False_, "0"),
        (b"cat", "cat"),
        (" cat", " cat"), (0.5, "0.5"), (-1, "-1"), ("NA", "NA"), ("nan", "nan"), (datetime.date(2020, 1, 2), "2020-01-02"),
        (pandas.Timestamp("2020-01-02"), "2020-01-02"), (datetime.datetime(2020, 1, 2, 3), "2020-01-02 03:00:00"),
        (None, None), (float("nan"), None), (float("inf"), None), ("", None), (" ", None), (pandas.NA, None), (pandas.NaT, None),
        (ValueError("line 3"), None),
    ]  # fmt: skip
    assert [(value, class_name(value)) for value, _ in same] == same


OBJECTS: dict[str, tuple[Any, list[Any]]] = {
    "objects": (np.array(AB, object), AB),
    "holes": (np.array(HOLES, object), HOLES),
    "list with None": (HOLES, HOLES),
    "bytes": (np.array(AB, "S1"), AB),
    "bool": (np.array([True, False] * 3), ["1", "0"] * 3),
    "floats": (np.array([0.0, 1.0] * 3), ["0", "1"] * 3),
    "NaN": (np.array([0.0, np.nan, 1.0] * 2), ["0", None, "1"] * 2),
    "torch": (torch.arange(6) % 2, ["0", "1"] * 3),
    "column": (np.arange(6)[:, None] % 2, ["0", "1"] * 3),
    "one class": (np.zeros(6, int), ["0"] * 6),
    "unsigned": (np.array([0, 255] * 3, np.uint8), ["0", "255"] * 3),
    "dates": (np.array(["2020-01-01", "NaT", "2020-02-01"] * 2, "M8[ns]"), ["2020-01-01", None, "2020-02-01"] * 2),
    "series": (pandas.Series(HOLES), HOLES),
    "categorical": (pandas.Categorical(HOLES), HOLES),
    "nullable": (pandas.array([1, None, 0] * 2, dtype="Int64"), ["1", None, "0"] * 2),
    "mixed": (np.array([1, "a", None] * 2, object), ["1", "a", None] * 2),
    "minus one": (np.array([0, -1, 1] * 2), ["0", None, "1"] * 2),
    "minus one in floats": (np.array([0.0, -1.0, 1.0] * 2), ["0", None, "1"] * 2),
    "signs": (np.array([-1, 1] * 3), ["-1", "1"] * 3),
    "negative": (np.array([-2, -1, 0] * 2), ["-2", "-1", "0"] * 2),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_labels_beside_an_array(kind: str, pictures: Modality) -> None:
    labels, expected = OBJECTS[kind]
    for given in ((PIXELS, labels), {"image": PIXELS, "label": labels}):
        source = open_source(given, pictures)
        assert named(source) == expected
        assert ("-1 is a missing label (2)" in source.what) == kind.startswith("minus one")


def test_labels_that_are_none(pictures: Modality) -> None:
    assert named(open_source((PIXELS, np.full(6, -1)), pictures)) == [None] * 6
    assert open_source((PIXELS, [None] * 6), pictures).classes is None
    for labels, said in [
        (np.arange(5), "6 rows in one array but 5 in another"),
        (np.eye(6), r"labels have shape \(6, 6\)"),
        (np.array([[1], [2, 3], [1], [1], [2], [3]], object), "labels have type list"),
        ([[1], [2, 3], [1], [1], [2], [3]], "rows have different shapes"),
    ]:
        with pytest.raises(UserError, match=said):
            open_source((PIXELS, labels), pictures)


def test_numbers_of_names_that_are_given(pictures: Modality) -> None:
    given = {"image": PIXELS, "label": np.array([0, 1, -1] * 2), "classes": ["cat", "dog"]}
    assert named(open_source(given, pictures)) == ["cat", "dog", None] * 2
    halves = {"train_image": PIXELS, "train_label": np.array(AB, object), "test_image": PIXELS, "test_label": ["b", "c"] * 3}
    source = open_source(halves, pictures)
    assert source.classes == ("a", "b", "c")
    assert [[record["label"] for record in part] for part in source.parts.values()] == [[0, 1] * 3, [1, 2] * 3]


@pytest.mark.parametrize(("distinct", "classes"), [(30, 30), (31, 0)])
def test_a_column_that_nobody_named_is_no_label_if_most_of_its_values_differ(distinct: int, classes: int, tokens: Modality) -> None:
    frame = pandas.DataFrame({"text": [f"text {i}" for i in range(60)], "label": [f"id {i % distinct}" for i in range(60)]})
    assert len(open_source(frame, tokens).classes or ()) == classes
    assert len(open_source(frame, tokens, label="label").classes or ()) == distinct


FRAMES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pandas.DataFrame({"text": AB, "label": HOLES}),
    "pandas, NaN": lambda: pandas.DataFrame({"text": AB, "label": HOLES}).astype(object).where(lambda frame: frame.notna(), np.nan),
    "pandas, string": lambda: pandas.DataFrame({"text": AB, "label": HOLES}).astype("string"),
    "pandas, categories": lambda: pandas.DataFrame({"text": AB, "label": HOLES}).astype({"label": "category"}),
    "pandas, other index": lambda: pandas.DataFrame({"text": AB, "label": HOLES}, index=[7, 7, 9, 9, 1, 0]),
    "pandas, by number": lambda: pandas.DataFrame({0: AB, 1: HOLES}),
    "pyarrow": lambda: pyarrow.table({"text": AB, "label": HOLES}),
    "record batch": lambda: pyarrow.RecordBatch.from_pydict({"text": AB, "label": HOLES}),
    "dictionary": lambda: pyarrow.table({"text": AB, "label": pyarrow.array(HOLES).dictionary_encode()}),
    "other case": lambda: pyarrow.table({" Text": AB, "LABEL ": HOLES}),
    "datasets": lambda: datasets.Dataset.from_dict({"text": AB, "label": HOLES}),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_tables_of_every_kind(kind: str, tokens: Modality) -> None:
    told: Any = {"columns": {"text": "0"}, "label": "1"} if kind == "pandas, by number" else {}
    source = open_source(FRAMES[kind](), tokens, **told)
    assert [record["text"] for record in source.parts["all"]] == AB
    assert named(source) == HOLES


def test_polars(tokens: Modality) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"text": AB, "label": HOLES})
    category = polars.col("label").cast(polars.Categorical), polars.col("label").cast(polars.Enum(["b", "a"]))
    for given in (frame, frame.lazy(), *map(frame.with_columns, category)):
        source = open_source(given, tokens)
        assert [record["text"] for record in source.parts["all"]] == AB
        assert named(source) == HOLES
    assert [record["text"] for record in open_source(frame["text"], tokens).parts["all"]] == AB


def test_one_column_is_the_field_and_other_objects_are_refused(tokens: Modality) -> None:
    data = datasets.Dataset.from_dict({"text": AB})
    for given in (pandas.Series(AB), pandas.Series(AB, name="x"), pyarrow.array(AB), pyarrow.chunked_array([AB[:2], AB[2:]]), data["text"]):
        assert [record["text"] for record in open_source(given, tokens).parts["all"]] == AB
    frame = pandas.DataFrame({"text": AB, "label": AB})
    for given in (frame.groupby("label"), pyarrow.table({"text": AB}).to_reader(), data.features, pandas.Index(AB)):
        with pytest.raises(UserError, match=r"got a .*; give the (table|data set) itself"):
            open_source(given, tokens)
    with pytest.raises(UserError, match="column label occurs twice in the table"):
        open_source(pandas.concat([frame, frame[["label"]]], axis=1), tokens)
    with pytest.raises(UserError, match="column text occurs twice"):
        open_source(pyarrow.table([AB, AB], names=["text", "text"]), tokens)
    assert open_source(pandas.concat([frame.assign(z=1), frame.assign(z=1)[["z"]]], axis=1), tokens).rows == 6


def test_missing_texts_are_missing(tokens: Modality) -> None:
    for missing in (None, np.nan, pandas.NA):
        frame = pandas.DataFrame({"text": pandas.Series(["a", missing], dtype=object)})
        assert [record["text"] for record in open_source(frame, tokens).parts["all"]] == ["a", None]


def test_text_that_reads_as_a_number_is_text_where_types_are_known(tokens: Modality) -> None:
    source = open_source(pandas.DataFrame({"text": AB, "label": ["3.9", "3.10"] * 3}), tokens)
    assert source.classes == ("3.10", "3.9")
    minus = open_source(pandas.DataFrame({"text": AB, "label": [-1, 0, 1] * 2}), tokens)
    assert named(minus) == [None, "0", "1"] * 2
    assert "-1 is a missing label (2)" in minus.what


def test_names_in_another_order_in_another_file(tmp_path: Path, tokens: Modality) -> None:
    """Numbers of names: 0 is a cat in one file and a dog in the other."""
    for part, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        datasets.Dataset.from_dict({"text": ["1", "2"], "label": [0, 1]}, features).to_parquet(tmp_path / f"{part}.parquet")
    source = open_source(tmp_path, tokens)
    assert source.classes == ("cat", "dog")
    assert [[record["label"] for record in part] for part in source.parts.values()] == [[0, 1], [1, 0]]
    for labels, classes in ((["dog", None], ("cat", "dog")), ([0, 1], ("0", "1", "cat", "dog"))):  # words and bare numbers: none is lost
        pandas.DataFrame({"text": ["1", "2"], "label": labels}).to_parquet(tmp_path / "test.parquet")
        source = open_source(tmp_path, tokens)
        assert source.classes == classes
        assert [record["label"] for record in source.parts["test"]] == ([1, None] if classes[0] == "cat" else [0, 1])


def test_a_label_that_is_none(tokens: Modality) -> None:
    names = [f"n{i}" for i in range(12)]
    frame = pandas.DataFrame({"id": range(12), "text": AB * 2, "label": ["a", "b", "c"] * 4, "copy": ["a", "b", "c"] * 4, "name": names})
    for label, said in [
        ("label", ["the label column label equals column copy: is it a label?"]),
        ("copy", ["the label column copy equals column label: is it a label?"]),
        ("id", ["the label column id has a different value in every row, like an id: scores need several rows per class"]),
    ]:
        assert open_source(frame, tokens, label=label).warnings == said
    assert open_source(frame, tokens, label="text").warnings == ["the label column text is also read as the text"]
    equal = open_source(frame.assign(label=frame["text"]), tokens).warnings
    assert equal == ["the label column label equals column text: is it a label?"]
    assert open_source(frame.drop(columns="copy"), tokens).warnings == []
    assert open_source(frame.assign(label=np.linspace(0, 1, 12)), tokens, label="label").warnings == []  # measured: all may differ


def test_numbers_of_raw_labels() -> None:
    values, classes = number_labels([3, None, "a", 3.0, float("nan")], None)
    assert values is not None
    assert (values.tolist(), classes) == ([0, -1, 1, 0, -1], ("3", "a"))
    values, classes = number_labels([0.5, None, 2], None)
    assert values is not None
    assert (values[[0, 2]].tolist(), classes) == ([0.5, 2.0], ())
    assert np.isnan(values[1])
    values, classes = number_labels([-1, 0, 1, 0], None)
    assert values is not None
    assert (values.tolist(), classes) == ([-1, 0, 1, 0], ("0", "1"))
    assert number_labels([None, float("nan"), -1], None) == (None, ())
    assert number_labels([[1], [2], [1]], None)[1] == ("[1]", "[2]")
    naming = name_labels(Counter({"1": 1, "01": 1, "10": 1}))
    assert naming is not None
    assert naming.classes == ("01", "1", "10")
