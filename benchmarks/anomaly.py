"""Anomalies in the seven series of NAB's realKnownCause: VUS-PR and AUC-PR of pretrained encoders beside classical detectors.

    python benchmarks/anomaly.py run OUT --methods mae,autoencoder --seeds 1 [--series nyc_taxi,...] [--knobs steps=200]
    python benchmarks/anomaly.py table OUT

Unsupervised: one encoder a series, pretrained on all of its windows without labels, and every time step is scored; the labelled windows
are read only for the measures. Windows are as long as the period of the series, estimated from its autocorrelation (the protocol of
VUS's authors), and an eighth of that apart. Nothing was chosen by these scores: methods have the library's defaults, neighbours are 10.
The series are those of UNTAUGHT_DATA/nab.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from untaught.commands.anomaly import TITLES, detect
from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.data.recordings import open_recordings
from untaught.evaluation.range_precision import period
from untaught.modalities.series import SERIES

LOOP = {"steps": 200, "batch_size": 32, "evaluate_every": 0, "health_every": 0}
METRICS = {"vus_pr": "VUS-PR", "auc_pr": "AUC-PR"}


def measured(path: Path, method: str, knobs: dict[str, str], seed: int) -> Iterator[dict[str, Any]]:
    """A row for every detector and measure."""
    (one,) = open_recordings(path, SERIES)
    length = period(one.series[0][np.isfinite(one.series[0])])
    given: dict[str, Any] = {**LOOP, "window": length, "stride": max(1, length // 8), "seed": seed} | knobs
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        trained = pretrain(PretrainArguments(str(path), method, out=Path(place) / "run", modality="series", knobs=given))
        assert trained.model is not None
        seconds = time.perf_counter() - began
        found = detect(trained.model, trained.path, path, ranges=path.parent / "windows.json")
    for row in found.rows:
        if "group" in row:
            about = {"series": one.name, "method": method, "seed": seed, "window": length, "seconds": round(seconds, 1)}
            yield {**about, "knobs": knobs, **{key: row[key] for key in ("features", "metric", "mean")}}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table of each measure, a line per detector, means over seeds, a column per series and their mean."""
    names = sorted({row["series"] for row in rows})
    parts = []
    for metric, title in METRICS.items():
        lines = [f"| {title} | {' | '.join(names)} | mean |", "|---|" + "---|" * (len(names) + 1)]
        own = [row for row in rows if row["metric"] == metric]
        for features, method in sorted(
            {(row["features"], _whose(row)) for row in own}, key=lambda pair: ([*TITLES].index(pair[0]), pair[1])
        ):
            cells = []
            for name in names:
                values = [row["mean"] for row in own if (row["features"], _whose(row), row["series"]) == (features, method, name)]
                cells.append(statistics.mean(values) if values else None)
            mean = statistics.mean(cells) if None not in cells else None  # type: ignore[type-var]
            shown = " | ".join("" if value is None else f"{value:.3f}" for value in (*cells, mean))
            lines.append(f"| {f'`{method}`, ' if method else ''}{TITLES[features]} | {shown} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _whose(row: dict[str, Any]) -> str:
    """The method that a detector depends on, "" for a classical one."""
    return row["method"] if row["features"] in ("reconstruction", "forecast", "knn", "random_init") else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--series", help="default: all")
    parser.add_argument("--methods", default="mae")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--knobs", nargs="*", default=[], help="key=value")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "anomaly.jsonl"
    if asked.what == "table":
        print(table([json.loads(line) for line in file.read_text().splitlines()]))
        return
    folder = Path(os.environ["UNTAUGHT_DATA"]) / "nab"
    paths = sorted(folder.glob("*.csv.gz"))
    chosen = asked.series.split(",") if asked.series else [path.name.removesuffix(".csv.gz") for path in paths]
    knobs = dict(knob.split("=", 1) for knob in asked.knobs)
    for method in asked.methods.split(","):
        for path in paths:
            for seed in range(asked.seeds) if path.name.removesuffix(".csv.gz") in chosen else ():
                for row in measured(path, method, knobs, seed):
                    with file.open("a") as to:
                        to.write(json.dumps(row) + "\n")
                    print(row, flush=True)


if __name__ == "__main__":
    main()
