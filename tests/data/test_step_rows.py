"""Tables with one row per time step become series: sorted, at equal steps, one per id or one per table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from untaught.core import Record, UserError
from untaught.data.recordings import open_recordings
from untaught.data.sources import open_source
from untaught.modalities.series import SERIES
from untaught.modalities.series.records import cut

NAN = float("nan")


def opened(data: Any, **given: Any) -> tuple[list[Record], str]:
    source = open_source(data, SERIES, **given)
    return [record for part in source.parts.values() for record in part], source.what


def csv(folder: Path, text: str) -> Path:
    (folder / "x.csv").write_text(text)
    return folder / "x.csv"


LONG = "run,time,a,b,label\nr2,1,5,50,up\nr1,3,3,30,down\nr1,1,1,10,down\nr2,2,6,,up\nr1,2,2,20,down\n"


def test_a_long_table_has_a_series_for_each_id_with_its_steps_in_order(tmp_path: Path) -> None:
    found, what = opened(csv(tmp_path, LONG))
    assert [record["name"] for record in found] == ["r2", "r1"]
    np.testing.assert_array_equal(found[0]["series"], [[5, 6], [50, NAN]])
    np.testing.assert_array_equal(found[1]["series"], [[1, 2, 3], [10, 20, 30]])
    assert [record["label"] for record in found] == [1, 0]
    assert what.startswith("2 series in ")
    for said in ("5 time steps of 2 series by time, channels a, b", "1 series sorted by time", "label from column label"):
        assert said in what


def test_parquet_frames_and_named_columns_are_read_alike(tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["x", "x", "y", "y"], "when": pd.date_range("2026-01-01", periods=4, freq="h"), "v": [1.0, 2, 3, 4]})
    parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "x.parquet")
    columns = {"id": "who", "time": "when", "series": "v"}
    for data in (tmp_path / "x.parquet", frame, pa.Table.from_pandas(frame)):
        found, _ = opened(data, columns=columns)
        assert [record["series"].tolist() for record in found] == [[[1, 2]], [[3, 4]]]


def test_a_frame_with_two_levels_of_index_is_a_panel() -> None:
    """sktime's pd-multiindex."""
    index = pd.MultiIndex.from_product([["p", "q"], [0, 1, 2]], names=["instances", "timepoints"])
    found, _ = opened(pd.DataFrame({"c0": range(6), "c1": range(6, 12)}, index=index))
    assert [record["series"].tolist() for record in found] == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]]


def test_a_frame_with_a_series_in_every_cell_has_a_channel_for_each_column() -> None:
    """sktime's nested_univ."""
    frame = pd.DataFrame({"dim_0": [pd.Series([1.0, 2]), pd.Series([3.0, 4])], "dim_1": [pd.Series([5.0, 6]), pd.Series([7.0, 8])]})
    found, _ = opened(frame)
    assert [np.asarray(record["series"], float).tolist() for record in found] == [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]


def test_a_wide_table_is_one_recording_that_windows_cut(tmp_path: Path) -> None:
    rows = "".join(f"2026-01-01 {hour:02}:00:00,{hour},{-hour}\n" for hour in range(10))
    (record,), what = opened(csv(tmp_path, f"date,HUFL,OT\n{rows}"))
    assert "one recording: window=N cuts it" in what
    np.testing.assert_array_equal(record["series"], [np.arange(10), -np.arange(10)])
    pieces = cut({"window": 4, "stride": 3})
    assert pieces is not None
    assert [(piece["series"][0].tolist(), piece["name"], piece["group"]) for piece in pieces(record)] == [
        ([0, 1, 2, 3], "x.csv row 0 0-4", "x.csv row 0"),
        ([3, 4, 5, 6], "x.csv row 0 3-7", "x.csv row 0"),
        ([6, 7, 8, 9], "x.csv row 0 6-10", "x.csv row 0"),
    ]
    assert cut({}) is None
    assert pieces(short := {"series": np.arange(4.0)}) == [short]


def test_uneven_times_are_brought_to_the_median_step_and_gaps_are_missing(tmp_path: Path) -> None:
    (record,), what = opened(csv(tmp_path, "time,v\n0,0\n10,10\n25,25\n30,30\n40,40\n80,80\n90,90\n"))
    np.testing.assert_allclose(record["series"], [[0, 10, 20, 30, 40, NAN, NAN, NAN, 80, 90]])
    assert "1 series with uneven times resampled to steps of 10, gaps are missing values" in what
    (record,), what = opened(csv(tmp_path, "time,v\n0,0\n10,1\n20.05,2\n30,3\n"))
    np.testing.assert_array_equal(record["series"], [[0, 1, 2, 3]])
    assert "uneven times" not in what


def test_few_rows_of_one_time_are_averaged_and_many_refused(tmp_path: Path) -> None:
    rows = "".join(f"{t},{t},1\n" for t in range(200))
    (record,), what = opened(csv(tmp_path, f"time,v,w\n{rows}7,17,\n"))
    assert record["series"].shape == (2, 200)
    assert record["series"][:, 7].tolist() == [12, 1]
    assert "1 rows at the time of another averaged" in what
    with pytest.raises(UserError, match=r"has two rows at time 0; keep one of each, or name the series by a column: --columns id=NAME"):
        opened(csv(tmp_path, "time,v\n0,1\n0,2\n1,3\n"))


