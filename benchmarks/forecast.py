"""Forecasts of ETTh1, multivariate, on every test window: encoders frozen and fine-tuned, beside forecasts without an encoder.

    python benchmarks/forecast.py pretrain OUT [--encoders patchtst,ts2vec,forecasting]
    python benchmarks/forecast.py frozen OUT --encoders patchtst --horizons 96
    python benchmarks/forecast.py heads OUT --encoders patchtst,ts2vec --horizons 24,48,96,168
    python benchmarks/forecast.py baselines OUT --encoders patchtst --horizons 48,168
    python benchmarks/forecast.py finetune OUT --encoders patchtst --horizons 96
    python benchmarks/forecast.py table OUT

Pretraining sees the first 8,640 hours alone; training, validation and test futures lie before hours 8,640, 11,520 and 14,400. `frozen`:
ridge regression on the vectors, its penalty by the validation part, for the encoder, its random init and the values themselves. `heads`:
one such head for the longest horizon; each shorter one is scored on its first steps, on every test window of its own. `baselines`:
forecasts without an encoder alone. Settings were chosen on the validation part. Needs UNTAUGHT_DATA/etth.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import untaught as ut
from untaught.commands.finetune import open_tuner
from untaught.data.windows import Windows
from untaught.downstream.forecast import Forecast
from untaught.evaluation.forecasts import summed_errors
from untaught.pipeline.pretrained import load_encoder

ENDS = "8640,11520,14400"
WINDOWS: dict[str, Any] = {"until": 8640, "window": 504, "stride": 8}
PATCHES: dict[str, Any] = {"encoder__patch": 12, "encoder__width": 64, "encoder__depth": 3, "encoder__heads": 4, "apart": True, **WINDOWS}
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> method, encoder, knobs
    "patchtst": ("mae", "patch_series", {**PATCHES, "masked__scale": (1.0, 1.0), "steps": 2000, "batch_size": 128}),
    "ts2vec": ("ts2vec", "ts2vec", {"until": 8640, "window": 200, "stride": 8, "steps": 200, "batch_size": 8}),
    "forecasting": ("forecasting", "patch_causal", {**PATCHES, "steps": 300, "batch_size": 64}),
}
TUNED: dict[str, Any] = {"scratch": False, "steps": 120, "batch_size": 32, "patience": 5}
TITLES = {"window_ridge": "ridge on the window", "seasonal_naive": "seasonal naive", "last_value": "last value"}


def data() -> Path:
    return Path(os.environ["UNTAUGHT_DATA"]) / "etth" / "ETTh1.csv"


def pretrain(name: str, out: Path) -> None:
    method, encoder, knobs = METHODS[name]
    ut.pretrain(data(), method, encoder=encoder, modality="series", out=out / name, **knobs)


def scored(name: str, out: Path, horizon: int, what: str) -> list[dict[str, Any]]:
    begun, own = time.perf_counter(), {"horizon": horizon, "ends": ENDS}
    if what == "frozen":
        rows = ut.evaluate(out / name, data(), task="forecast", out=out / f"{name}-{horizon}.json", **own)
    else:
        rows = ut.finetune(out / name, data(), "forecast", out=out / f"{name}-{horizon}-tuned", **own, **TUNED).scores
    about = {"encoder": name, "what": what, "horizon": horizon, "seconds": round(time.perf_counter() - begun)}
    return [{**about, **{key: row[key] for key in ("features", "metric", "mean", "low", "high")}} for row in rows]


def one_head(name: str, out: Path, horizons: list[int]) -> list[dict[str, Any]]:
    begun, model = time.perf_counter(), load_encoder(out / name)
    tuner, short = (
        open_tuner(
            model, out / name, data(), task="forecast", knobs={"horizon": horizon, "ends": ENDS, "train": "frozen", "scratch": False}
        )
        for horizon in (max(horizons), min(horizons))
    )
    with tempfile.TemporaryDirectory() as scratch:
        trained = tuner.train("encoder", 0, Path(scratch)).eval()
    windows, rows = short.dataset.store, []
    assert isinstance(windows, Windows)
    assert short.test is not None
    with torch.no_grad():
        batches = short.dataset.in_order(short.test, 64).batches(0)
        made = np.concatenate([trained.forecast(short.targets.follow(batch, short.used(batch, 0)[0])).numpy() for batch in batches])
    future = windows.places(short.test)[1]
    for horizon in horizons:
        inside = future + horizon <= float(ENDS.rsplit(",", 1)[1])
        truth = np.stack([windows.store.columns[windows.field][start : start + horizon] for start in future[inside]])
        errors = summed_errors(made[inside, :horizon], truth, trained.std)
        measured = Forecast.metrics([np.add.reduceat(errors, np.arange(0, len(errors), horizon))])
        rows += [_row(name, "one head", horizon, "encoder", metric, score, begun) for metric, score in measured.items()]
    return rows


def without_encoder(name: str, out: Path, horizon: int) -> list[dict[str, Any]]:
    begun = time.perf_counter()
    tuner = open_tuner(load_encoder(out / name), out / name, data(), task="forecast", knobs={"horizon": horizon, "ends": ENDS})
    found = {features: Forecast.metrics([outcome]) for features, outcome in Forecast.baselines(tuner).items()}
    return [_row(name, "frozen", horizon, features, *one, begun) for features, scores in found.items() for one in scores.items()]


def _row(name: str, what: str, horizon: int, features: str, metric: str, score: Any, begun: float) -> dict[str, Any]:
    seconds, (low, high) = round(time.perf_counter() - begun), score.interval
    about = {"encoder": name, "what": what, "horizon": horizon, "seconds": seconds, "features": features}
    return {**about, "metric": f"{metric}@{horizon}", "mean": score.mean, "low": low, "high": high}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: MSE and MAE by horizon, lowest MSE first."""
    cells: dict[str, dict[tuple[int, str], float]] = {}
    for row in rows:
        named = {"encoder": f"{row['encoder']}, {row['what']}", "random_init": f"{row['encoder']} at random init, {row['what']}"}
        title = named.get(row["features"]) or TITLES[row["features"]]
        cells.setdefault(title, {})[row["horizon"], row["metric"].partition("@")[0]] = row["mean"]
    horizons = sorted({horizon for found in cells.values() for horizon, _ in found})
    lines = ["| MSE / MAE | " + " | ".join(map(str, horizons)) + " |", "|---|" + "---|" * len(horizons)]
    for title, found in sorted(cells.items(), key=lambda item: item[1].get((96, "mse"), 9.0)):
        shown = [f"{found[h, 'mse']:.3f} / {found[h, 'mae']:.3f}" if (h, "mse") in found else "" for h in horizons]
        lines.append(f"| {title} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pretrain", "frozen", "heads", "baselines", "finetune", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoders", default=",".join(METHODS))
    parser.add_argument("--horizons", default="24,48,96,168")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "forecast.jsonl"
    if asked.what == "table":
        print(table([json.loads(line) for line in file.read_text().splitlines()]))
        return
    for name in asked.encoders.split(","):
        if asked.what == "pretrain":
            pretrain(name, asked.out)
            continue
        horizons = [int(horizon) for horizon in asked.horizons.split(",")]
        for horizon in horizons if asked.what != "heads" else [0]:
            if asked.what == "heads":
                rows = one_head(name, asked.out, horizons)
            elif asked.what == "baselines":
                rows = without_encoder(name, asked.out, horizon)
            else:
                rows = scored(name, asked.out, horizon, asked.what)
            with file.open("a") as to:
                to.writelines(json.dumps(row) + "\n" for row in rows)
            print(*rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
