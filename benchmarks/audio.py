"""Words, speakers, emotions and scenes with few labels: linear probes of frozen encoders beside random init and classical baselines.

    python benchmarks/audio.py choose OUT words --method simclr [--knobs steps=300 ...]
    python benchmarks/audio.py final OUT words speakers emotions scenes
    python benchmarks/audio.py classical OUT words speakers emotions scenes
    python benchmarks/audio.py verify OUT
    python benchmarks/audio.py table OUT [--file choose]

words, speakers: `fsdd`, digits of unseen speakers (each left out in turn, of pretraining too) and of the official test takes, and who says
them. emotions: `emodb`, each speaker left out of the probes (`--group`); pretraining reads all, and the spoken captions
of `flickr8k_mini`, without labels. scenes: `urbansound_mini`,
official split. Pretraining reads the training rows of a part without labels; probes and baselines are fitted on these, or on few of them,
ten draws.
choose: reads no test row. words: takes 5 and later; two speakers of four, CHOSEN_ON, validate, so that the other two have no part in the
choice; scenes: a third of the training clips validates. speakers take the settings of words; those of emotions
were chosen on four speakers of eight, HEARD, by a logistic regression fitted on the seven others.
verify: whether two recordings of `emodb` are of one speaker. Four speakers, HEARD, and all of `fsdd` are read in pretraining; pairs are of
the four others. Settings are those of words but for changes of voice and spectrum, and were not tuned.
Rows are appended to OUT/{choose,final}.jsonl; those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from scipy.special import stdtrit
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import untaught as ut
from untaught.evaluation.interval import accuracy_rows
from untaught.evaluation.low_label import DRAWS, draw
from untaught.ops.log_mel import cepstra, deltas, log_mel

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
TASKS = ("words", "speakers", "emotions", "scenes")
SETTINGS = ("1/class", "5/class", "10/class", "all")
CHOSEN_ON = ("jackson", "lucas")  # speakers that validate the settings for words
QUIET = {"global.noise": 0, "global.reverb": 0, "global.band": 0}
FINAL: dict[str, dict[str, Any]] = {
    "words": {"method": "simclr", "steps": 400, "batch_size": 64, "normalise": "recording", **QUIET},
    "emotions": {"method": "mae", "steps": 1500, "batch_size": 32, "encoder.width": 192},
    "scenes": {"method": "simclr", "steps": 120, "batch_size": 32, "global.scale": (0.4, 0.6)},
}
FINAL["speakers"] = FINAL["words"]
HEARD = ("03", "09", "10", "12")  # the others are 08, 11, 13 and 14
VERIFY = {"method": "simclr", "steps": 400, "batch_size": 64, "encoder.width": 16, "rate": 8000, "global.scale": (0.4, 0.7)}
VERIFY |= {"global.zoom": 0, "global.shift": 0, "global.band": 0}
MELS, COEFFICIENTS, WARPED, HOP = 64, 20, 13, 0.01  # bands, cepstral coefficients of statistics and of warping, seconds
Rows = list[dict[str, Any]]
Guess = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # training rows, their classes, test rows -> classes


# ------------------------------------------------------------------------------------------------------------------ data


def unpacked(out: Path, name: str) -> Path:
    """The folder of the recordings."""
    folder = out / name
    if not (folder / "done").exists():
        with zipfile.ZipFile(next((DATA / name).glob("*.zip"))) as archive:
            archive.extractall(folder)
        (folder / "done").touch()
    return folder


def captions(out: Path) -> Rows:
    """The spoken captions."""
    folder = out / "spoken"
    if not (folder / "done").exists():
        with tarfile.open(DATA / "flickr8k_mini" / "spoken.tar") as archive:
            archive.extractall(folder, filter="data")
        (folder / "done").touch()
    return [{"file": str(path.absolute())} for path in sorted(folder.rglob("*.mp3"))]


def listing(out: Path, task: str) -> Rows:
    """All recordings of a task: file, label, group, split."""
    if task == "scenes":
        files = sorted(str(path.relative_to(out / "urbansound_mini")) for path in unpacked(out, "urbansound_mini").glob("*/*/*.flac"))
        return [{"file": file, "label": file.split("/")[1], "group": "", "split": file.split("/")[0]} for file in files]
    name, place, label = {
        "words": ("fsdd", "recordings", "digit"),
        "speakers": ("fsdd", "recordings", "speaker"),
        "emotions": ("emodb", "clips", "emotion"),
    }[task]
    unpacked(out, name)
    rows = list(csv.DictReader((DATA / name / f"{place}.csv").open()))
    return [{"file": row["file"], "label": row[label], "group": row["speaker"], "split": row.get("split", "train")} for row in rows]


def folds(rows: Rows, task: str, choosing: bool) -> Iterator[tuple[str, str, Rows, Rows, Rows]]:
    """Name of the part, name of what pretraining reads, its rows, training rows, test rows."""
    train = [row for row in rows if row["split"] == "train"]
    if task == "scenes" and choosing:
        held = {row["file"] for label in {row["label"] for row in train} for row in [r for r in train if r["label"] == label][::3]}
        kept = [row for row in train if row["file"] not in held]
        yield "validation", "scenes-validation", kept, kept, [row for row in train if row["file"] in held]
        return
    if task in ("words", "emotions"):
        known = train if choosing else rows
        for speaker in sorted({row["group"] for row in rows}):
            if choosing and speaker not in CHOSEN_ON:
                continue
            without = set(CHOSEN_ON) if choosing else {speaker}
            others = [row for row in known if row["group"] != speaker]
            seen = [row for row in known if row["group"] not in without]
            yield (
                f"unseen {speaker}",
                f"{task}-without-{'-'.join(sorted(without))}",
                seen,
                others,
                [r for r in known if r["group"] == speaker],
            )
    if task != "emotions" and not choosing:
        name = "scenes" if task == "scenes" else "fsdd"
        yield "official split", f"{name}-official", train, train, [row for row in rows if row["split"] != "train"]


def write(rows: Rows, file: Path) -> Path:
    with file.open("w", newline="") as to:
        writer = csv.DictWriter(to, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file


def source(out: Path, task: str) -> Path:
    return out / {"emotions": "emodb", "scenes": "urbansound_mini"}.get(task, "fsdd")


# ------------------------------------------------------------------------------------------------------------------ ours


def tag(how: dict[str, Any]) -> str:
    return " ".join(f"{value}" if key == "method" else f"{key}={value}" for key, value in how.items())


def encoder(out: Path, folder: Path, reads: str, seen: Rows, how: dict[str, Any]) -> ut.Run:
    """The run, pretrained unless it is there."""
    run = out / "runs" / f"{reads} {tag(how)}"
    if not (run / "seconds").exists():
        data = write([{"file": row["file"]} for row in seen], folder / f"{reads}.csv")
        began = time.process_time()
        ut.pretrain(data, out=run, resume=run.exists(), **{"evaluate_every": 0, "health_every": 0, **how})
        (run / "seconds").write_text(f"{time.process_time() - began:.0f}")
    return ut.Run(run)


def ours(
    out: Path, folder: Path, how: dict[str, Any], reads: str, seen: Rows, part: str, train: Rows, test: Rows
) -> Iterator[dict[str, Any]]:
    """Scores of the encoder, pretrained on the rows `seen`, and of its random init."""
    run = encoder(out, folder, reads, seen, how)
    name = part.replace(" ", "-")
    rows = [row | {"split": "train"} for row in train] + [row | {"split": "test"} for row in test]
    data = write(rows, folder / f"{name}.csv")
    found = run.evaluate(data, label="label", split="split", task="classify", out=run.path / f"{name}.json")
    yield from kept(run, how["method"], found)


def left_out(out: Path, folder: Path, how: dict[str, Any], reads: str, rows: Rows) -> Iterator[dict[str, Any]]:
    """Scores on each group, with probes fitted on the others; the encoder was pretrained on all rows."""
    run = encoder(out, folder, reads, rows + captions(out), how)
    found = run.evaluate(write(rows, folder / "groups.csv"), label="label", group="group", task="classify", out=run.path / "groups.json")
    yield from kept(run, how["method"], [row for row in found if "group" in row])


def kept(run: ut.Run, method: str, found: Rows) -> Iterator[dict[str, Any]]:
    for row in found:
        known = row["probe"] in ("linear", "linear-inner", "knn20") and row["labels"] in SETTINGS and row["features"] != "raw"
        if row["metric"] == "accuracy" and known:
            about = {"part": f"unseen {row['group']}"} if "group" in row else {}
            features = "random init" if row["features"] == "random_init" else method
            scores = {key: row[key] for key in ("probe", "labels", "mean", "low", "high", "draws")}
            yield about | {"features": features, **scores, "seconds": int((run.path / "seconds").read_text())}


def verified(out: Path) -> Iterator[dict[str, Any]]:
    """Equal error rates and detection costs on pairs of speakers that pretraining did not hear."""
    emotions = listing(out, "emotions")
    heard = [str(out / "emodb" / row["file"]) for row in emotions if row["group"] in HEARD]
    heard += [str(out / "fsdd" / row["file"]) for row in listing(out, "words")]
    run = encoder(out, out, "verify", [{"file": str(Path(file).absolute())} for file in heard], VERIFY)
    pairs = [{"file": row["file"], "speaker": row["group"], "split": "train" if row["group"] in HEARD else "test"} for row in emotions]
    data = write(pairs, out / "emodb" / "verify.csv")
    for row in run.evaluate(data, label="speaker", split="split", task="verify", out=run.path / "verify.json"):
        yield {key: row[key] for key in ("features", "metric", "mean", "low", "high")}


# ------------------------------------------------------------------------------------------------------------- classical


class Sounds:
    """Features of all recordings, by file: `mel` (F,64) log-mel spectrograms, `cepstra` (F,20)."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        self.number = {row["file"]: number for number, row in enumerate(rows)}
        self.mel: list[np.ndarray] = []
        for row in rows:
            wave, rate = soundfile.read(folder / row["file"], dtype="float32")
            x = log_mel(torch.from_numpy(wave)[None], rate, MELS, round(0.025 * rate), round(HOP * rate))
            self.mel.append(x[0].numpy())
        self.cepstra = [cepstra(torch.from_numpy(x)[None], COEFFICIENTS)[0].numpy() for x in self.mel]

    def at(self, rows: Rows) -> np.ndarray:
        return np.array([self.number[row["file"]] for row in rows])

    def cepstral_statistics(self) -> np.ndarray:
        """Mean and standard deviation over time of the coefficients, their deltas and the deltas of these (N,120)."""
        found = []
        for each in self.cepstra:
            x, count = torch.from_numpy(each)[None], torch.tensor([len(each)])
            slope = deltas(x, count)
            every = torch.cat([x, slope, deltas(slope, count)], 2)[0].numpy()
            found.append(np.concatenate([every.mean(0), every.std(0)]))
        return np.stack(found)

    def mel_statistics(self) -> np.ndarray:
        """Mean, standard deviation, minimum, median and maximum over time of the bands (N,320)."""
        return np.stack([np.concatenate([x.mean(0), x.std(0), x.min(0), np.median(x, 0), x.max(0)]) for x in self.mel])

    def pictures(self) -> np.ndarray:
        """Spectrograms as pictures of 32 times 16 bands, without their mean (N,512)."""
        found = []
        for x in self.mel:
            at = np.linspace(0, len(x) - 1, 32)
            low, part = np.floor(at).astype(int), at % 1
            high = np.minimum(low + 1, len(x) - 1)
            picture = (x[low] * (1 - part)[:, None] + x[high] * part[:, None]).reshape(32, 16, 4).mean(2)
            found.append((picture - picture.mean()).ravel())
        return np.stack(found)

    def warped(self) -> np.ndarray:
        """Distances (N,N) by dynamic time warping of cepstral coefficients every 20 ms, with mean 0 and variance 1 in each recording."""
        found = [x[::2, :WARPED] for x in self.cepstra]
        found = [(x - x.mean(0)) / (x.std(0) + 1e-6) for x in found]
        result = np.zeros((len(found), len(found)), np.float32)
        lengths = np.array([len(x) for x in found])
        padded = np.zeros((len(found), lengths.max(), WARPED), np.float32)
        for number, x in enumerate(found):
            padded[number, : len(x)] = x
        for number, x in enumerate(found):
            result[number] = _warp(x, padded, lengths)
        return result