@pytest.mark.parametrize(
    ("text", "given", "says"),
    [
        ("time,v,sky\n0,1,blue\n1,2,grey\n", {}, "column sky of x.csv holds 'blue', which is not a number; name the channels"),
        ("time,v\nsoon,1\n", {}, "the time 'soon' is neither a number nor a date"),
        ("time,v\n,1\n2,3\n", {}, "neither a number nor a date"),
        ("time\n1\n2\n", {}, "has a time column time but no other column of numbers"),
        ("id,time,v,label\n1,0,1,a\n1,1,2,b\n", {}, r"column label changes within series 1 \('a' and 'b'\)"),
        ("id,time,v\n,0,1\n1,1,2\n", {}, "row 0 has no id"),
        ("who,v\n1,0\n1,1\n", {"columns": {"id": "who"}}, "is recognised as the time; its columns are who, v: --columns time=NAME"),
        ("time,v\n0,1\n1,2\n2,3\n1e9,4\n", {}, r"has 4 rows in 1,000,000,001 of the table's median steps; resample it"),
        ("time,v\n" + "".join(f"{t},{t if t < 30 else 'x'}\n" for t in range(40)), {}, "v at time 30 is 'x', not a number"),
    ],
)
def test_what_is_no_table_of_steps_is_refused_in_one_line(tmp_path: Path, text: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        opened(csv(tmp_path, text), **given)


def test_channels_can_be_chosen_and_numbered_columns_stay_one_series_per_row(tmp_path: Path) -> None:
    (record,), _ = opened(csv(tmp_path, "time,v,sky\n0,1,blue\n1,2,grey\n"), columns={"series": "v", "time": "time"})
    assert record["series"].tolist() == [[1, 2]]
    found, _ = opened(csv(tmp_path, "time,t0,t1\n5,1,2\n6,3,4\n"))
    assert len(found) == 2 or found[0]["series"].shape == (2, 2)


def test_a_long_table_is_trained_on_in_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import untaught as ut

    rows = "".join(f"{run},{t},{np.sin(t * (1 + run % 2) / 3):.4f},{'ab'[run % 2]}\n" for run in range(8) for t in range(60))
    run = ut.pretrain(
        csv(tmp_path, f"run,time,v,label\n{rows}"),
        modality="series",
        method="simclr",
        out=tmp_path / "run",
        steps=2,
        batch_size=8,
        window=20,
        stride=20,
    )
    assert (tmp_path / "run" / "run.yaml").exists()
    assert "6 of val, bank of 18" in capsys.readouterr().err, "8 series in 3 windows each, of which 2 series are held out"
    unlabelled = "".join(f"{line.rpartition(',')[0]}\n" for line in rows.splitlines())
    assert len(run.embed(csv(tmp_path, f"run,time,v\n{unlabelled}"))) == 24, "a vector for each window, as in training"


def test_a_time_or_id_column_with_another_name_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--columns series=NAME, or --columns time=NAME for a table with one row per time step"):
        opened(csv(tmp_path, "month,sold\n2020-01-01,3\n2020-02-01,4\n"))
    with pytest.raises(UserError, match=r"--columns series=NAME,NAME; or the column that names the series: --columns id=NAME"):
        opened(csv(tmp_path, "symbol,date,price\nA,2020-01-01,3\nB,2020-01-01,4\n"))


@pytest.mark.parametrize("kind", ["dates", "periods", "durations", "column"])
def test_pandas_indexed_by_time(kind: str) -> None:
    index: Any = pd.date_range("2026-01-31", periods=4, freq="D")
    index = {"periods": index.to_period("D"), "durations": index - index[0]}.get(kind, index)
    frame: Any = pd.DataFrame({"load": [1.0, 2.0, 3.0, 4.0]}, index=index)
    for data in (frame["load"] if kind == "column" else frame, frame.rename_axis("date")):
        (record,), what = opened(data)
        assert record["series"].tolist() == [[1, 2, 3, 4]]
        assert "4 time steps of 1 series by time, channels load" in what
    (one,) = open_recordings(frame, SERIES)
    assert one.times.tolist() == [86400.0 * day + (0 if kind == "durations" else 1769817600) for day in range(4)]


def test_numbers_with_decimal_commas(tmp_path: Path) -> None:
    rows = [("01.01.2020", "0,5", "?"), ("02.01.2020", "1.234,25", "7"), ("03.01.2020", "-2", "8")]
    (record,), _ = opened(csv(tmp_path, "date;v;w\n" + "".join(";".join(row) + "\n" for row in rows)))
    np.testing.assert_array_equal(record["series"], [[0.5, 1234.25, -2], [NAN, 7, 8]])
    with pytest.raises(UserError, match=r"column v of .* may be written as 1,234.5 or as 1.234,5, e.g. 1,234: write 1234.5"):
        opened(csv(tmp_path, "date;v\n2020-01-01;1,234\n2020-01-02;1,235\n"))
    many = "".join(f"2020-01-{day:02};{day},5\n" for day in range(1, 32))
    with pytest.raises(UserError, match=r"v at time 2020-02-01 is 'high', not a number"):
        opened(csv(tmp_path, f"date;v\n{many}2020-02-01;high\n"))
