"""Six methods on seven sets of series: linear probe and 1-NN on frozen features, beside random init, raw series, classical baselines.

    python benchmarks/series.py choose OUT --sets BorealTC --methods mae --knobs normalise=false masked.rate=0.6
    python benchmarks/series.py final OUT [--sets ...] [--methods ...] [--seeds 3]
    python benchmarks/series.py classical OUT         with aeon (pip): MiniRocket with ridge regression, 1-NN with dynamic time warping
    python benchmarks/series.py table OUT

choose: a third of the training part validates (of BorealTC: a third of its runs); the test part is not read. final: pretraining on the
training part without labels, probes fitted on it with labels, scores on the test part. Both append to OUT/{choose,final}.jsonl.
The sets are those of UNTAUGHT_DATA: six of the UCR and UEA archives with their own split, and BorealTC (gyroscope and accelerometer of a
robot on five terrains, windows of 1.28 s), of which every third run of each terrain is the test part.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.data.sources import open_source
from untaught.evaluation.knn import knn_right
from untaught.evaluation.linear import LinearProbe
from untaught.evaluation.models import random_init_encoder
from untaught.inference.embed import Embedder, vectors_of
from untaught.modalities.series import SERIES
from untaught.pipeline.pretrained import Pretrained

SETS = "ItalyPowerDemand,JapaneseVowels,BasicMotions,GunPoint,ArrowHead,OSULeaf,BorealTC"
METHODS = "mae,data2vec,simclr,vicreg,byol,dino"
WINDOW = 128  # time steps of BorealTC, at 100 Hz
LOOP = {"steps": 200, "batch_size": 16, "evaluate_every": 0, "health_every": 0}
DRAWS = 5  # random inits that the baseline averages
Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # x (N,C,T), NaN behind shorter series; classes (N,); groups (N,), -1 if there are none


def load(name: str) -> dict[str, Part]:
    """The parts "train" and "test"."""
    data = Path(os.environ["UNTAUGHT_DATA"])
    if name == "BorealTC":
        return _borealtc(np.load(data / "borealtc" / "imu.npz"))
    source = open_source(f"{data}/ucr/{name}_*.ts", SERIES)
    rows = {part: list(read) for part, read in source.parts.items()}
    longest = max(row["series"].shape[1] for found in rows.values() for row in found)
    pad = lambda x: np.pad(x, ((0, 0), (0, longest - x.shape[1])), constant_values=np.nan)  # noqa: E731
    return {
        part: (np.stack([pad(row["series"]) for row in found]), np.array([row["label"] for row in found]), np.full(len(found), -1))
        for part, found in rows.items()
    }


def _borealtc(file: Any) -> dict[str, Part]:
    offset, label = file["offset"], file["terrain"]
    windows, classes, runs = [], [], []
    for run, (start, end) in enumerate(itertools.pairwise(offset)):
        count = (end - start) // WINDOW
        windows.append((file["imu"][start : start + count * WINDOW] / file["scale"]).reshape(count, WINDOW, -1).transpose(0, 2, 1))
        classes.append(np.full(count, label[run]))
        runs.append(np.full(count, run))
    x, y, groups = np.concatenate(windows), np.concatenate(classes).astype(np.int64), np.concatenate(runs)
    held_out = np.isin(groups, _thirds(y, groups))
    return {"train": (x[~held_out], y[~held_out], groups[~held_out]), "test": (x[held_out], y[held_out], groups[held_out])}


def _thirds(y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Every third group of each class."""
    return np.concatenate([np.unique(groups[y == one])[2::3] for one in np.unique(y)])


