"""Forecasting from a table of time steps to the next values, on waves that a linear head continues; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import untaught as ut
from untaught.commands.reproduce import reproduce

pytestmark = pytest.mark.usefixtures("bare_runs")
PERIOD = 12
TINY: dict[str, Any] = {"horizon": 4, "ends": (0.5, 0.75, 1.0), "batch_size": 32, "steps": 4, "precision": "float32"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def waves(length: int = 400) -> pd.DataFrame:
    time, random = np.arange(length), np.random.default_rng(0)
    angle = 2 * np.pi * time / PERIOD
    noise = 0.05 * random.normal(size=(2, length))
    return pd.DataFrame(
        {
            "date": pd.date_range("2026-01-01", periods=length, freq="h").astype(str),
            "load": 50 + 10 * np.sin(angle) + 10 * noise[0],
            "heat": 3 - np.cos(angle) + noise[1],
        }
    )


def written(folder: Path, frame: pd.DataFrame, name: str = "waves.csv") -> Path:
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / name, index=False)
    return folder / name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("data"), waves())


def pretrained(data: Any, out: Path, **knobs: Any) -> ut.Run:
    own: dict[str, Any] = {"encoder__width": 16, "encoder__depth": 1, "encoder__patch": 6, "precision": "float32", "steps": 2}
    own |= {"window": 24, "stride": 4, "until": 0.5, "batch_size": 16}
    return ut.pretrain(data, "mae", encoder="patch_series", out=out, modality="series", **{**own, **knobs})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ut.Run:
    return pretrained(data, tmp_path_factory.mktemp("run") / "run", apart=True)


@pytest.fixture(scope="module")
def model(run: ut.Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> ut.Model:
    return run.finetune(data, "forecast", out=tmp_path_factory.mktemp("model") / "model", scratch=False, **TINY)


def test_waves_are_continued(run: ut.Run, model: ut.Model) -> None:
    rows = {(row["features"], row["metric"]): row["mean"] for row in json.loads((run.path / "evaluation.json").read_text())["rows"]}
    assert rows["encoder", "mse@4"] < 0.1 < rows["last_value", "mse@4"]
    assert rows["seasonal_naive", "mse@4"] < 0.05
    assert rows["window_ridge", "mse@4"] < 0.05
    assert model.config["names"] == ["load", "heat"]
    assert (model.config["context"], model.config["horizon"], model.config["apart"]) == (24, 4, True)
    channels = pd.read_csv(model.path / "channels.csv")
    assert channels.channel.tolist() == ["load", "heat"]
    np.testing.assert_allclose(channels.mse.mean(), rows["encoder", "mse@4"], rtol=1e-3)
    assert channels.mae_in_unit[0] == pytest.approx(channels.mae[0] * model.config["std"][0], rel=1e-3)
    assert np.asarray(Image.open(model.path / "forecasts.png")).std() > 5


def test_the_next_values_have_their_times(model: ut.Model, data: Path, tmp_path: Path) -> None:
    frame: Any = model.predict(data)
    assert frame.time.unique().tolist() == [f"2026-01-17 {hour:02}:00:00" for hour in (16, 17, 18, 19)]
    load = frame[frame.channel == "load"].sort_values("step").value.to_numpy()
    np.testing.assert_allclose(load, 50 + 10 * np.sin(2 * np.pi * np.arange(400, 404) / PERIOD), atol=2.5)
    place: Any = ut.predict(model.path, data, tmp_path / "next.parquet")
    assert len(pd.read_parquet(place)) == 8


def test_pictures_go_to_a_folder(model: ut.Model, data: Path, tmp_path: Path) -> None:
    ut.predict(model.path, data, tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1
    assert len(pd.read_csv(tmp_path / "pictures" / "predictions.csv")) == 8


def test_frozen_vectors_beside_all_baselines(run: ut.Run, data: Path, capfd: Any) -> None:
    rows = ut.evaluate(run, data, task="forecast", horizon=4, ends="200,300,400", precision="float32")
    assert {row["features"] for row in rows} == {"encoder", "random_init", "window_ridge", "seasonal_naive", "last_value"}
    assert all(row["probe"] == "frozen" for row in rows)
    said = capfd.readouterr().err
    assert "in time, at 200, 300, 400: train 173, val 97, test 97" in said
    assert "seasonal naive: period" in said
    mean = {row["features"]: row["mean"] for row in rows if row["metric"] == "mse@4"}
    assert ("forecasts without pretraining have a lower MSE" in said) == (min(mean.values()) < mean["encoder"])


def test_other_channels_at_use_where_each_is_apart(model: ut.Model) -> None:
    frame: Any = model.predict(waves(30)[["date", "load"]])
    assert frame.channel.unique().tolist() == ["load"]
    assert len(frame) == 4


def test_missing_values_in_context_and_future(data: Path, tmp_path: Path) -> None:
    frame = waves()
    random = np.random.default_rng(1)
    for name in ("load", "heat"):
        frame.loc[random.random(len(frame)) < 0.1, name] = np.nan
    frame.loc[376:, "heat"] = np.nan  # nothing to see of the last context
    gappy = written(tmp_path / "gappy", frame)
    run = pretrained(gappy, tmp_path / "run", apart=True)
    model = run.finetune(gappy, "forecast", out=tmp_path / "model", scratch=False, **TINY)
    assert {row["metric"]: row["mean"] for row in model.scores if row["features"] == "encoder"}["mse@4"] < 0.5
    found: Any = model.predict(gappy)
    assert np.isfinite(found.value).all()
    heat = found[found.channel == "heat"].value
    np.testing.assert_allclose(heat, model.config["mean"][1], rtol=1e-5)


def test_channels_read_together(data: Path, tmp_path: Path, capfd: Any) -> None:
    run = pretrained(data, tmp_path / "run")
    model = run.finetune(data, "forecast", out=tmp_path / "model", **{**TINY, "steps": 2})
    assert model.config["apart"] is False
    assert {row["features"] for row in model.scores} >= {"encoder", "random_init", "window_ridge"}
    with pytest.raises(ut.UserError, match="has no channel heat, but load; the encoder reads load, heat"):
        model.predict(waves(30)[["date", "load"]])
    capfd.readouterr()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"horizon": 0}, "horizon=0: must be a whole number from 1"),
        ({"horizon": 500}, "the longest series has 400 time steps, but a window has 24 of context and 500 to forecast"),
        ({"ends": (0.5, 0.5, 1.0)}, r"ends=0.5,0.5,1: must rise"),
        ({"ends": (0.05, 0.75, 1.0)}, "no train window"),
        ({"read": "first"}, "read=first"),
        ({"horizons": 4}, "horizon"),
        ({"label": "load"}, "--label load: --task forecast needs no labels"),
    ],
)
def test_what_can_not_be(run: ut.Run, data: Path, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(ut.UserError, match=said):
        run.finetune(data, "forecast", **{**TINY, **knobs})


def test_constant_channels(run: ut.Run, tmp_path: Path, capfd: Any) -> None:
    flat = waves().assign(heat=5.0)
    model = run.finetune(written(tmp_path / "one", flat), "forecast", out=tmp_path / "model", scratch=False, **{**TINY, "steps": 1})
    assert "channel 1 constant or missing in the training part: scored in its own unit" in capfd.readouterr().err
    found: Any = model.predict(flat)
    np.testing.assert_allclose(found[found.channel == "heat"].value, 5.0, atol=1e-3)
    with pytest.raises(ut.UserError, match="every channel is constant or missing"):
        run.finetune(written(tmp_path / "all", flat.assign(load=1.0)), "forecast", **TINY)


def test_a_short_series_is_skipped(model: ut.Model, tmp_path: Path, capfd: Any) -> None:
    both = pd.concat([waves(30).assign(id="long"), waves(20).assign(id="short")])
    found: Any = model.predict(written(tmp_path / "both", both))
    assert found.name.unique().tolist() == ["long"]
    assert "skipped 1 that are not readable series: short: 20 time steps, but the model reads 24" in capfd.readouterr().err
    with pytest.raises(ut.UserError, match="20 time steps, but the model reads 24"):
        model.predict(waves(20))


def test_a_recipe_is_held_to_its_forecast(data: Path, tmp_path: Path) -> None:
    score = {"features": "encoder", "probe": "frozen", "labels": "all", "metric": "mse@4", "low": 0, "high": 0.2}
    knobs = {
        "steps": 1,
        "batch_size": 16,
        "window": 24,
        "stride": 8,
        "until": 0.5,
        "encoder.width": 16,
        "encoder.depth": 1,
        "encoder.patch": 6,
    }
    task: dict[str, Any] = {"name": "forecast", "horizon": 4, "ends": "0.5,0.75,1"}
    said = {"data": str(data), "modality": "series", "method": "mae", "encoder": "patch_series", "knobs": {**knobs, "apart": True}}
    place = tmp_path / "waves.yaml"
    place.write_text(yaml.safe_dump({**said, "task": task, "scores": [score]}))
    assert reproduce(place, out=tmp_path / "run") == tmp_path / "run"
    place.write_text(yaml.safe_dump({**said, "task": {"horizon": 4}, "scores": [score]}))
    with pytest.raises(ut.UserError, match="the task must have a name"):
        reproduce(place, out=tmp_path / "other")


def test_steps_seen_in_pretraining_are_said(run: ut.Run, data: Path, tmp_path: Path, capfd: Any) -> None:
    run.finetune(data, "forecast", out=tmp_path / "one", scratch=False, **{**TINY, "steps": 1})
    assert "has seen" not in capfd.readouterr().err
    run.finetune(data, "forecast", out=tmp_path / "two", scratch=False, **{**TINY, "steps": 1, "ends": (0.4, 0.7, 1.0)})
    assert "it has seen (until=0.5) steps that it is tested on; pretrain with until=0.4" in capfd.readouterr().err


def test_channels_are_found_by_name(data: Path, tmp_path: Path) -> None:
    run = pretrained(data, tmp_path / "run")
    model = run.finetune(waves()[["date", "heat", "load"]], "forecast", out=tmp_path / "model", scratch=False, **TINY)
    made: Any = model.predict(waves())
    assert made.channel.tolist()[:2] == ["load", "heat"]
    assert made[made.channel == "load"].value.mean() > 30 > 10 > made[made.channel == "heat"].value.mean()
    other: Any = model.predict(waves()[["heat", "date", "load"]].assign(mark=1))
    assert other.value.tolist() == made.value.tolist()
    renamed: Any = model.predict(waves().set_axis(["date", "a", "b"], axis=1))
    assert renamed.channel.tolist()[:2] == ["a", "b"]
    assert renamed.value.tolist() == made.value.tolist()
