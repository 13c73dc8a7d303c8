"""Terrain from the gyroscope and accelerometer of a wheeled robot (BorealTC), windows of 5 s, split by run, few labelled runs.

    python benchmarks/terrain.py choose OUT --input bands --methods simclr,vicreg [--heads linear] [--knobs temperature=0.5]
    python benchmarks/terrain.py final OUT --input bands --seeds 3 --knobs steps=150 batch_size=32 temperature=1.0 global.jitter=0.6
    python benchmarks/terrain.py table OUT

Every third run of each terrain is the test part (14 of 48 runs). Encoders are pretrained on all training runs without labels, on one of
two inputs. values: pieces of 1.28 s; a 5 s window is encoded as the mean of its four quarters' vectors. bands: pieces of 20 s, turned into
the mean and the log energy in eight bands of frequency of each channel in frames of 0.64 s; the views are crops of 4 to 6 s without other
augmentations than knobs ask for, so that positives are slices of one run, and a 5 s window is encoded whole. Labelled are 1 or 5 runs a
class (fewer where a class has fewer), or all; ten draws, the same for all features. Classifiers: a linear probe, a random forest and, for
vectors and statistics, the mean of two forests; beside, both on the statistics of a window (the usual features of terrain classification)
and on mean and deviation of its bands over time, and MiniRocket with ridge regression. choose: the same on the training runs alone, of
which a third validates, three times another third; the test part is not read. The data are those of UNTAUGHT_DATA/borealtc.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from series import drawn_again, encoded_vectors, pretrained
from series_ts2vec import T_95, rocket_features

from untaught.config.registry import method_class
from untaught.evaluation.linear import LinearProbe

WINDOW, PIECE, STRIDE, QUARTERS = 500, 128, 64, 4  # time steps at 100 Hz
DRAWS = 10
SETTINGS = {"1 run": 1, "5 runs": 5, "all runs": 10**6}
LOOP = {"steps": 200, "batch_size": 16}
LONG, FRAME, HOP, BANDS = 2000, 64, 32, 8  # time steps of a piece, of a frame and between frames; bands of frequency
STILL = {f"{view}.{name}": 0 for view in ("global", "global2") for name in ("jitter", "scaling", "time_warp", "magnitude_warp")}
SLICES = STILL | {"global.scale": "0.2,0.3", "global2.scale": "0.2,0.3"}  # as shares of LONG
HEADS = ("linear", "forest", "two forests", "ridge")


class Runs(NamedTuple):
    series: list[np.ndarray]  # (T,6) each
    terrain: np.ndarray

    def take(self, which: np.ndarray) -> Runs:
        return Runs([self.series[i] for i in which], self.terrain[which])


class Cut(NamedTuple):
    x: np.ndarray  # (N,6,WINDOW)
    y: np.ndarray
    run: np.ndarray


def load() -> Runs:
    file = np.load(Path(os.environ["UNTAUGHT_DATA"]) / "borealtc" / "imu.npz")
    offset = file["offset"]
    imu = (file["imu"] / file["scale"]).astype(np.float32)
    return Runs([imu[start:end] for start, end in itertools.pairwise(offset)], np.asarray(file["terrain"]))


def split(runs: Runs, first: int = 2) -> tuple[Runs, Runs]:
    """All but every third run of each terrain, and these."""
    held_out = np.concatenate([np.flatnonzero(runs.terrain == one)[first::3] for one in np.unique(runs.terrain)])
    return runs.take(np.setdiff1d(np.arange(len(runs.series)), held_out)), runs.take(held_out)


def cut(runs: Runs) -> Cut:
    counts = [len(series) // WINDOW for series in runs.series]
    x = [series[: n * WINDOW].reshape(n, WINDOW, -1).transpose(0, 2, 1) for series, n in zip(runs.series, counts, strict=True)]
    return Cut(np.concatenate(x), np.repeat(runs.terrain, counts), np.repeat(np.arange(len(counts)), counts))


def pieces(runs: Runs, length: int, stride: int) -> np.ndarray:
    """For pretraining: (N,6,length). A shorter run has none."""
    return np.stack([series[s : s + length].T for series in runs.series for s in range(0, len(series) - length + 1, stride)])


def bands(x: np.ndarray) -> np.ndarray:
    """x (N,C,T) -> (N, C * (1 + BANDS), frames): each channel's mean in a frame, and its log energy in bands of frequency."""
    frames = np.lib.stride_tricks.sliding_window_view(x, FRAME, axis=2)[:, :, ::HOP]
    mean = frames.mean(3)
    power = np.abs(np.fft.rfft((frames - mean[..., None]) * np.hanning(FRAME), axis=3)) ** 2
    energies = [np.log(part.mean(3) + 1e-6) for part in np.array_split(power[..., 1:], BANDS, axis=3)]
    return np.concatenate([mean, *energies], 1).astype(np.float32)


