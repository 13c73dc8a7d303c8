"""Series that are too short, empty, still, infinite, out of order or alone: one clear line, or skipped and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import untaught as ut
from untaught.core import Record
from untaught.modalities.series import SERIES
from untaught.modalities.series.records import plan

NAN = float("nan")
KNOBS: dict[str, Any] = {"steps": 2, "batch_size": 8, "precision": "float32", "encoder__width": 16, "encoder__depth": 1}


def waves(count: int = 16, steps: int = 40) -> np.ndarray:
    random = np.random.default_rng(0)
    x = np.sin(np.arange(steps) / 3 + random.uniform(0, 6, (count, 2, 1)))
    return x + random.normal(0, 0.1, x.shape)


def train(data: Any, out: Path, method: str = "mae", **more: Any) -> ut.Run:
    return ut.pretrain(data, method, modality="series", out=out, **KNOBS, **more)


def test_short_still_and_empty_series_go_all_the_way(tmp_path: Path, capfd: Any) -> None:
    """Patches of 2 steps: a series of one step is shorter."""
    x = waves()
    x[3, :, 1:], x[5, 1], x[6] = NAN, NAN, NAN  # one step; a channel of one series is missing; a series is
    x[7, 0, 3], x[8, 1, 2] = np.inf, -np.inf
    run = train((x, np.arange(16) % 2), tmp_path / "run")
    said = " ".join(capfd.readouterr().err.split())
    assert "skipped 3 that are not readable series" in said
    for why in ("row 6: has no values", "row 7: has infinite values", "row 8: has infinite values"):
        assert why in said
    vectors = run.embed(x)
    assert vectors.rows is not None
    assert vectors.rows.tolist() == [0, 1, 2, 3, 4, 5, *range(9, 16)]
    assert np.isfinite(vectors).all()
    rows = run.evaluate((x, np.arange(16) % 2))
    assert {"encoder", "random_init", "raw", "MiniRocket"} <= {row["features"] for row in rows}


@pytest.mark.parametrize(("name", "values"), [("constant", 5.0), ("missing", NAN)])
def test_a_channel_that_tells_nothing_is_named(name: str, values: float, tmp_path: Path, capfd: Any) -> None:
    x = waves()
    x[:, 1] = values
    run = train(x, tmp_path / "run", "simclr")
    text = capfd.readouterr()
    assert "channel 2: constant or missing in all series sampled" in " ".join((text.out + text.err).split())
    assert np.isfinite(run.embed(x)).all()
    records: list[Record] = [{"series": one} for one in x]
    assert plan(records, {})["idle"] == [2]
    assert SERIES.remarks((), {"idle": list(range(1, 12))})[0].startswith("channels 1, 2, 3, 4, 5, 6, 7, 8 and 3 more")
    assert "idle" not in plan([{"series": one} for one in waves()], {})


TABLES = {
    "one row": ("time,x\n1,2\n", "every series has 1 time step; at least 2 are required"),
    "no rows": ("time,x\n", "no rows"),
    "repeated": ("time,x\n" + "".join(f"{t // 2},{t}\n" for t in range(200)), "two rows at time 0 and at 99 more"),
    "no date": ("time,x\n2026-01-01,1\nsoon,2\n", "the time 'soon' is neither a number nor a date"),
    "no time": ("time,x\n1,1\n,2\n", "neither a number nor a date|a row without a time"),
    "no number": ("time,x\n1,1\n2,high\n", "'high', which is not a number"),
    "infinite": ("time,x\n1,1\n2,inf\n3,4\n", "has infinite values"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_no_series_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, said = TABLES[name]
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ut.UserError, match=said) as fault:
        train(tmp_path / "x.csv", tmp_path / "run")
    assert "\n" not in str(fault.value)


def test_dates_out_of_order_and_a_few_repeated_are_mended_and_counted(tmp_path: Path, capfd: Any) -> None:
    minutes = [*range(239, -1, -1), 100]
    rows = [f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00,{np.sin(minute / 5)}" for minute in minutes]
    (tmp_path / "x.csv").write_text("\n".join(["date,x", *rows]))
    run = train(tmp_path / "x.csv", tmp_path / "run", "simclr", window=24, stride=8)
    said = " ".join(capfd.readouterr().err.split())
    assert "1 series sorted by time" in said
    assert "1 rows at the time of another averaged" in said
    table = ut.anomaly(run, tmp_path / "x.csv").table
    assert len(table) == 240
    assert table["time"].is_monotonic_increasing


def test_one_series_alone_is_no_training_set_but_is_embedded(tmp_path: Path) -> None:
    with pytest.raises(ut.UserError, match=r"1 sample \(series\) to train on; at least 2 are required"):
        train(waves(1), tmp_path / "run")
    run = train(waves(), tmp_path / "run")
    assert run.embed(waves(1)).shape == run.embed(waves(1, 1)).shape == (1, 16)
    with pytest.raises(ut.UserError, match="3 channels, not 2"):
        run.embed(np.zeros((2, 3, 40)))
