"""Strings of 3 to 7 digits of an unseen speaker: word error rate after pretraining, from scratch, and of pocketsphinx with a digit grammar.

    python benchmarks/transcribe.py OUT [--minutes 10 1] [--unseen george lucas] [--method simclr] [--encoder conv_mel]
        [--pretraining steps=400 batch_size=64] [--knobs units=words steps=600] [--also emodb] [--seed 0] [--part val]
    python benchmarks/transcribe.py OUT --peer        pocketsphinx alone: pip install pocketsphinx (5.1.1)
    python benchmarks/transcribe.py OUT --table       what was measured so far

Strings are joined from the recordings of `fsdd`, with silences of 0.05 to 0.3 s between digits. Each recording is used once. The strings of
the unseen speaker, of all takes, are the test part; the others are made of the training takes of the other speakers, and pretraining reads
only those (with --also, other data sets too). A share of the labelled strings stops the training (see `untaught finetune`). --part val
measures on a fifth of the strings of the other speakers instead: choose settings by that. Every row is appended to OUT/transcribe.jsonl;
those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

import untaught as ut
from untaught.evaluation.error_rates import error_counts
from untaught.evaluation.interval import measure

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 8000
SILENCE = (0.05, 0.3)  # seconds
NOISE = 8.0  # standard deviation of what a silence is made of, in 16-bit steps
GRAMMAR = f"#JSGF V1.0;\ngrammar digits;\npublic <digits> = ( {' | '.join(WORDS)} )+;\n"
WORD, SILENT, TRIED = (0.65, 1e-3, 1e-6, 1e-10), (0.005, 0.5), 15  # pocketsphinx's wip and silprob; strings they are chosen on
String = tuple[np.ndarray, str, str]  # samples (T,) int16, transcript, speaker


def recordings() -> list[dict[str, Any]]:
    """All of fsdd: file, digit, speaker, take, split, samples (T,) int16."""
    rows = list(csv.DictReader((DATA / "fsdd/recordings.csv").open()))
    with zipfile.ZipFile(DATA / "fsdd/recordings.zip") as archive:
        for row in rows:
            row["samples"], rate = soundfile.read(io.BytesIO(archive.read(row["file"])), dtype="int16")
            assert rate == RATE
    return rows


def strings(rows: list[dict[str, Any]], seed: int) -> Iterator[String]:
    """Strings of one speaker each, in random order, until the recordings are used up."""
    random = np.random.default_rng(seed)
    waiting = {}
    for speaker in sorted({row["speaker"] for row in rows}):
        own = [row for row in rows if row["speaker"] == speaker]
        waiting[speaker] = [own[number] for number in random.permutation(len(own))]
    while speakers := [speaker for speaker, own in waiting.items() if len(own) >= 3]:
        speaker = speakers[random.integers(len(speakers))]
        count = min(int(random.integers(3, 8)), len(waiting[speaker]))
        chosen, waiting[speaker] = waiting[speaker][:count], waiting[speaker][count:]
        parts: list[np.ndarray] = []
        for number in range(2 * count + 1):
            if number % 2:
                parts.append(chosen[number // 2]["samples"])
            else:
                parts.append(np.rint(NOISE * random.standard_normal(round(random.uniform(*SILENCE) * RATE))).astype(np.int16))
        yield np.concatenate(parts), " ".join(WORDS[int(row["digit"])] for row in chosen), speaker


def seconds(found: list[String]) -> float:
    return sum(len(samples) for samples, _, _ in found) / RATE


def write(found: list[String], folder: Path, part: str) -> list[dict[str, str]]:
    """Writes the recordings -> the rows of a listing."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (samples, text, speaker) in enumerate(found):
        file = f"{part}/{number:04}-{speaker}.flac"
        soundfile.write(folder / file, samples, RATE)
        rows.append({"file": file, "transcript": text, "speaker": speaker, "split": part})
    return rows