def _warp(x: np.ndarray, others: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """x (T,C), others (N,S,C) of these lengths (N,) -> cost of the best warping path to each (N,), over the sum of both lengths."""
    cost = np.sqrt(
        np.maximum((x**2).sum(1)[:, None, None] + (others**2).sum(2).T - 2 * np.einsum("tc,nsc->tsn", x, others, optimize=True), 0)
    )
    total = np.empty_like(cost)
    total[0] = cost[0].cumsum(0)
    for i in range(1, len(x)):
        total[i, 0] = total[i - 1, 0] + cost[i, 0]
        before = np.minimum(total[i - 1, 1:], total[i - 1, :-1])
        for j in range(1, cost.shape[1]):
            total[i, j] = np.minimum(before[j - 1], total[i, j - 1]) + cost[i, j]
    return total[-1, lengths - 1, np.arange(len(lengths))] / (len(x) + lengths)


def nearest(x: np.ndarray) -> Guess:
    def guess(rows: np.ndarray, classes: np.ndarray, test: np.ndarray) -> np.ndarray:
        a, b = x[rows], x[test]
        return classes[((a**2).sum(1) - 2 * b @ a.T).argmin(1)]

    return guess


def nearest_by(distance: np.ndarray) -> Guess:
    return lambda rows, classes, test: classes[distance[np.ix_(test, rows)].argmin(1)]


def fitted(x: np.ndarray, kind: str) -> Guess:
    """A scikit-learn classifier on standardised features; its penalty is chosen on held-out fifths where a class has five labels."""

    def guess(rows: np.ndarray, classes: np.ndarray, test: np.ndarray) -> np.ndarray:
        if kind == "forest":
            return RandomForestClassifier(500, random_state=0).fit(x[rows], classes).predict(x[test])
        few = np.unique(classes, return_counts=True)[1].min() < 5
        model, grid = (
            (LinearSVC(max_iter=5000), [1e-4, 1e-3, 1e-2, 1e-1, 1.0])
            if kind == "svm"
            else (LogisticRegression(max_iter=300), [1e-3, 1e-2, 1e-1, 1.0])
        )
        name = type(model).__name__.lower()
        scaled = make_pipeline(StandardScaler(), model)
        return (scaled if few else GridSearchCV(scaled, {f"{name}__C": grid}, cv=5)).fit(x[rows], classes).predict(x[test])

    return guess


def baselines(sounds: Sounds, task: str) -> dict[str, Guess]:
    statistics_of = sounds.cepstral_statistics()
    found = {"MFCC statistics, logistic regression": fitted(statistics_of, "logistic")}
    if task == "words":
        found |= {"MFCC, 1-NN by DTW": nearest_by(sounds.warped()), "log-mel, 1-NN": nearest(sounds.pictures())}
    if task in ("emotions", "speakers"):
        found["MFCC statistics, linear SVM"] = fitted(statistics_of, "svm")
    if task == "scenes":
        found["log-mel statistics, random forest"] = fitted(sounds.mel_statistics(), "forest")
    return found


def classical(guess: Guess, sounds: Sounds, train: Rows, test: Rows) -> Iterator[dict[str, Any]]:
    rows, asked = sounds.at(train), sounds.at(test)
    classes, truth = (np.array([row["label"] for row in part]) for part in (train, test))
    for labels in SETTINGS:
        draws = [np.arange(len(rows))] if labels == "all" else [draw(labels, classes, seed) for seed in range(DRAWS)]
        right = np.stack([guess(rows[drawn], classes[drawn], asked) == truth for drawn in draws])
        found = accuracy_rows("", labels, right, truth)[0]
        yield {key: found[key] for key in ("labels", "mean", "low", "high", "draws")}


# ----------------------------------------------------------------------------------------------------------------- table


def over_parts(rows: Rows) -> tuple[float, float]:
    """Mean of scores of several parts, and half its 95% interval (Student's t); of one or two parts, the widest of a row."""
    means = [row["mean"] for row in rows]
    if len(means) < 3:
        return statistics.mean(means), max(max(row["high"] - row["mean"], row["mean"] - row["low"]) for row in rows)
    return statistics.mean(means), float(stdtrit(len(means) - 1, 0.975)) * statistics.stdev(means) / len(means) ** 0.5


def table(rows: Rows) -> str:
    """Markdown, a table for each task and kind of part: means over its parts in %, with half a 95% interval."""
    lines, rows = [], sorted(rows, key=lambda row: row["part"])
    kinds = dict.fromkeys((row["task"], row["part"].split()[0]) for row in rows)
    for task, kind in kinds:
        own = [row for row in rows if row["task"] == task and row["part"].split()[0] == kind]
        parts = list(dict.fromkeys(row["part"] for row in own))
        lines += [f"\n{task}, {', '.join(parts)}\n", f"| features | probe | {' | '.join(SETTINGS)} |", "|---" * (2 + len(SETTINGS)) + "|"]
        for name, probe, run in dict.fromkeys((row["features"], row.get("probe", ""), row.get("run", "")) for row in own):
            cells = []
            for labels in SETTINGS:
                found = [
                    row
                    for row in own
                    if row["labels"] == labels and (row["features"], row.get("probe", ""), row.get("run", "")) == (name, probe, run)
                ]
                mean, half = over_parts(found) if len(found) else (0, 0)
                short = f" ({len(found)} of {len(parts)})" if len(found) < len(parts) else ""
                each = " [" + " ".join(f"{100 * row['mean']:.0f}" for row in found) + "]" if len(found) > 1 else ""
                cells.append(f"{100 * mean:.1f} +- {100 * half:.1f}{each}{short}" if found else "")
            lines.append(f"| {name}{f' ({run})' if run else ''} | {probe} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "final", "classical", "verify", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("tasks", nargs="*", help=", ".join(TASKS))
    parser.add_argument("--parts", nargs="*", default=[], help="only these, e.g. 'unseen george' 'official split'")
    parser.add_argument("--method", default="simclr", help="of choose")
    parser.add_argument("--knobs", nargs="*", default=[], help="of choose: key=value")
    parser.add_argument("--file", choices=("choose", "final"), default="final", help="of classical and table")
    asked = parser.parse_args()
    if wrong := set(asked.tasks) - set(TASKS):
        parser.error(f"no task {wrong.pop()}; allowed: {', '.join(TASKS)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    choosing = asked.what == "choose" or (asked.what != "final" and asked.file == "choose")
    file = asked.out / f"{'choose' if choosing else 'final'}.jsonl"
    there: Rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if asked.what == "table":
        print(table(there))
        return

    if asked.what == "verify":
        for row in verified(asked.out):
            print(json.dumps(row), flush=True)
        return

    def keep(about: dict[str, str], rows: Iterator[dict[str, Any]]) -> None:
        if not any(about.items() <= row.items() for row in there):
            new = [about | row for row in rows]
            with file.open("a") as to:
                to.writelines(json.dumps(row) + "\n" for row in new)
            for row in new:
                print(json.dumps(row), flush=True)

    for task in asked.tasks:
        rows, folder = listing(asked.out, task), source(asked.out, task)
        parts = [fold for fold in folds(rows, task, choosing) if not asked.parts or fold[0] in asked.parts]
        if asked.what == "classical":
            sounds = Sounds(folder, rows)
            for name, guess in baselines(sounds, task).items():
                for part, _, _, train, test in parts:
                    keep({"task": task, "part": part, "features": name}, classical(guess, sounds, train, test))
            continue
        how = {"method": asked.method, **dict(knob.split("=", 1) for knob in asked.knobs)} if choosing else FINAL[task]
        if task == "emotions":
            keep({"task": task, "run": tag(how)}, left_out(asked.out, folder, how, task, rows))
            continue
        for part, reads, seen, train, test in parts:
            pretrained = ("choose " if choosing else "") + reads
            keep({"task": task, "part": part, "run": tag(how)}, ours(asked.out, folder, how, pretrained, seen, part, train, test))


if __name__ == "__main__":
    main()
