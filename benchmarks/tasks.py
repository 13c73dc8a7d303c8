"""Fine-tuning for dense tasks after pretraining here, beside training from scratch and frozen encoders: Penn-Fudan masks, WNUT 17 tags.

    python benchmarks/tasks.py pretrain {segment,tag} OUT [--method simmim] [--minutes 15] [--knobs key=value ...]
    python benchmarks/tasks.py choose {segment,tag} OUT --method simmim --knobs steps=150 lr=1e-3     a quarter of the training part tests
    python benchmarks/tasks.py final {segment,tag} OUT --method simmim --knobs steps=150 lr=1e-3      the test part tests

Pretraining sees no masks and no tags: for segment the photos of Flickr and Caltech and Penn-Fudan's training photos; for tag WNUT 17's
training sentences (for `choose` too: they are used without tags), AG News, 20 Newsgroups, SST-2, the validation part of WikiText-2, Brown,
the captions of Multi30k and XQuAD's articles. choose and final append to OUT/tasks.jsonl what `untaught finetune` measures: fine-tuned and,
unless --only encoder, from scratch with the same steps; with --only frozen, the head alone on the frozen encoder and on its random init.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import untaught as ut
from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
PRETRAINING: dict[str, dict[str, Any]] = {
    "segment": {"method": "simclr", "modality": "image", "knobs": {"size": 96, "batch_size": 64}},
    "tag": {
        "method": "mlm",
        "modality": "text",
        "encoder": "modernbert",
        "knobs": {"length": 96, "tokenizer": "wordpiece", "vocabulary": 8000, "lowercase": False, "encoder.depth": 2, "batch_size": 32}
        | {"masked_tokens.rate": 0.3},
    },
}
TASK: dict[str, dict[str, Any]] = {"segment": {"binary": True, "names": "background,person"}, "tag": {}}


def sentences(part: str) -> list[str]:
    """The sentences of WNUT 17 in CoNLL format."""
    return gzip.decompress((DATA / "wnut17" / f"{part}.conll.gz").read_bytes()).decode().strip().split("\n\n")


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(gzip.decompress((DATA / name).read_bytes()).decode())))


def unlabelled(task: str, out: Path) -> Path:
    """Writes what pretraining reads -> its place."""
    if task == "tag":
        found = [" ".join(line.split("\t")[0] for line in sentence.splitlines()) for sentence in sentences("train")]
        for name in ("ag_news", "newsgroups20"):
            found += [" ".join(row["text"].split()) for row in rows(f"{name}/train.csv.gz")]
        found += [line.rsplit("\t", 1)[0] for line in gzip.decompress((DATA / "sst2/train.tsv.gz").read_bytes()).decode().splitlines()]
        found += [line.strip() for line in (DATA / "wikitext2_part/valid.txt").read_text().splitlines() if len(line) > 40]
        with zipfile.ZipFile(DATA / "nltk_text" / "brown.zip") as archive:
            for name in sorted(name for name in archive.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", name)):
                tagged = archive.read(name).decode("utf-8", "replace").split("\n\n")
                found += [" ".join(word.rpartition("/")[0] for word in paragraph.split()) for paragraph in tagged if paragraph.strip()]
        found += gzip.decompress((DATA / "multi30k/train.en.gz").read_bytes()).decode().splitlines()
        articles = json.loads((DATA / "xquad_en" / "train.json").read_text())["data"]
        found += [" ".join(paragraph["context"].split()) for article in articles for paragraph in article["paragraphs"]]
        (out / "corpus.txt").write_text("\n".join(found))
        return out / "corpus.txt"
    photos = out / "photos"
    photos.mkdir(exist_ok=True)
    for place in ("flickr8k_mini", "caltech20", "pennfudan"):
        with tarfile.open(DATA / place / "images.tar") as archive:
            for member in archive:
                if member.isfile() and "_mask" not in member.name and not (place == "pennfudan" and "test" in member.name.split("/")):
                    file = archive.extractfile(member)
                    assert file is not None
                    (photos / f"{place}-{member.name.replace('/', '-')}").write_bytes(file.read())
    return photos


def labelled(task: str, out: Path, final: bool) -> Path:
    """The labelled data -> their place; without `final`, of the training part alone, every fourth sample as its test part."""
    source = DATA / {"segment": "pennfudan/images.tar", "tag": "wnut17"}[task]
    if final:
        return source
    place = out / f"{task}-validating"
    place.mkdir(exist_ok=True)
    if task == "tag":
        every = sentences("train")
        parts = {"train": [one for i, one in enumerate(every) if i % 4], "test": every[::4]}
        for part, own in parts.items():
            (place / f"{part}.conll").write_text("\n\n".join(own) + "\n")
        return place
    with tarfile.open(source) as archive:
        names = [member.name for member in archive if member.isfile() and "train" in member.name.split("/")]
        stems = sorted({name.rsplit(".", 1)[0].removesuffix("_mask") for name in names})
        for name in names:
            held_out = stems.index(name.rsplit(".", 1)[0].removesuffix("_mask")) % 4 == 0
            folder = place / ("test" if held_out else "train")
            folder.mkdir(exist_ok=True)
            file = archive.extractfile(name)
            assert file is not None
            (folder / Path(name).name).write_bytes(file.read())
    return place


def tuned(run: Path, data: Path, task: str, knobs: dict[str, Any]) -> dict[str, Any]:
    """Scores by "encoder" or "random_init" and metric, as mean, low, high."""
    model = ut.Run(run).finetune(data, task=task, **TASK[task], **{key.replace(".", "__"): value for key, value in knobs.items()})
    return {f"{row['features']} {row['metric']}": [row[key] for key in ("mean", "low", "high")] for row in model.scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pretrain", "choose", "final"))
    parser.add_argument("task", choices=("segment", "tag"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", help="of pretraining")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--only", choices=("both", "encoder", "frozen"), default="both")
    parser.add_argument("--knobs", nargs="*", default=[], help="key=value")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    knobs: dict[str, Any] = dict(knob.split("=", 1) for knob in asked.knobs)
    method = asked.method or PRETRAINING[asked.task]["method"]
    run, untrained = asked.out / f"{asked.task}-{method}", asked.out / f"{asked.task}-random"
    if asked.what == "pretrain":
        data, how = unlabelled(asked.task, asked.out), PRETRAINING[asked.task]
        for place, loop in ((untrained, {"steps": 1, "lr": 1e-12}), (run, {"minutes": asked.minutes})):  # the first: random init
            if not place.exists():
                given = how | {"method": method, "knobs": how["knobs"] | loop | {"evaluate_every": 0} | (knobs if place == run else {})}
                pretrain(PretrainArguments(data, out=place, **given))
        return
    data = labelled(asked.task, asked.out, asked.what == "final")
    found: dict[str, Any] = {"task": asked.task, "method": method, "what": asked.what, "only": asked.only, "knobs": knobs}
    if asked.only == "frozen":
        frozen = knobs | {"train": "frozen", "scratch": False}
        found["scores"] = tuned(run, data, asked.task, frozen)
        found["random init"] = tuned(untrained, data, asked.task, frozen)
    else:
        found["scores"] = tuned(run, data, asked.task, knobs | {"scratch": asked.only == "both"})
    with (asked.out / "tasks.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
