"""Anomalies in long series by a pretrained encoder: scores of every time step, beside random init and classical detectors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch

from untaught.console import progress_bar, say, warn
from untaught.core import Batch, Encoder, Options, Preprocessor, UserError
from untaught.data.recordings import Recording, label_ranges, open_recordings
from untaught.evaluation.anomaly import Windows, anomaly_rows, isolation_forest, knn_distance, sub_pca
from untaught.evaluation.features import encode
from untaught.evaluation.models import random_init_encoder
from untaught.inference.predict import plain_stem
from untaught.modalities.series.baselines import complete
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.heads import Heads, holds_heads, load_heads
from untaught.pipeline.pretrained import Pretrained
from untaught.pipeline.view_pipeline import used_view
from untaught.ranges import Samples, Within, in_range
from untaught.report import anomaly as report
from untaught.storage.run_dir import read_run, seed_of

MOST = 5_000  # windows of all series
DRAWS = 4  # of masks or noise, for the error of a reconstruction
LEAST = 2  # lengths of a window that a series must have
RECONSTRUCTION, FORECAST, FEATURES, RANDOM_INIT = "reconstruction", "forecast", "knn", "random_init"
OURS = (RECONSTRUCTION, FORECAST, FEATURES)
TITLES = {
    RECONSTRUCTION: "reconstruction error",
    FORECAST: "forecast error",
    FEATURES: "kNN on features",
    RANDOM_INIT: "kNN, random init",
    "raw": "kNN on raw windows",
    "sub_pca": "sub-PCA",
    "isolation_forest": "isolation forest",
}


Steps = Annotated[int, Within(2, 1 << 20)]
Neighbours = Annotated[int, Within(1, 1000)]
KNOBS: dict[str, Any] = {"window": Steps, "neighbours": Neighbours}


class Detected(NamedTuple):
    """Scores of every time step of several series, and what they are worth where anomalies are labelled."""

    recordings: list[Recording]
    observed: list[np.ndarray]  # (T,) bool of each: steps with a value
    scores: dict[str, list[np.ndarray]]  # detector -> (T,) of each
    rows: list[Options]  # of evaluation.json
    window: int


@in_range
def detect(
    model: Pretrained,
    run: Path,
    data: Any,
    *,
    ranges: Path | None = None,
    label: str | None = None,
    reference: Any = None,
    columns: dict[str, str] | None = None,
    window: Steps | None = None,
    neighbours: Neighbours = 10,
    batch_size: Samples = 256,
    out: Path | None = None,
) -> Detected:
    """Scores every time step of `data` (see `open_recordings`) with the encoder of a run, and with classical detectors.

    reference: data that are known to be normal, which distances and classical detectors are fitted to; by default `data` itself, where a
    window is not compared with windows that overlap with it. ranges: a file of labelled anomalies (see `label_ranges`); label: a column of
    0 and 1. They are used only for the measures. window: steps, by default as in training, and no longer. out: a folder to be written
    later, checked first. Raises UserError.
    """
    prep = model.prep
    if out is not None and os.path.lexists(out):
        raise UserError(f"{out} already exists; choose another --out")
    if not prep.modality.numbered:
        raise UserError(f"anomalies are found in time series; {run} is a run of {prep.modality.noun}")
    if ranges is not None and label is not None:
        raise UserError("give --ranges or --label, not both: each says where the anomalies are")
    length = _window(prep, window)
    given = _readable(open_recordings(data, prep.modality, columns, label), prep, length)
    if ranges is not None:
        given = label_ranges(given, ranges)
    normal = None if reference is None else _readable(open_recordings(reference, prep.modality, columns, label, False), prep, length)
    windows = _cut(given, length)
    steps = [one.series.shape[1] for one in given]
    say(f"data      {len(given):,} series of {sum(steps):,} time steps, {len(windows.starts):,} windows of {length}")
    known = windows if normal is None else _cut(normal, length)
    say(f"reference {'the same data, without labels' if normal is None else f'{len(known.starts):,} windows of {_named(reference)}'}")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    read = lambda where, among: _batches(among, where, batch_size)  # noqa: E731
    at = windows if normal is None else None
    found: dict[str, np.ndarray] = {}
    heads = load_heads(run) if holds_heads(run) else None
    if heads is not None and heads.cls.answers and heads.config["views"][0]["name"] in prep.modality.pretexts:
        found[FORECAST if "causal" in heads.cls.needs else RECONSTRUCTION] = _answer_error(
            heads, read(windows, given), device, len(windows.starts)
        )
    config, seed = model.config, seed_of(read_run(run / "run.yaml")) if (run / "run.yaml").exists() else 0
    networks: dict[str, Encoder] = {FEATURES: model.network}
    if not config["encoder"].startswith("module:"):
        networks[RANDOM_INIT] = random_init_encoder(config["encoder"], prep.encoder_arguments, config["encoder_knobs"], seed)
    for name, network in networks.items():
        queries = _features(network, model, read(windows, given), device)
        bank = queries if normal is None else _features(network, model, read(known, normal), device)
        mean, std = bank.mean(0), bank.std(0)
        standard = [(each - mean) / np.maximum(std, 1e-6) for each in (bank, queries)]
        found[name] = knn_distance(standard[0], standard[1], neighbours, at)
    queries = _raw(prep, read(windows, given))
    bank = queries if normal is None else _raw(prep, read(known, normal))
    with progress_bar("classical detectors") as bar:
        task = bar.add_task("", total=3, note="")
        for name, score in {
            "raw": lambda: knn_distance(bank, queries, neighbours, at),
            "sub_pca": lambda: sub_pca(bank, queries),
            "isolation_forest": lambda: isolation_forest(bank, queries, seed),
        }.items():
            found[name] = score()
            bar.update(task, advance=1, note=TITLES[name])
    scores = {name: windows.spread(values, steps) for name, values in found.items()}
    observed = [np.asarray(np.isfinite(one.series).any(0)) for one in given]
    return Detected(given, observed, scores, _rows(given, observed, scores, _named(data)), length)


def _named(data: Any) -> str:
    """For messages."""
    return str(data) if isinstance(data, str | Path) else "data in memory"


def _window(prep: Preprocessor, asked: int | None) -> int:
    """The length of a window. Raises UserError for a run of whole series, and for more steps than in training."""
    longest = prep.settings["length"]
    if asked is not None and asked > longest:
        raise UserError(f"window={asked}: the encoder was trained on up to {longest} time steps; give at most {longest}")
    return asked or longest


def _readable(recordings: list[Recording], prep: Preprocessor, length: int) -> list[Recording]:
    """Those of at least two windows that the encoder can read, without missing values at the end. Raises UserError if none is left."""
    kept, faults = [], []
    for one in recordings:
        try:
            values = prep.decode({"series": one.series, "channels": "\n".join(one.channels)})["values"]
        except ValueError as error:
            faults.append(f"{one.name}: {error}")
            continue
        if len(values) < LEAST * length:
            faults.append(
                f"{one.name}: has {len(values):,} time steps, fewer than {LEAST} windows of {length}; give window=N, or train with it"
            )
            continue
        marks = None if one.anomalous is None else one.anomalous[: len(values)]
        kept.append(one._replace(series=values.T, times=one.times[: len(values)], anomalous=marks))
    if not kept:
        raise UserError(f"none of the {len(recordings):,} series can be scored ({faults[0] if faults else 'there is none'})")
    for fault in faults[:3]:
        warn(f"skipping {fault}")
    if len(faults) > 3:
        warn(f"skipping {len(faults) - 3:,} more series")
    return kept


def _cut(recordings: Sequence[Recording], length: int) -> Windows:
    """Windows one step apart, or as far as MOST of them allow."""
    steps = [one.series.shape[1] for one in recordings]
    return Windows.of(steps, length, -(-sum(steps) // MOST))


def _batches(recordings: Sequence[Recording], windows: Windows, size: int) -> Iterator[Batch]:
    for first in range(0, len(windows.starts), size):
        places = zip(windows.series[first : first + size], windows.starts[first : first + size], strict=True)
        values = np.stack([recordings[number].series[:, start : start + windows.length].T for number, start in places])
        x = torch.from_numpy(values.astype(np.float32))
        yield {"values": x, "values_valid": torch.ones(x.shape[:2], dtype=torch.bool), "index": torch.arange(first, first + len(x))}


@torch.no_grad()
def _answer_error(heads: Heads, batches: Iterator[Batch], device: torch.device, count: int) -> np.ndarray:
    """The root mean square error of the method's answer to its pretext task (N,), the mean over draws where something is drawn."""
    views = heads.views(heads.encoder.prep, 0)
    measure = heads.encoder.prep.modality.pretexts[views.names[0]].measure
    found, method, draws = np.zeros(count), None, DRAWS
    with progress_bar("pretext task") as bar:
        task = bar.add_task("", total=count, note="")
        for batch in batches:
            rows = batch["index"].numpy()
            batch = {key: value.to(device) for key, value in batch.items()}
            method = method or heads.build(batch, views).to(device)
            errors = []
            for draw in range(draws):
                with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device.type)):
                    seen = views(batch, draw)
                    answer = method.solve(seen).float()
                errors.append(measure(seen[0], answer, views.options[0], views.prep)["rmse"])
            found[rows] = np.mean(errors, 0)
            draws = draws if np.ptp(errors, 0).any() else 1  # nothing is drawn
            bar.update(task, advance=len(rows))
    return found


