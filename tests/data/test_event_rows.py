"""Events become one row per user, in order of time; unusable rows are counted; ids written in several ways are one."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from untaught.core import UserError
from untaught.data.event_rows import EventColumns, grouped_events, time_of
from untaught.data.frames import of_frame
from untaught.data.sources import open_source
from untaught.modalities.events import EVENTS

CSV = """user_id,Movie_ID,timestamp
7,a,30
8,b,20
7,c,10
7,d,30
8,a,5
"""


def sequences(data: Any, **how: Any) -> dict[str, list[str]]:
    source = open_source(data, EVENTS, **how)
    return {str(record["name"]): list(record["item"]) for part in source.parts.values() for record in part}


def test_a_user_has_all_its_items_in_order_of_time_and_ties_keep_the_order_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    with gzip.open(tmp_path / "packed.csv.gz", "wt") as file:
        file.write(CSV)
    frame = pd.read_csv(tmp_path / "log.csv")
    frame.to_parquet(tmp_path / "log.parquet")
    expected = {"7": ["c", "a", "d"], "8": ["a", "b"]}
    arrays = {"user": frame["user_id"].to_numpy(), "item": frame["Movie_ID"].to_numpy(), "time": frame["timestamp"].to_numpy()}
    for data in (*(tmp_path / name for name in ("log.csv", "packed.csv.gz", "log.parquet")), frame, pa.table(frame), arrays):
        assert sequences(data) == expected
    assert sequences(frame, columns={"user": "Movie_ID", "item": "user_id"})["a"] == ["8", "7"]


def test_two_files_are_one_log(tmp_path: Path) -> None:
    rows = CSV.splitlines()
    (tmp_path / "january.csv").write_text("\n".join(rows[:4]) + "\n")
    (tmp_path / "february.csv").write_text("\n".join([rows[0], *rows[4:]]) + "\n")
    assert sequences(tmp_path) == {"7": ["c", "d", "a"], "8": ["a", "b"]}  # february is read first, so d comes before a in their tie


def test_ids_are_one_however_they_are_written() -> None:
    frame = pd.DataFrame({"user": [1, 1.0, "1", "1.0", " 1 "], "item": ["7", 7, 7.0, "7.0", "07"], "time": range(5)}, dtype=object)
    assert sequences(frame) == {"1": ["7", "7", "7", "7", "07"]}


def test_unusable_rows_are_left_out_and_counted() -> None:
    frame = pd.DataFrame(
        {
            "user": [1.0, np.nan, 1.0, 2.0, 2.0, 2.0, 2.0],
            "item": ["a", "b", None, "c", "d", "d", "e"],
            "time": ["2024-01-02", "2024-01-01", "2024-01-01", "2024-01-03T10:00:00Z", "2024-01-03 09:00", "2024-01-03 09:00", "soon"],
        }
    )
    source = open_source(frame, EVENTS)
    assert {record["name"]: list(record["item"]) for record in source.parts["all"]} == {"1": ["a"], "2": ["d", "c"]}
    for said in ("3 events", "1 rows have no user", "1 rows have no item", "1 rows have no readable time", "1 rows are repeated"):
        assert said in source.what


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (
            {"user": [1, 2], "item": [3, 4], "time": ["soon", "later"]},
            "2 of 2 rows of the table have no readable time, e.g. 'later': write numbers",
        ),
        ({"user": [1, 2], "what": [3, 4]}, "no column of the table is recognised as the item; its columns are user, what: give --columns"),
        ({"user": [np.nan, np.nan, 1], "item": [3, 4, 5]}, "2 of 3 rows of the table have no user"),
        ({"user": [1, 1], "item": [3, 4], "sex": ["f", "m"]}, "column sex has several values for user 1: f and m"),
    ],
)
def test_a_table_that_holds_no_events_is_refused_in_one_line(frame: dict[str, list[Any]], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        open_source(pd.DataFrame(frame), EVENTS, label="sex" if "sex" in frame else None)
    assert "\n" not in str(error.value)


def test_a_column_with_one_value_per_user_is_a_label_and_others_are_not() -> None:
    frame = pd.DataFrame({"user": [1, 1, 2, 3], "item": [3, 4, 5, 6], "label": ["x", "x", "y", None], "class": ["p", "q", "p", "p"]})
    source = open_source(frame, EVENTS)
    assert source.classes == ("x", "y")
    assert [record["label"] for record in source.parts["all"]] == [0, 1, None]


def test_an_order_that_is_the_files_is_doubted() -> None:
    users = np.repeat(np.arange(30), 5)
    items = np.tile(np.arange(5), 30)
    frame = pd.DataFrame({"user": users, "item": items, "time": 0})
    table = of_frame(frame, "t", "item")
    assert "shuffle the rows" in grouped_events([table], EventColumns("user", "item", "time")).note
    shuffled = of_frame(frame.sample(frac=1, random_state=0), "t", "item")
    assert "shuffle" not in grouped_events([shuffled], EventColumns("user", "item", "time")).note


def test_times_are_numbers_and_dates() -> None:
    second = 1704164645.0
    for value in (second, "1704164645", "2024-01-02 03:04:05", "2024-01-02T03:04:05Z", "2024-01-02T05:04:05+02:00"):
        assert time_of(value) == second
    for given in (datetime(2024, 1, 2, 3, 4, 5), np.datetime64("2024-01-02T03:04:05"), pd.Timestamp("2024-01-02 03:04:05")):
        assert time_of(given) == second
    for value in (None, "", "soon", float("nan"), pd.NaT, np.datetime64("NaT"), True, [1]):
        assert time_of(value) is None


def test_dates_as_people_write_them() -> None:
    frame = pd.DataFrame({"user": 1, "item": list("cab"), "time": ["14.02.2013 9:00", "31.01.2013 19:00", "01.02.2013 10:00"]})
    assert sequences(frame) == {"1": ["a", "b", "c"]}
    with pytest.raises(UserError, match="may be written as d/m/y or as m/d/y"):
        sequences(frame.assign(time=["03/04/2024", "04/05/2024", "05/06/2024"]))