def statistics_of(x: np.ndarray) -> np.ndarray:
    """Per channel: mean, deviation, extremes, quartiles, mean square of the steps, and energy in eight bands of frequency."""
    quartiles = np.concatenate(list(np.quantile(x, (0.25, 0.5, 0.75), axis=2)), 1)
    power = np.abs(np.fft.rfft(x - x.mean(2, keepdims=True), axis=2)) ** 2
    bands = [np.log(part.mean(2) + 1e-9) for part in np.array_split(power[:, :, 1:], 8, axis=2)]
    steps = np.log((np.diff(x, axis=2) ** 2).mean(2) + 1e-9)
    return np.concatenate([x.mean(2), x.std(2), x.min(2), x.max(2), quartiles, steps, *bands], 1)


def bands_over_time(x: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of what the encoder is given as bands."""
    frames = bands(x)
    return np.concatenate([frames.mean(2), frames.std(2)], 1)


def vectors(model: Any, x: np.ndarray, read: str) -> np.ndarray:
    """(N,D): of a window's bands, or the mean over the quarters of its values."""
    if read == "bands":
        return encoded_vectors(model, bands(x))
    quarters = x.reshape(len(x), x.shape[1], QUARTERS, -1).transpose(0, 2, 1, 3).reshape(-1, x.shape[1], WINDOW // QUARTERS)
    return encoded_vectors(model, quarters).reshape(len(x), QUARTERS, -1).mean(1)


def forest(train: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, random_state=seed, n_jobs=1).fit(train, y).predict(test)


def two_forests(train: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int, first: int) -> np.ndarray:
    """By the mean of the probabilities of a forest on the first columns and one on the others."""
    from sklearn.ensemble import RandomForestClassifier

    parts = [(train[:, :first], test[:, :first]), (train[:, first:], test[:, first:])]
    fitted = [RandomForestClassifier(200, random_state=seed, n_jobs=1).fit(a, y) for a, _ in parts]
    shares = sum(one.predict_proba(b) for one, (_, b) in zip(fitted, parts, strict=True))
    return fitted[0].classes_[np.argmax(shares, 1)]


def ridge(train: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(with_mean=False), RidgeClassifierCV(np.logspace(-3, 3, 10))).fit(train, y).predict(test)


def labelled(part: Cut, count: int, draw: int) -> np.ndarray:
    """The windows of `count` runs of each class, or of all that it has."""
    random = np.random.default_rng(draw)
    chosen = [random.permutation(np.unique(part.run[part.y == one]))[:count] for one in np.unique(part.y)]
    return np.flatnonzero(np.isin(part.run, np.concatenate(chosen)))


def scored(
    about: dict[str, Any], features: dict[str, tuple[np.ndarray, np.ndarray]], train: Cut, test: Cut, asked: set[str], statistic: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows of the classifiers asked for on features by name (of the training and test windows): right and all windows of each test run.

    statistic: the number of columns before those of the encoder, where both are given.
    """
    for name, (a, b) in features.items():
        heads: dict[str, Any] = {"ridge": ridge} if name == "MiniRocket" else {"forest": forest}
        if name.endswith("+ statistics"):
            heads["two forests"] = lambda a, y, b, seed: two_forests(a, y, b, seed, statistic)
        if name != "MiniRocket":
            probe = LinearProbe(a.astype(np.float32), b.astype(np.float32))
            heads["linear"] = lambda rows, y, probe=probe: probe.predict(rows, y)[0]
        for head, fit in heads.items():
            if head not in asked:
                continue
            for setting, count in SETTINGS.items():
                for draw in range(1 if setting == "all runs" else DRAWS):
                    rows = labelled(train, count, draw)
                    guess = fit(rows, train.y[rows]) if head == "linear" else fit(a[rows], train.y[rows], b, draw)
                    right = np.bincount(test.run, guess == test.y).astype(int).tolist()
                    yield {
                        **about,
                        "features": name,
                        "head": head,
                        "labels": setting,
                        "draw": draw,
                        "right": right,
                        "of": np.bincount(test.run).tolist(),
                    }


def classical(about: dict[str, Any], train: Cut, test: Cut) -> Iterator[dict[str, Any]]:
    found = {name: (make(train.x), make(test.x)) for name, make in (("statistics", statistics_of), ("bands over time", bands_over_time))}
    rocket = rocket_features(train.x, test.x, 0)
    yield from scored(about, {**found, "MiniRocket": (rocket[0], rocket[1])}, train, test, set(HEADS))


def ours(about: dict[str, Any], method: str, read: str, runs: Runs, train: Cut, test: Cut, asked: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of the pretrained encoder and of its random init; alone, and beside the statistics."""
    x, loop = (bands(pieces(runs, LONG, WINDOW)), SLICES) if read == "bands" else (pieces(runs, PIECE, STRIDE), {})
    loop = {name: value for name, value in loop.items() if name.split(".")[0] in method_class(method).views}
    model, seconds = pretrained(x, method, {**LOOP, **loop, **about["knobs"]}, about["seed"])
    own = statistics_of(train.x), statistics_of(test.x)
    about = {**about, "input": read, "seconds": round(seconds, 1)}
    for name, network in {method: model, f"random init, {model.config['encoder']}": drawn_again(model, about["seed"])}.items():
        a, b = vectors(network, train.x, read), vectors(network, test.x, read)
        both = np.hstack([own[0], a]), np.hstack([own[1], b])
        yield from scored(about, {name: (a, b), f"{name} + statistics": both}, train, test, asked, own[0].shape[1])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: accuracy over test windows in %, means over draws, seeds and thirds, half a 95% interval over draws; then differences to
    the forest on statistics, with the same draws."""
    own = lambda row: " ".join([f"of {row['input']}", *(f"{name}={value}" for name, value in row["knobs"].items())])  # noqa: E731
    key = lambda row: (row["features"], row["head"], own(row) if "knobs" in row else "")  # noqa: E731
    found: dict[Any, dict[str, dict[int, list[float]]]] = {}
    for row in rows:
        draws = found.setdefault(key(row), {}).setdefault(row["labels"], {})
        draws.setdefault(row["draw"], []).append(100 * sum(row["right"]) / sum(row["of"]))
    lines = ["| features, classifier | " + " | ".join(SETTINGS) + " | " + " | ".join(f"{name}, difference" for name in SETTINGS) + " |"]
    lines.append("|---|" + "---|" * 2 * len(SETTINGS))
    usual = found[("statistics", "forest", "")]
    for what, draws in found.items():
        means = {setting: [statistics.mean(each) for _, each in sorted(draws.get(setting, {}).items())] for setting in SETTINGS}
        base = {setting: [statistics.mean(each) for _, each in sorted(usual[setting].items())] for setting in SETTINGS}
        cells = [_interval(means[setting]) for setting in SETTINGS]
        for setting in SETTINGS:
            pairs = zip(means[setting], base[setting], strict=False)
            cells.append(_interval([a - b for a, b in pairs], "+") if what != ("statistics", "forest", "") else "")
        lines.append(f"| {what[0]}, {what[1]}{what[2] and f', {what[2]}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(values: list[float], sign: str = "") -> str:
    """The mean and half its 95% interval by Student's t over draws."""
    if not values:
        return ""
    half = f" ± {T_95 * statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) == DRAWS else ""
    return f"{statistics.mean(values):{sign}.1f}{half}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "final", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--input", choices=("values", "bands"), default="bands")
    parser.add_argument("--methods", default="simclr")
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--knobs", nargs="*", default=[], help="key=value")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.what == "table":
        for file in sorted(asked.out.glob("*.jsonl")):
            print(f"{file.stem}\n{table([json.loads(line) for line in file.read_text().splitlines()])}\n")
        return
    file = asked.out / f"{asked.what}.jsonl"
    first = not file.exists()
    runs, held_out = split(load())
    parts = [split(runs, third) for third in range(3)] if asked.what == "choose" else [(runs, held_out)]
    knobs = dict(knob.split("=", 1) for knob in asked.knobs)
    heads = set(asked.heads.split(","))

    def keep(found: Iterator[dict[str, Any]]) -> None:
        with file.open("a") as to:
            for row in found:
                to.write(json.dumps(row) + "\n")

    for third, (runs, held_out) in enumerate(parts):
        train, test = cut(runs), cut(held_out)
        if first:
            keep(classical({"third": third}, train, test))
        for method in asked.methods.split(","):
            for seed in range(asked.seeds):
                keep(ours({"third": third, "knobs": knobs, "seed": seed}, method, asked.input, runs, train, test, heads))
    print(table([json.loads(line) for line in file.read_text().splitlines()]))


if __name__ == "__main__":
    main()