def _features(network: Encoder, model: Pretrained, batches: Iterator[Batch], device: torch.device) -> np.ndarray:
    view = used_view(model.prep, model.config["view"])
    vectors = encode(network.to(device), batches, lambda batch: view(batch, 0)[0], device, has_bfloat16(device.type))
    return np.concatenate([each for _, each in vectors])


def _raw(prep: Preprocessor, batches: Iterator[Batch]) -> np.ndarray:
    """The values of windows (N, L * C), standardised by channel, missing ones interpolated."""
    return np.concatenate([complete(batch, prep)[0].flatten(1).numpy() for batch in batches])


def _rows(recordings: list[Recording], observed: list[np.ndarray], scores: dict[str, list[np.ndarray]], data: str) -> list[Options]:
    names = [one.name for one in recordings]
    marks = [None if one.anomalous is None else one.anomalous[seen] for one, seen in zip(recordings, observed, strict=True)]
    first = [one.series[0][np.isfinite(one.series[0])] for one in recordings]
    found: list[Options] = []
    for name, each in scores.items():
        own = [values[seen] for values, seen in zip(each, observed, strict=True)]
        found += [{"features": name, **row, "data": data} for row in anomaly_rows(marks, own, first, names)]
    return found


def sentences(detected: Detected) -> list[str]:
    """What was found, in words: where a classical detector is ahead, first."""
    means = {row["features"]: row["mean"] for row in detected.rows if row["metric"] == "vus_pr" and "group" not in row}
    if not means:
        return ["No anomalies are labelled: nothing was measured. With --ranges FILE or --label COLUMN, detectors are compared."]
    best = max(means, key=means.__getitem__)
    ours = max((name for name in OURS if name in means), key=means.__getitem__)
    text = lambda name: f"{TITLES[name]} ({means[name]:.3f})"  # noqa: E731
    count = len({row["group"] for row in detected.rows if "group" in row})
    over = f"mean VUS-PR over {count} series" if count > 1 else "VUS-PR"
    if best in OURS:
        second = max((name for name in means if name not in OURS), key=means.__getitem__)
        return [f"The encoder's {text(best)} has the best {over}, ahead of {text(second)}."]
    return [f"{text(best)} has the best {over}, ahead of the encoder's {text(ours)}: use it instead."]


def write(detected: Detected, run: Path, data: Any, out: Path) -> None:
    """Writes scores.csv, NAME.png of every series, the measures and report.html to a new folder."""
    used = {"report", "scores"}
    stems = [plain_stem(one.name, used) for one in detected.recordings]
    about = f"anomalies in {_named(data)}, by the encoder of {run}, in windows of {detected.window} time steps"
    own = detected.recordings, detected.observed, detected.scores
    report.write_folder(out, *own, detected.rows, TITLES, sentences(detected), about, stems)
