"""The times of a table's steps, and of those that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from untaught.core import UserError
from untaught.data.clock import DATED, clock_of, times_after
from untaught.data.sources import open_source
from untaught.modalities.series import SERIES


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [record for part in open_source(frame, SERIES).parts.values() for record in part]


@pytest.mark.parametrize("given", [["2026-02-27", "2026-02-28"], pd.to_datetime(["2026-02-27", "2026-02-28"])])
def test_days_go_on_over_the_month(given: Any) -> None:
    (record,) = records(pd.DataFrame({"date": given, "load": [1.0, 2.0], "heat": [3.0, 4.0]}))
    assert record["channels"] == "load\nheat"
    assert times_after(record["clock"], 2) == ["2026-03-01 00:00:00", "2026-03-02 00:00:00"]


def test_numbers_stay_numbers() -> None:
    (record,) = records(pd.DataFrame({"time": [0.5, 0.0, 1.0], "x": [1.0, 2.0, 3.0]}))
    assert times_after(record["clock"], 2) == ["1.5", "2"]


def test_uneven_times_end_on_the_step_they_are_brought_to() -> None:
    (record,) = records(pd.DataFrame({"time": [0.0, 1.0, 2.0, 3.0, 5.0], "x": np.arange(5.0)}))
    assert record["series"].shape == (1, 6)
    assert times_after(record["clock"], 1) == ["6"]


def test_without_a_clock_there_are_no_times() -> None:
    assert times_after([np.nan] * 3, 2) == ["", ""]
    assert times_after(clock_of(np.array([3.99e11, 4e11]), DATED), 1) == [""]


@pytest.mark.parametrize(
    ("given", "after"),
    [
        (["2010/01/01 00:00", "2010/01/01 06:00"], "2010-01-01 12:00:00"),
        (["31.12.2020 22:00", "31.12.2020 23:00"], "2021-01-01 00:00:00"),
        (["05/20/1987", "05/21/1987"], "1987-05-22 00:00:00"),
        (["12/31/2013 10:05:00 PM", "12/31/2013 11:05:00 PM"], "2014-01-01 00:05:00"),
        (["Jan 1 2000", "Feb 1 2000", "Mar 1 2000"], "2000-04-01 00:00:00"),
        (["1991 Nov", "1991 Dec"], "1992-01-01 00:00:00"),
        (["1977-Jan", "1977-Feb"], "1977-03-01 00:00:00"),
        (["1949-01", "1949-02"], "1949-03-01 00:00:00"),
        (["1970 Q3", "1970 Q4"], "1971-01-01 00:00:00"),
        (["01-Jan-2020", "02-Jan-2020"], "2020-01-03 00:00:00"),
    ],
)
def test_dates_as_people_write_them(given: list[str], after: str) -> None:
    (record,) = records(pd.DataFrame({"time": given, "x": np.arange(len(given))}))
    assert record["series"].shape == (1, len(given))
    assert times_after(record["clock"], 1) == [after]


def test_dates_with_two_readings_are_refused() -> None:
    with pytest.raises(UserError, match=r"may be written as d/m/y or as m/d/y, e.g. 03/04/2024: write 2020-12-31"):
        records(pd.DataFrame({"time": ["03/04/2024", "04/04/2024"], "x": [1.0, 2.0]}))


def test_the_day_is_told_by_dates_further_on() -> None:
    days = pd.date_range("2024-01-01", "2024-02-10").strftime("%d/%m/%Y")
    (record,) = records(pd.DataFrame({"time": days, "x": np.arange(len(days))}))
    assert record["series"].shape == (1, 41)
    assert times_after(record["clock"], 1) == ["2024-02-11 00:00:00"]


@pytest.mark.parametrize("frequency", ["MS", "ME", "QS", "QE", "YS", "YE"])
def test_months_are_equal_steps(frequency: str) -> None:
    dates = pd.date_range("1999-06-01", periods=40, freq=frequency)
    (record,) = records(pd.DataFrame({"date": dates[:37], "x": np.arange(37)}))
    assert record["series"].tolist() == [list(range(37))]
    assert times_after(record["clock"], 3) == [str(date) for date in dates[37:]]


def test_a_month_without_a_row_is_a_gap() -> None:
    dates = pd.date_range("1999-12-01", periods=12, freq="MS").delete([4, 5])
    (record,) = records(pd.DataFrame({"date": dates, "x": np.arange(10.0)}))
    assert np.isnan(record["series"][0]).tolist() == [number in (4, 5) for number in range(12)]
    assert times_after(record["clock"], 1) == ["2000-12-01 00:00:00"]


def test_times_with_a_zone_go_on_in_utc_and_say_so() -> None:
    given = ["2022-03-27T00:00:00+01:00", "2022-03-27T01:00:00+01:00", "2022-03-27T03:00:00+02:00"]
    for times in (given, pd.to_datetime(given, utc=True)):
        (record,) = records(pd.DataFrame({"time": times, "x": [1.0, 2.0, 3.0]}))
        assert times_after(record["clock"], 1) == ["2022-03-27 02:00:00+00:00"]
