"""Anomalies through the public interface: scores, baselines, labels of three kinds, a reference, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import untaught as ut

STEPS, FIRST, LAST = 480, 300, 320
DETECTORS = {"reconstruction", "knn", "random_init", "raw", "sub_pca", "isolation_forest"}


def wave(name: str = "pump", broken: bool = True) -> pd.DataFrame:
    """A noisy wave of period 16 that stands still for a while."""
    random = np.random.default_rng(len(name))
    x = np.sin(2 * np.pi * np.arange(STEPS) / 16) + random.normal(0, 0.05, STEPS)
    if broken:
        x[FIRST : LAST + 1] = 0.1
    time = pd.date_range("2026-01-01", periods=STEPS, freq="h")
    mark = (np.arange(STEPS) >= FIRST) & (np.arange(STEPS) <= LAST) & broken
    return pd.DataFrame({"id": name, "time": time, "x": x, "broken": mark.astype(int)})


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> ut.Run:
    knobs: dict[str, Any] = {"window": 16, "stride": 4, "steps": 20, "batch_size": 32, "precision": "float32", "encoder__width": 16}
    out = tmp_path_factory.mktemp("anomaly") / "run"
    return ut.pretrain(wave().drop(columns="broken"), "mae", modality="series", out=out, encoder__depth=1, **knobs)


def test_a_broken_wave_is_found_and_compared(run: ut.Run, tmp_path: Path) -> None:
    data = pd.concat([wave(), wave("fan")])
    found = ut.anomaly(run, data, tmp_path / "out", label="broken")
    table = found.table
    assert [*table.columns[:3]] == ["series", "step", "time"]
    assert set(table.columns) >= DETECTORS
    assert len(table) == 2 * STEPS
    assert str(table["time"][1]) == "2026-01-01 01:00:00"
    inside = table["anomaly"].astype(bool)
    for detector in ("knn", "raw"):
        assert table[detector][inside].mean() > 1.5 * table[detector][~inside].mean()
    means = {(row["features"], row["metric"]): row["mean"] for row in found.scores if "group" not in row}
    assert set(means) == {(name, metric) for name in DETECTORS for metric in ("vus_pr", "auc_pr")}
    assert means["raw", "vus_pr"] > 0.5 > inside.mean()
    for name, metric in means:
        each = [row["mean"] for row in found.scores if row["features"] == name and row["metric"] == metric and "group" in row]
        assert means[name, metric] == pytest.approx(sum(each) / 2)
    best = max((name for name, metric in means if metric == "vus_pr"), key=lambda name: means[name, "vus_pr"])
    assert ("use it instead" in found.sentences[0]) == (best not in ("reconstruction", "knn"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.csv", "pump.png", "fan.png", "evaluation.json", "report.html"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert found.sentences[0].replace("'", "&#39;") in page
    assert page.count("data:image/png;base64,") == 2
    assert "anomalies in data in memory" in page
    assert pd.read_csv(tmp_path / "out" / "scores.csv")["knn"].to_numpy() == pytest.approx(table["knn"].to_numpy(), rel=1e-5)
    shade = np.asarray(Image.open(tmp_path / "out" / "pump.png").convert("RGB"))[30]
    assert (shade == (255, 214, 214)).all(1).nonzero()[0].mean() / shade.shape[0] == pytest.approx((FIRST + LAST) / 2 / STEPS, abs=0.02)


def test_labels_change_measures_and_never_scores(run: ut.Run, tmp_path: Path) -> None:
    data = wave().drop(columns="broken")
    plain = ut.anomaly(run, data)
    assert plain.scores == []
    assert "nothing was measured" in plain.sentences[0]
    (tmp_path / "ranges.json").write_text(json.dumps({"pump": [["2026-01-13 12:00", "2026-01-14 08:00"]]}))
    marked = ut.anomaly(run, data, ranges=tmp_path / "ranges.json")
    pd.testing.assert_frame_equal(plain.table, marked.table.drop(columns="anomaly"))
    assert marked.table["anomaly"].sum() == LAST - FIRST + 1
    assert all("low" not in row for row in marked.scores)  # one series has no interval


def test_a_reference_is_what_distances_are_to(run: ut.Run) -> None:
    normal = wave("normal", broken=False).drop(columns="broken")
    own, other = (ut.anomaly(run, wave(), label="broken", reference=given).table for given in (None, normal))
    again = ut.anomaly(run, wave(), label="broken", reference=wave("normal", broken=False)).table  # its label column is no channel
    pd.testing.assert_frame_equal(again, other)
    assert not np.allclose(own["raw"], other["raw"])
    inside = other["anomaly"].astype(bool)
    assert other["raw"][inside].min() > np.median(other["raw"][~inside])
    np.testing.assert_allclose(own["reconstruction"], other["reconstruction"])  # the reconstruction has no reference


def test_a_method_that_forecasts_scores_by_the_error_of_its_forecasts(tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"window": 32, "stride": 4, "steps": 200, "batch_size": 32, "encoder__width": 16, "encoder__patch": 4}
    made = ut.pretrain(wave().drop(columns="broken"), "forecasting", modality="series", out=tmp_path / "run", encoder__depth=1, **knobs)
    found = ut.anomaly(made, wave(), label="broken")
    inside = found.table["anomaly"].astype(bool)
    assert "reconstruction" not in found.table
    assert found.table["forecast"][inside].mean() > 2 * found.table["forecast"][~inside].mean()
    ut.predict(made, wave().drop(columns="broken"), tmp_path / "drawn")
    assert "rmse" in pd.read_csv(tmp_path / "drawn" / "predictions.csv")
    assert list((tmp_path / "drawn").glob("*.png"))


def test_a_shorter_window_and_other_neighbours(run: ut.Run) -> None:
    chosen: list[dict[str, Any]] = [{}, {"window": 8}, {"neighbours": 2}]
    tables = [ut.anomaly(run, wave().drop(columns="broken"), **knobs).table for knobs in chosen]
    assert not np.allclose(tables[0]["knn"], tables[1]["knn"])
    assert not np.allclose(tables[0]["knn"], tables[2]["knn"])
    np.testing.assert_allclose(tables[0]["sub_pca"], tables[2]["sub_pca"])


def faults() -> list[tuple[dict[str, Any], str]]:
    short = wave().drop(columns="broken")[:20]
    holes = wave().drop(columns="broken")
    holes.loc[5, "x"] = np.nan
    return [
        ({"data": short}, "20 time steps, fewer than 2 windows of 16"),
        ({"data": holes}, "train with missing=True"),
        ({"data": np.zeros((2, 3, 90))}, "3 channels, not 1"),
        ({"data": wave(), "label": "nothing"}, "no column nothing"),
        ({"data": wave(), "label": "broken", "ranges": "x.json"}, "give --ranges or --label, not both"),
        ({"data": "missing.csv"}, "missing.csv not found"),
        ({"data": wave(), "window": 99}, "window=99: the encoder was trained on up to 16 time steps"),
        ({"data": wave(), "windows": 8}, "unknown knob windows"),
        ({"data": wave(), "neighbours": 0}, "neighbours=0"),
    ]


@pytest.mark.parametrize(("given", "said"), faults(), ids=[said for _, said in faults()])
def test_faults_are_one_line(run: ut.Run, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ut.UserError, match=said) as fault:
        ut.anomaly(run, **given)
    assert "\n" not in str(fault.value)


def test_an_existing_folder_and_a_run_of_images_are_refused(run: ut.Run, tmp_path: Path) -> None:
    with pytest.raises(ut.UserError, match="already exists; choose another --out"):
        ut.anomaly(run, wave(), tmp_path)
    pictures = ut.pretrain(np.zeros((16, 8, 8, 3), np.uint8), "simclr", out=tmp_path / "i", steps=1, batch_size=8, encoder__width=4)
    with pytest.raises(ut.UserError, match="anomalies are found in time series"):
        ut.anomaly(pictures, wave())
