"""The times of a table's steps, and of those that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from untaught.data.sources import open_source
from untaught.data.step_rows import clock_of, times_after
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
    assert times_after(clock_of(np.array([3.99e11, 4e11]), dated=True), 1) == [""]
