"""TS2Vec as its paper evaluates it: pretraining on the official training part, then an SVM on frozen vectors, scores on the test part.

    python benchmarks/series_ts2vec.py run OUT [--sets ...] [--seeds 5] [--method simclr --knobs steps=400 batch_size=32]
    python benchmarks/series_ts2vec.py classical OUT
    python benchmarks/series_ts2vec.py table OUT

The paper's setting: 11 blocks of width 64, 320 dimensions, batches of 8, AdamW at 0.001, 200 steps for training parts of up to 100,000
values and 600 for larger ones; an SVM with an RBF kernel whose C is chosen by cross-validation on the training part. Beside: random init
of the same encoder, 1-NN by Euclidean distance, MiniRocket with ridge regression. And with 1 and 5 labels a class, pretrained on the same
series without labels: a linear probe on the frozen vectors, and MiniRocket with ridge regression. The sets are those of UNTAUGHT_DATA/ucr.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from series import Part, drawn_again, encoded_vectors, load, pretrained, raw

from untaught.evaluation.linear import LinearProbe
from untaught.evaluation.low_label import DRAWS, draw
from untaught.ops.minirocket import MiniRocket

PAPER = {  # accuracy of the paper's table 7 and 8
    "BasicMotions": 0.975,
    "JapaneseVowels": 0.984,
    "GunPoint": 0.980,
    "ItalyPowerDemand": 0.925,
    "ArrowHead": 0.857,
    "OSULeaf": 0.851,
}
LARGE = 100_000  # values of a training part from which the paper trains for 600 steps instead of 200
T_95 = 2.262  # of Student's t for ten draws
GRID = [10.0**power for power in range(-4, 5)] + [float("inf")]


def svm(train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray) -> float:
    """Accuracy of an RBF SVM, C by five-fold cross-validation if there are enough rows, as in the authors' code."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    plain: Any = SVC(C=float("inf"), gamma="scale")
    if len(train) // len(np.unique(y_train)) < 5 or len(train) < 50:
        return float(plain.fit(train, y_train).score(test, y_test))
    search: Any = GridSearchCV(plain, {"C": GRID}, cv=5).fit(train, y_train)
    return float(search.score(test, y_test))


def ours(name: str, seeds: range, method: str, knobs: dict[str, str]) -> Iterator[dict[str, Any]]:
    """knobs: none for those of TS2Vec's paper; batches are no larger than the training part."""
    parts = load(name)
    (x, y, _), (x_test, y_test, _) = parts["train"], parts["test"]
    given: dict[str, Any] = knobs or {"steps": 200 if x.size <= LARGE else 600, "batch_size": 8}
    given = {**given, "batch_size": min(int(given["batch_size"]), len(x))}
    for seed in seeds:
        model, seconds = pretrained(x, method, given, seed)
        about = {"set": name, "seed": seed, "seconds": round(seconds, 1), **given}
        drawn = "random init" if method == "ts2vec" else f"random init, {model.config['encoder']}"
        for features, network in ((f"{method}, SVM", model), (f"{drawn}, SVM", drawn_again(model, seed))):
            train, test = encoded_vectors(network, x), encoded_vectors(network, x_test)
            yield {**about, "features": features, "accuracy": svm(train, y, test, y_test)}
            probe = LinearProbe(train, test)
            yield from few({**about, "features": features.replace("SVM", "linear")}, y, y_test, lambda r, p=probe: p.predict(r, y[r])[0])


def classical(name: str, seeds: range) -> Iterator[dict[str, Any]]:
    parts = load(name)
    yield {"set": name, "features": "1-NN, Euclid", "accuracy": raw(parts)["1nn"]}
    for seed in seeds:
        yield from rocket(name, parts, seed)


