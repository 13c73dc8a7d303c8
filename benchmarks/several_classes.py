"""Several classes a sample: words of the captions of Flickr photos, genres of MovieLens films by their titles, beside the baselines.

    python benchmarks/several_classes.py prepare OUT
    untaught pretrain OUT/photos --method simclr size=64 minutes=5 --out OUT/photo-run
    python benchmarks/several_classes.py measure OUT photos OUT/photo-run
    python benchmarks/several_classes.py measure OUT films RUN            a run on text

prepare: OUT/photos.csv has 500 photos, a column of 0 and 1 for each of the 20 most frequent nouns among WORDS that at least two of a
photo's five captions contain, and the split of the data; OUT/films.csv 9,125 titles with their genres, separated by "|", every fifth as
test. Pretraining on OUT/photos sees the training photos only. measure prints what `untaught evaluate` and `untaught finetune --task
multilabel` measure: the encoder, its random init and raw data; fine-tuned and from scratch.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import untaught as ut
from untaught.api import scores_as_text

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
WORDS = [
    "man", "woman", "boy", "girl", "child", "people", "dog", "water", "grass", "snow", "beach", "street", "ball", "bike", "mountain",
    "rock", "field", "tree", "car", "shirt", "sand", "ocean", "pool", "air", "crowd", "building", "wall", "bench", "horse",
]  # fmt: skip
PLURALS: dict[str, str] = {
    "men": "man",
    "women": "woman",
    "boys": "boy",
    "girls": "girl",
    "children": "child",
    "kids": "child",
    "dogs": "dog",
}
KEPT = 20
HOW: dict[str, dict[str, Any]] = {
    "photos": {"label": "is_*", "split": "split", "columns": {"image": "photo"}},
    "films": {"label": "genres", "split": "split", "columns": {"text": "title", "label_separator": "|"}},
}


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def prepare(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    said: dict[str, Counter[str]] = {}
    part: dict[str, str] = {}
    for row in rows("flickr8k_mini/captions.csv.gz"):
        found: set[str] = {PLURALS.get(word, word) for word in map(str, re.findall(r"[a-z]+", row["caption"].lower()))}
        said.setdefault(row["image"], Counter()).update(found & set(WORDS))
        part[row["image"]] = row["split"]
    present = {name: {word for word, count in words.items() if count >= 2} for name, words in said.items()}
    often = [word for word, _ in Counter(word for words in present.values() for word in words).most_common(KEPT)]
    with tarfile.open(DATA / "flickr8k_mini" / "images.tar") as archive:
        for member in archive:
            if member.isfile() and (name := next((n for n in part if Path(n).name == Path(member.name).name), None)):
                folder = out / ("photos" if part[name] == "train" else "others")
                folder.mkdir(parents=True, exist_ok=True)
                (folder / Path(name).name).write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    with (out / "photos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", *(f"is_{word}" for word in often), "split"])
        for name, words in present.items():
            place = "photos" if part[name] == "train" else "others"
            writer.writerow([f"{place}/{Path(name).name}", *(int(word in words) for word in often), part[name]])
    with (out / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "genres", "split"])
        for number, row in enumerate(rows("movielens_small/movies.csv.gz")):
            genres = "" if row["genres"].startswith("(") else row["genres"]  # "(no genres listed)"
            writer.writerow([row["title"], genres, "train" if number % 5 else "test"])


def measure(out: Path, name: str, run: Path, knobs: dict[str, Any]) -> None:
    found = ut.evaluate(run, out / f"{name}.csv", **HOW[name])
    print(scores_as_text(found, 140), flush=True)
    ut.Run(run).finetune(out / f"{name}.csv", task="multilabel", **HOW[name], **knobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "measure"))
    parser.add_argument("out", type=Path)
    parser.add_argument("data", nargs="?", choices=tuple(HOW))
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--knobs", nargs="*", default=[], help="key=value of fine-tuning")
    asked = parser.parse_args()
    if asked.what == "prepare":
        prepare(asked.out)
    else:
        measure(asked.out, asked.data, asked.run, dict(knob.split("=", 1) for knob in asked.knobs))


if __name__ == "__main__":
    main()