def build(out: Path, unseen: str, minutes: list[float], part: str, seed: int) -> Path:
    """Writes the strings, OUT/UNSEEN/unlabelled.csv and MINUTES.csv -> their folder."""
    folder = out / f"{unseen}-{part}-{seed}"
    if all((folder / f"{name:g}.csv").exists() for name in minutes):
        return folder
    every = recordings()
    if unseen not in (speakers := {row["speaker"] for row in every}):
        raise SystemExit(f"--unseen {unseen}: must be one of {', '.join(sorted(speakers))}")
    others = list(strings([row for row in every if row["speaker"] != unseen and row["split"] == "train"], seed))
    if part == "val":
        cut = len(others) // 5
        measured, others = others[:cut], others[cut:]
    else:
        measured = list(strings([row for row in every if row["speaker"] == unseen], seed))
    train, test = write(others, folder, "train"), write(measured, folder, "test")
    listings = {"unlabelled": train}
    for most in minutes:
        count = next((n for n in range(1, len(others)) if seconds(others[:n]) >= 60 * most), len(others))
        listings[f"{most:g}"] = train[:count] + test
        print(f"{unseen}: {count} strings, {seconds(others[:count]) / 60:.1f} minutes, to learn from; {len(measured)} to test", flush=True)
    for name, rows in listings.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def knobs(pairs: list[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in pairs)


def pretrained(folder: Path, asked: argparse.Namespace, name: str) -> ut.Run:
    run = folder / f"run-{name}"
    if (run / "encoder").exists():
        return ut.load(run)
    data: Any = [str(path) for path in sorted((folder / "train").glob("*.flac"))]
    if asked.also:
        data += unpacked(asked.also, folder)
    given: dict[str, Any] = {key.replace(".", "__"): value for key, value in knobs(asked.pretraining).items()}
    return ut.pretrain(data, asked.method, encoder=asked.encoder, out=run, modality="audio", resume=run.exists(), seed=asked.seed, **given)


def unpacked(names: list[str], folder: Path) -> list[str]:
    """The recordings of other data sets, for pretraining."""
    found = []
    for name in names:
        for archive in sorted((DATA / name).glob("*.zip")):
            with zipfile.ZipFile(archive) as members:
                members.extractall(folder / name)
        found += [str(path) for path in sorted((folder / name).rglob("*.flac"))]
    return found


def rows_of(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


def add(place: Path, row: dict[str, Any]) -> None:
    with place.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def tuned(asked: argparse.Namespace, place: Path) -> None:
    for unseen in asked.unseen:
        folder = build(asked.out, unseen, asked.minutes, asked.part, asked.seed)
        for minutes in asked.minutes:
            name = "-".join(filter(None, (asked.method, asked.encoder, *asked.pretraining, *asked.also))).replace("/", "_")
            key = {"unseen": unseen, "part": asked.part, "minutes": minutes, "seed": asked.seed, "pretraining": name, "knobs": asked.knobs}
            if any(key.items() <= row.items() for row in rows_of(place)):
                continue
            run = pretrained(folder, asked, name)
            model = folder / f"model-{len(list(folder.glob('model-*')))}"
            given: dict[str, Any] = {"units": "words", "seed": asked.seed} | knobs(asked.knobs)
            found = run.finetune(folder / f"{minutes:g}.csv", "transcribe", out=model, label="transcript", split="split", **given)
            for row in found.scores:
                add(place, key | {name: row[name] for name in ("features", "metric", "mean", "low", "high")})


def peer(asked: argparse.Namespace, place: Path) -> None:
    """pocketsphinx's US English model (16 kHz), its penalties of words and silences chosen on strings of the other speakers."""
    for unseen in asked.unseen:
        folder = build(asked.out, unseen, asked.minutes, asked.part, asked.seed)
        key = {"unseen": unseen, "part": asked.part, "seed": asked.seed, "features": "pocketsphinx"}
        if any(key.items() <= row.items() for row in rows_of(place)):
            continue
        rows = list(csv.DictReader((folder / f"{asked.minutes[0]:g}.csv").open()))
        others = [row for row in rows if row["split"] == "train"][:TRIED]
        options = [{"wip": word, "silprob": silence} for word in WORD for silence in SILENT]
        chosen = min(options, key=lambda option: wers(errors_of(others, folder, option))["wer"])
        counts = errors_of([row for row in rows if row["split"] == "test"], folder, chosen)
        for metric, score in measure(wers, [counts], (0.0, np.inf)).items():
            add(place, key | chosen | {"metric": metric, "mean": score.mean, "low": score.interval[0], "high": score.interval[1]})


def errors_of(rows: list[dict[str, str]], folder: Path, options: dict[str, float]) -> np.ndarray:
    """(N,4), as `error_counts`, of pocketsphinx with a grammar of digits."""
    from pocketsphinx import Decoder  # pyright: ignore[reportMissingImports]

    decoder = Decoder(lm=None, loglevel="FATAL", **options)
    decoder.add_jsgf_string("digits", GRAMMAR)
    decoder.activate_search("digits")
    counts = []
    for row in rows:
        samples, rate = soundfile.read(folder / row["file"], dtype="float32")
        wide = np.clip(soxr.resample(samples, rate, 16000) * 32768, -32768, 32767).astype(np.int16)
        decoder.start_utt()
        decoder.process_raw(wide.tobytes(), full_utt=True)
        decoder.end_utt()
        said = decoder.hyp().hypstr if decoder.hyp() else ""
        counts.append(error_counts(row["transcript"], said))
    return np.array(counts)


def wers(counts: np.ndarray) -> dict[str, float]:
    return {"wer": float(counts[:, 0].sum() / counts[:, 1].sum()), "cer": float(counts[:, 2].sum() / counts[:, 3].sum())}


def table(place: Path) -> None:
    """Mean WER over unseen speakers, by what was trained."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in rows_of(place):
        if row["metric"] == "wer":
            minutes, how = f"{row['minutes']:g}" if "minutes" in row else "-", row.get("pretraining", "-")
            key = (row["part"], minutes, how, " ".join(row.get("knobs", [])) or "-")
            found.setdefault(key, {}).setdefault(row["features"], []).append(row["mean"])
    for key, scores in sorted(found.items()):
        shown = ", ".join(f"{name} {100 * np.mean(values):.1f} ({len(values)})" for name, values in scores.items())
        print(*key, shown, sep="  ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 1.0])
    parser.add_argument("--unseen", nargs="+", default=["george", "jackson", "lucas", "nicolas"])
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--encoder", default=None)
    parser.add_argument("--pretraining", nargs="*", default=["steps=400"], help="knobs of untaught pretrain")
    parser.add_argument("--knobs", nargs="*", default=[], help="knobs of untaught finetune")
    parser.add_argument("--also", nargs="*", default=[], help="data sets that pretraining reads beside the strings: emodb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=["test", "val"], default="test")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    place = asked.out / "transcribe.jsonl"
    if asked.table:
        table(place)
    elif asked.peer:
        peer(asked, place)
    else:
        tuned(asked, place)


if __name__ == "__main__":
    sys.exit(main())