def few(about: dict[str, Any], y: np.ndarray, y_test: np.ndarray, guess: Callable[[np.ndarray], np.ndarray]) -> Iterator[dict[str, Any]]:
    """Accuracies with 1 and 5 labels a class, a row for each of ten draws. guess: training rows -> predicted test labels."""
    for setting in ("1/class", "5/class"):
        for number in range(DRAWS):
            right = guess(draw(setting, y, number)) == y_test
            yield {**about, "labels": setting, "draw": number, "accuracy": float(right.mean())}


def rocket(name: str, parts: dict[str, Part], seed: int) -> Iterator[dict[str, Any]]:
    """MiniRocket, whose biases need no labels, with ridge regression, its penalty by leave-one-out on the labelled rows."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y, _), (x_test, y_test, _) = parts["train"], parts["test"]
    found = rocket_features(x, x_test, seed)
    model = make_pipeline(StandardScaler(with_mean=False), RidgeClassifierCV(np.logspace(-3, 3, 10)))
    about = {"set": name, "features": "MiniRocket + ridge", "seed": seed}
    yield {**about, "accuracy": float(model.fit(found[0], y).score(found[1], y_test))}
    if seed == 0:
        yield from few(about, y, y_test, lambda rows: model.fit(found[0][rows], y[rows]).predict(found[1]))


def rocket_features(train: np.ndarray, test: np.ndarray, seed: int) -> list[np.ndarray]:
    """MiniRocket's features of (N,C,T) and (M,C,T), fitted to the first."""
    mean, std = np.nanmean(train, (0, 2), keepdims=True), np.nanstd(train, (0, 2), keepdims=True)
    both: list[tuple[torch.Tensor, torch.Tensor]] = []
    for x in (train, test):
        valid = torch.from_numpy(np.isfinite(x).any(1))
        both.append((torch.from_numpy(np.nan_to_num((x - mean) / np.maximum(std, 1e-8))).float().mT, valid))
    fitted = MiniRocket.fit(both[0][0], both[0][1], seed)
    return [fitted(*each).numpy() for each in both]


def few_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: accuracy in % with few labels, the mean over draws (and seeds) and half its 95% interval over draws."""
    names = [name for name in PAPER if any(row["set"] == name for row in rows)]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for labels, features in dict.fromkeys((row["labels"], row["features"]) for row in rows):
        shown = []
        for name in names:
            own = [row for row in rows if (row["labels"], row["features"], row["set"]) == (labels, features, name)]
            draws = (
                [statistics.mean(100 * row["accuracy"] for row in own if row["draw"] == number) for number in range(DRAWS)] if own else []
            )
            half = T_95 * statistics.stdev(draws) / DRAWS**0.5 if draws else 0.0
            shown.append(f"{statistics.mean(draws):.1f} ± {half:.1f}" if draws else "")
        lines.append(f"| {labels}, {features} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over seeds in %, with the standard deviation."""
    cells: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        cells.setdefault(row["features"], {}).setdefault(row["set"], []).append(100 * row["accuracy"])
    names = [name for name in PAPER if any(name in found for found in cells.values())]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    lines.append("| TS2Vec, published | " + " | ".join(f"{100 * PAPER[name]:.1f}" for name in names) + " |")
    for features, found in cells.items():
        each = [found.get(name, []) for name in names]
        shown = [f"{statistics.mean(v):.1f}{f' ± {statistics.stdev(v):.1f} ({len(v)})' if len(v) > 1 else ''}" if v else "" for v in each]
        lines.append(f"| {features} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "classical", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", default=",".join(PAPER))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--method", default="ts2vec")
    parser.add_argument("--knobs", nargs="*", default=[], help="key=value")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "ts2vec.jsonl"
    if asked.what == "table":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        print(table([row for row in rows if "labels" not in row]), few_table([row for row in rows if "labels" in row]), sep="\n\n")
        return
    for name in asked.sets.split(","):
        seeds, knobs = range(asked.first, asked.first + asked.seeds), dict(knob.split("=", 1) for knob in asked.knobs)
        for row in ours(name, seeds, asked.method, knobs) if asked.what == "run" else classical(name, seeds):
            with file.open("a") as to:
                to.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
