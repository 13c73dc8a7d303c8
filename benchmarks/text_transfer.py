"""What half an hour of masked words is worth: a small BERT on all the English text at hand, then five tasks with few labels and with all.

python benchmarks/text_transfer.py [--minutes 30] [--out runs/text_transfer] [--draft] [--method mlm] [--encoder modernbert]
       [--knobs key=value ...]

The corpus is the text of every English set under UNTAUGHT_DATA without its labels: of AG News, 20 Newsgroups, SST-2, subjectivity and
question types their training parts alone, and the sentence polarity set, whose sentences are SST-2's, not at all. Subjectivity has no
parts of its own: every fifth sentence of each class is held out. Beside the encoder stand the same untrained, and TF-IDF with logistic
regression. --draft measures on a fifth of each training part instead of the test parts, so that choices can be made by it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rounds import machine, table

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
Rows = list[tuple[str, str]]  # text, label
TASKS = ("ag_news", "newsgroups20", "sst2", "subjectivity", "questions")
SETTINGS = ("10/class", "50/class", "all")


def nltk(name: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(DATA / "nltk_text" / f"{name}.zip")


def unpacked(place: str) -> str:
    return gzip.decompress((DATA / place).read_bytes()).decode()


def task(name: str) -> tuple[Rows, Rows]:
    """Training and test rows of a task."""
    if name == "ag_news":
        parts = [list(csv.DictReader(io.StringIO(unpacked(f"ag_news/{part}.csv.gz")))) for part in ("train", "test")]
        return tuple([(row["text"], row["label"]) for row in rows] for rows in parts)  # type: ignore[return-value]
    if name == "newsgroups20":
        parts = [list(csv.DictReader(io.StringIO(unpacked(f"newsgroups20/{part}.csv.gz")))) for part in ("train", "test")]
        return tuple([(f"{row['model']}\n{row['text']}", row["group"]) for row in rows] for rows in parts)  # type: ignore[return-value]
    if name == "sst2":
        parts = [unpacked(f"sst2/{part}.tsv.gz").splitlines() for part in ("train", "dev")]
        return tuple([tuple(line.rsplit("\t", 1)) for line in lines] for lines in parts)  # type: ignore[return-value]
    if name == "subjectivity":
        train: Rows = []
        test: Rows = []
        for file, label in (("plot", "objective"), ("quote", "subjective")):
            lines = nltk(name).read(f"subjectivity/{file}.tok.gt9.5000").decode("latin-1").splitlines()
            for i, line in enumerate(lines):
                (test if i % 5 == 0 else train).append((line, label))
        return train, test
    parts = [nltk("qc").read(f"qc/{part}.txt").decode("latin-1").splitlines() for part in ("train", "test")]
    return tuple([(line.split(" ", 1)[1], line.partition(":")[0]) for line in lines] for lines in parts)  # type: ignore[return-value]


def documents() -> Iterator[str]:
    """All unlabelled English text, of the tasks their training parts."""
    for name in TASKS:
        yield from (text for text, _ in task(name)[0])
    for member in (archive := nltk("movie_reviews")).namelist():
        if member.endswith(".txt"):
            yield archive.read(member).decode("latin-1")
    for member in (archive := nltk("brown")).namelist():
        if re.fullmatch(r"brown/c[a-r]\d\d", member):
            yield re.sub(r"/[^\s/]+(?=\s|$)", "", archive.read(member).decode("latin-1"))  # the tags
    for member in (archive := nltk("senseval")).namelist():
        if member.endswith(".pos"):
            for context in re.findall(r"<context>(.*?)</context>", archive.read(member).decode("latin-1"), re.S):
                yield " ".join(re.findall(r">([^<>]+)</", context))
    for part in ("train", "val", "test_2016_flickr"):
        yield unpacked(f"multi30k/{part}.en.gz")
    for part in ("train", "dev"):
        for article in json.loads((DATA / f"xquad_en/{part}.json").read_text())["data"]:
            yield from (paragraph["context"] for paragraph in article["paragraphs"])
    yield (DATA / "wikitext2_part/valid.txt").read_text()
    yield (DATA / "tinyshakespeare/input.txt").read_text()


def write(out: Path, draft: bool) -> None:
    """corpus/*.txt, a document a file, and a folder with train.csv and test.csv a task."""
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(documents()):
        if text.strip():
            (corpus / f"{i:06}.txt").write_text(text)
    for name in TASKS:
        train, test = task(name)
        if draft:
            train, test = [row for i, row in enumerate(train) if i % 5], train[::5]
        (out / name).mkdir(exist_ok=True)
        for part, rows in (("train", train), ("test", test)):
            with (out / name / f"{part}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *rows])


def untaught(*words: Any) -> None:
    subprocess.run([sys.executable, "-m", "untaught.cli", *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/text_transfer"))
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--method", default="mlm")
    parser.add_argument("--encoder", default="modernbert")
    parser.add_argument("--knobs", nargs="*", default=[])
    asked = parser.parse_args()
    data = asked.out / ("draft" if asked.draft else "data")
    if not data.exists():
        write(data, asked.draft)
    run = asked.out / "run"
    if not (run / "encoder").exists():
        what = ("--modality", "text", "--method", asked.method, "--encoder", asked.encoder)
        untaught("pretrain", data / "corpus", *what, "--out", run, f"minutes={asked.minutes:g}", "evaluate_every=0", *asked.knobs)
    rows = []
    for name in TASKS:
        place = asked.out / f"{name}{'-draft' if asked.draft else ''}.json"
        if not place.exists():
            untaught("evaluate", run, "--data", data / name, "--out", place)
        scores = {
            (row["features"], row["labels"]): row
            for row in json.loads(place.read_text())["rows"]
            if row["probe"] == "linear" and row["metric"] == "accuracy"
        }
        for setting in SETTINGS:
            found = [scores.get((who, setting)) for who in ("encoder", "raw", "random_init")]
            shown = [f"{100 * r['mean']:.1f} ({100 * r['low']:.1f} to {100 * r['high']:.1f})" if r else "" for r in found]
            rows.append([name, setting, *shown])
    print(f"{machine()}\n{asked.minutes:g} minutes of {asked.method} on {asked.encoder} {' '.join(asked.knobs)}\n")
    print(table(["task", "labels", "encoder", "TF-IDF", "untrained"], rows))


if __name__ == "__main__":
    main()
