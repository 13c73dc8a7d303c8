"""Long series with their times, and labelled ranges of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from untaught.core import UserError
from untaught.data.clock import DATED, NUMBERS
from untaught.data.recordings import label_ranges, open_recordings
from untaught.modalities.series import SERIES

DAY = 86_400
START = 1_767_225_600  # 2026-01-01


def written(folder: Path, name: str = "pump.csv.gz", days: int = 6) -> Path:
    rows = [f"2026-01-{day + 1:02},{day * 10}" for day in range(days)]
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / name, "wt") as file:
        file.write("\n".join(["timestamp,value", *rows[::-1]]))
    return folder / name


def test_a_file_is_a_recording_with_its_dates(tmp_path: Path) -> None:
    (one,) = open_recordings(written(tmp_path), SERIES)
    assert (one.name, one.kind, one.anomalous) == ("pump", DATED, None)
    np.testing.assert_array_equal(one.times, START + DAY * np.arange(6))
    np.testing.assert_array_equal(one.series, [np.arange(6) * 10])


def test_a_folder_and_a_pattern_have_a_recording_per_file_or_id(tmp_path: Path) -> None:
    written(tmp_path / "d")
    written(tmp_path / "d", "fan.csv.gz", 4)
    (tmp_path / "d" / "windows.json").write_text("{}")
    for data in (tmp_path / "d", str(tmp_path / "d" / "*.csv.gz"), [tmp_path / "d" / "fan.csv.gz", tmp_path / "d" / "pump.csv.gz"]):
        assert [(one.name, len(one.times)) for one in open_recordings(data, SERIES)] == [("fan", 4), ("pump", 6)]
    frame = pd.DataFrame({"id": list("aabb"), "time": [0, 1, 0, 1], "x": [1.0, 2, 3, 4], "y": [5.0, 6, 7, 8]})
    found = open_recordings(frame, SERIES)
    assert [(one.name, one.series.tolist(), one.times.tolist()) for one in found] == [
        ("a", [[1, 2], [5, 6]], [0, 1]),
        ("b", [[3, 4], [7, 8]], [0, 1]),
    ]
    assert found[0].kind == NUMBERS


def test_a_label_column_is_no_channel_and_gaps_keep_their_times() -> None:
    frame = pd.DataFrame({"time": [0, 1, 2, 6, 7], "x": [1.0, 2, 3, 4, 5], "broken": [0, 0, 1, 1, 0]})
    (one,) = open_recordings(frame, SERIES, label="broken")
    np.testing.assert_array_equal(one.times, np.arange(8))
    assert one.series.shape == (1, 8)
    assert np.isnan(one.series[0, 3:6]).all()
    assert one.anomalous is not None
    assert one.anomalous.tolist() == [False, False, True, False, False, False, True, False]


def test_arrays_have_steps_as_times() -> None:
    found = open_recordings(np.zeros((2, 3, 5)), SERIES)
    assert [(one.series.shape, one.times.tolist(), one.kind) for one in found] == [((3, 5), [0, 1, 2, 3, 4], NUMBERS)] * 2
    with pytest.raises(UserError, match="--label x needs tables with one row per time step"):
        open_recordings(np.zeros((2, 3, 5)), SERIES, label="x")


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_labelled_ranges_include_both_ends(tmp_path: Path, kind: str) -> None:
    found = [*open_recordings(written(tmp_path), SERIES), *open_recordings(written(tmp_path, "fan.csv.gz"), SERIES)]
    spans = [["2026-01-02", "2026-01-03T00:00:00"], ["2026-01-06", "2026-01-09"]]
    path = tmp_path / f"ranges.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"folder/pump.csv": spans, "another.csv": []}))
    else:
        path.write_text("\n".join(["name,start,end", *(f"pump,{start},{end}" for start, end in spans)]))
    pump, fan = label_ranges(found, path)
    assert pump.anomalous is not None
    assert pump.anomalous.tolist() == [False, True, True, False, False, True]
    assert fan.anomalous is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "can't be read as labelled ranges"),
        ('{"pump": [["2026-01-03", "2026-01-02"]]}', "ends before it starts"),
        ('{"pump": [["soon", "2026-01-02"]]}', "'soon' of pump is neither a number nor a date"),
        ('{"valve.csv": [[1, 2]]}', "labels valve, none of the series pump"),
        ('{"pump": [1]}', "can't be read as labelled ranges"),
        ("[]", "can't be read as labelled ranges"),
    ],
)
def test_wrong_ranges_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(UserError, match=said) as fault:
        label_ranges(open_recordings(written(tmp_path), SERIES), tmp_path / "ranges.json")
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("data", ["missing.csv", "no/*.csv"])
def test_a_wrong_path_is_named(data: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not found|matches no file"):
        open_recordings(str(tmp_path / data), SERIES)