def fold(part: Part, seed: int) -> dict[str, Part]:
    """A training part cut in two: "train", and a third as "test" (which validates), by group if there are groups, else by class."""
    _, y, groups = part
    if groups.max() >= 0:
        shuffled = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
        held_out = np.isin(shuffled, _thirds(y, shuffled))
    else:
        held_out = np.zeros(len(y), bool)
        for one in np.unique(y):
            rows = np.random.default_rng((seed, one)).permutation(np.flatnonzero(y == one))
            held_out[rows[: max(1, len(rows) // 3)]] = True
    return {"train": tuple(each[~held_out] for each in part), "test": tuple(each[held_out] for each in part)}  # type: ignore[dict-item]


def probes(train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray) -> dict[str, float]:
    """Accuracy of a linear probe and of the nearest neighbour by cosine."""
    guess, _ = LinearProbe(train, test).predict(np.arange(len(train)), y_train)
    return {"linear": float((guess == y_test).mean()), "1nn": float(knn_right(train, y_train, test, y_test, (1,))[1].mean())}


def encoded_vectors(model: Pretrained, x: np.ndarray) -> np.ndarray:
    """x (N,C,T) -> (N,D)."""
    return np.asarray(vectors_of(Embedder(model, x)), np.float32)


def encoded(model: Pretrained, parts: dict[str, Part]) -> dict[str, float]:
    (train, y_train, _), (test, y_test, _) = parts["train"], parts["test"]
    return probes(encoded_vectors(model, train), y_train, encoded_vectors(model, test), y_test)


def raw(parts: dict[str, Part]) -> dict[str, float]:
    """The series themselves, standardised by channel, missing values as the mean; 1-NN by Euclidean distance."""
    (train, y_train, _), (test, y_test, _) = parts["train"], parts["test"]
    mean, std = np.nanmean(train, (0, 2), keepdims=True), np.nanstd(train, (0, 2), keepdims=True)
    a, b = (np.nan_to_num((x - mean) / np.maximum(std, 1e-8)).reshape(len(x), -1).astype(np.float32) for x in (train, test))
    nearest = ((b**2).sum(1)[:, None] - 2 * b @ a.T + (a**2).sum(1)).argmin(1)
    return {"linear": probes(a, y_train, b, y_test)["linear"], "1nn": float((y_train[nearest] == y_test).mean())}


def pretrained(x: np.ndarray, method: str, knobs: dict[str, Any], seed: int) -> tuple[Pretrained, float]:
    """The encoder after pretraining on x without labels, and the seconds it took."""
    given: dict[str, Any] = {**LOOP, "seed": seed} | knobs
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:  # the command without export and report, which take longer than the short runs
        model = pretrain(PretrainArguments(x, method, out=Path(place) / "run", modality="series", knobs=given)).model
    assert model is not None
    return model, time.perf_counter() - began


def drawn_again(model: Pretrained, seed: int) -> Pretrained:
    """The same encoder at random init."""
    name, knobs = model.config["encoder"], model.config["encoder_knobs"]
    return model._replace(network=random_init_encoder(name, model.prep.encoder_arguments, knobs, seed))


def random_init(model: Pretrained, parts: dict[str, Part], draws: int = DRAWS) -> dict[str, float]:
    """Mean scores of the same encoder at random init."""
    found = [encoded(drawn_again(model, seed), parts) for seed in range(draws)]
    return {key: statistics.mean(each[key] for each in found) for key in found[0]}


def rows_of(name: str, parts: dict[str, Part], method: str, knobs: dict[str, Any], seed: int, drawn: set[str]) -> Iterator[dict[str, Any]]:
    """Scores of a pretrained encoder, and of its random init unless its name is in `drawn`, to which it is added."""
    model, seconds = pretrained(parts["train"][0], method, knobs, seed)
    about = {"set": name, "encoder": model.config["encoder"], "knobs": knobs, "seed": seed}
    yield {**about, "features": method, **encoded(model, parts), "seconds": round(seconds, 1)}
    if model.config["encoder"] not in drawn:
        drawn.add(model.config["encoder"])
        yield {**about, "features": f"random init, {model.config['encoder']}", **random_init(model, parts)}


def classical(parts: dict[str, Part]) -> Iterator[dict[str, Any]]:
    """Peers from aeon. Series of different lengths are padded with their channel's mean for MiniRocket."""
    from aeon.classification.convolution_based import MiniRocketClassifier  # pyright: ignore[reportMissingImports]
    from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier  # pyright: ignore[reportMissingImports]

    (train, y_train, _), (test, y_test, _) = parts["train"], parts["test"]
    mean, std = np.nanmean(train, (0, 2), keepdims=True), np.nanstd(train, (0, 2), keepdims=True)
    a, b = ((x - mean) / np.maximum(std, 1e-8) for x in (train, test))
    rocket = MiniRocketClassifier(random_state=0).fit(np.nan_to_num(a), y_train)
    yield {"features": "MiniRocket", "linear": float((rocket.predict(np.nan_to_num(b)) == y_test).mean())}
    short = lambda x: [row[:, : np.flatnonzero(np.isfinite(row).any(0))[-1] + 1] for row in x]  # noqa: E731
    warped = KNeighborsTimeSeriesClassifier(n_neighbors=1, distance="dtw").fit(short(a), y_train)
    yield {"features": "DTW", "1nn": float((warped.predict(short(b)) == y_test).mean())}


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown: a line per kind of features, "linear / 1-NN" in % for every set, means over seeds."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        cells.setdefault(row["features"], {}).setdefault(row["set"], []).append(row)
    names = [name for name in SETS.split(",") if any(name in found for found in cells.values())]
    lines = ["| features | " + " | ".join(names) + " | mean |", "|---|" + "---|" * (len(names) + 1)]
    for features, found in cells.items():
        means = {name: [_mean(found.get(name, []), key) for key in ("linear", "1nn")] for name in names}
        both = [[pair[i] for pair in means.values()] for i in (0, 1)]
        means["all"] = [None if None in each else statistics.mean(each) for each in both]  # type: ignore[type-var]
        shown = (" / ".join("-" if value is None else f"{100 * value:.1f}" for value in pair) for pair in means.values())
        lines.append(f"| {features} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    return statistics.mean(row[key] for row in rows) if rows and all(key in row for row in rows) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "final", "classical", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=1, help="of choose: cuts of the training part, and training seeds")
    parser.add_argument("--knobs", nargs="*", default=[], help="key=value")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / f"{'choose' if asked.what == 'choose' else 'final'}.jsonl"
    if asked.what == "table":
        print(table(map(json.loads, file.read_text().splitlines())))
        return
    knobs = dict(knob.split("=", 1) for knob in asked.knobs)

    def keep(rows: Iterable[dict[str, Any]]) -> None:
        with file.open("a") as to:
            for row in rows:
                to.write(json.dumps(row) + "\n")
                print(row, flush=True)

    for name in asked.sets.split(","):
        parts = load(name)
        if asked.what == "classical":
            keep({"set": name, **row} for row in classical(parts))
            continue
        if asked.what == "final":
            keep([{"set": name, "features": "raw series", **raw(parts)}])
        drawn: dict[int, set[str]] = {}  # encoders whose random init was measured, by cut of the training part
        for method in asked.methods.split(","):
            for seed in range(asked.seeds):
                used = fold(parts["train"], seed) if asked.what == "choose" else parts
                keep(rows_of(name, used, method, knobs, seed, drawn.setdefault(seed if asked.what == "choose" else 0, set())))


if __name__ == "__main__":
    main()
