"""Next-item ranking of four systems on MovieLens, beside popularity, item-kNN, EASE and random init; users classified by their events.

    python benchmarks/events.py choose OUT --set movielens_100k --systems sasrec --knobs steps=500 encoder.dropout=0.5
    python benchmarks/events.py final OUT [--set movielens_small] [--hold-out time] [--systems ...] [--seeds 3]
    python benchmarks/events.py users OUT --systems sasrec,coles
    python benchmarks/events.py table OUT

choose: prints scores on each user's next-to-last event; the last one is not read. final: scores on the last one (full ranking: all items
that the user has not had), with knobs that were chosen so. Both append to OUT/{choose,final}.jsonl. users: gender and age of the 943 users
from frozen vectors, 80/20 by label, and by EASE's input (counts of items). In movielens_small, ratings of one second are in ascending
order of the film's number, which no user chose: they are shuffled once.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from untaught.commands.finetune import finetune
from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.evaluation.evaluate import evaluate
from untaught.evaluation.models import random_init_encoder
from untaught.evaluation.next_item import NextItem
from untaught.pipeline.dataset import Dataset, open_dataset
from untaught.pipeline.pretrained import load_encoder

SETS = ("movielens_100k", "movielens_small")
LOOP: dict[str, Any] = {"evaluate_every": 0, "health_every": 0}
SYSTEMS: dict[str, dict[str, Any]] = {
    "sasrec": {"method": "clm"},
    "bert4rec": {"method": "mlm"},
    "cl4srec": {"method": "clm+simclr:0.1"},
    "gpt": {"method": "clm", "encoder": "gpt"},
}
CHOSEN: dict[str, dict[str, Any]] = {  # by the validation events of movielens_100k; used on both sets
    "sasrec": {"steps": 200, "encoder.dropout": 0.5, "next_tokens.window": "random"},
    "bert4rec": {"steps": 200},
    "cl4srec": {"steps": 200, "encoder.dropout": 0.5, "next_tokens.window": "random"},  # sasrec's, not chosen anew
    "gpt": {"steps": 200},
}
SAMPLED = {"movielens_small": {"sasrec": {"negatives": 1000}}}  # of 9,000 films


def load(name: str) -> pd.DataFrame:
    """Columns user, item, time; of one user in one second, in the order of the file, shuffled where that is the order of the items."""
    frame: Any = pd.read_csv(Path(os.environ["UNTAUGHT_DATA"]) / name / "ratings.csv.gz")
    frame = frame.rename(columns={"userId": "user", "movieId": "item", "timestamp": "time"})[["user", "item", "time"]]
    if name == "movielens_small":
        frame = frame.sample(frac=1, random_state=0)
    return frame.sort_values(["user", "time"], kind="stable").reset_index(drop=True)


def trained(frame: pd.DataFrame, system: str, knobs: dict[str, Any]) -> tuple[Any, dict[str, float]]:
    """The model, and the CPU and wall seconds of pretraining with all that it prints."""
    own = SYSTEMS[system]
    began, busy = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as place:
        given = PretrainArguments(
            frame, own["method"], encoder=own.get("encoder"), out=Path(place) / "run", modality="events", knobs={**LOOP, **knobs}
        )
        model = pretrain(given).model
    assert model is not None
    return model, {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - busy, 1)}


def ranker_of(frame: pd.DataFrame, model: Any) -> NextItem:
    data: Dataset = open_dataset(frame, model.prep, columns=None, label=None, split=None)
    data.open(False, 0)
    return NextItem(data, model.network, torch.device("cpu"), False, 0)


def random_init(model: Any) -> Any:
    """The same encoder before pretraining."""
    config = model.config
    return random_init_encoder(config["encoder"], model.prep.encoder_arguments, config["encoder_knobs"], 0)


def append(out: Path, rows: list[dict[str, Any]]) -> None:
    with out.open("a") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            print(row)


def choose(out: Path, name: str, systems: list[str], knobs: dict[str, Any]) -> None:
    frame = load(name)
    for system in systems:
        model, spent = trained(frame, system, knobs)
        append(
            out / "choose.jsonl", [{"set": name, "system": system, "knobs": knobs, **ranker_of(frame, model).watch(model.network), **spent}]
        )


def final(out: Path, name: str, systems: list[str], seeds: int, hold_out: str) -> None:
    frame = load(name)
    for number, system in enumerate(systems):
        for seed in range(seeds):
            knobs = CHOSEN[system] | SAMPLED.get(name, {}).get(system, {}) | {"seed": seed, "hold_out": hold_out}
            model, spent = trained(frame, system, knobs)
            ranker = ranker_of(frame, model)
            rows, _ = ranker.measure(system, model.network)
            if number == seed == 0:
                rows += ranker.measure("random_init", random_init(model))[0] + ranker.baselines()[0]
            about = {"set": name, "hold_out": hold_out, "seed": seed, "users": len(ranker.of("test").rows), **spent}
            append(out / "final.jsonl", [{**row, **about, "data": name} for row in rows])


def users(out: Path, systems: list[str]) -> None:
    """Gender, and age as a number, from frozen vectors, beside random init and counts of items; and gender by fine-tuning."""
    about = pd.read_csv(Path(os.environ["UNTAUGHT_DATA"]) / "movielens_100k" / "users.csv.gz")
    frame = load("movielens_100k")
    for system in systems:
        with tempfile.TemporaryDirectory() as place:
            own = {"method": "simclr", "knobs": {"global.operations": "slice"}} if system == "coles" else SYSTEMS[system]
            knobs = {**LOOP, **(CHOSEN.get(system) or {"steps": 200}), **own.get("knobs", {}), "hold_out": "none"}
            pretrain(PretrainArguments(frame, own["method"], out=Path(place) / "run", modality="events", knobs=knobs))
            run = Path(place) / "run"
            for label in ("gender", "age"):
                data = frame.merge(about[["user", label]], on="user")
                task = "regress" if label == "age" else None
                rows = evaluate(run, data, label=label, task=task, out=Path(place) / "out.json", knobs={"labels": "10%"})
                if label == "gender":
                    given: Any = {"task": "classify", "label": label, "record": False, "knobs": {"steps": 100}}
                    rows += [{**row, "probe": "fine-tuned"} for row in finetune(load_encoder(run), run, data, **given)[1].config["scores"]]
                main = [r for r in rows if r["probe"] in ("linear", "ridge", "fine-tuned") and r["metric"] in ("accuracy", "r2")]
                append(out / "users.jsonl", [{**row, "system": system, "label": label, "data": "movielens_100k"} for row in main])


def table(out: Path) -> str:
    rows = [json.loads(line) for line in (out / "final.jsonl").read_text().splitlines()]
    lines = ["| set, hold-out | system | NDCG@10 | HR@10 | seeds | CPU s |", "|---|---|---|---|---|---|"]
    keys = dict.fromkeys((row["set"], row["hold_out"], row["features"]) for row in rows)
    for name, hold_out, features in sorted(keys, key=lambda key: (key[0], key[1], -_mean(rows, key, "ndcg@10")[0])):
        cells = []
        for metric in ("ndcg@10", "hr@10"):
            mean, low, high, count, cpu = _mean(rows, (name, hold_out, features), metric)
            cells.append(f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        lines.append(f"| {name}, {hold_out} | {features} | {cells[0]} | {cells[1]} | {count} | {cpu:.0f} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], key: tuple[str, str, str], metric: str) -> tuple[float, float, float, int, float]:
    """Mean over seeds of the score, of its interval's ends (over users), the number of seeds, and CPU seconds."""
    own = [row for row in rows if (row["set"], row["hold_out"], row["features"]) == key and row["metric"] == metric]
    mean = lambda name: float(np.mean([row[name] for row in own]))  # noqa: E731
    return mean("mean"), mean("low"), mean("high"), len(own), mean("cpu_seconds") if key[2] in SYSTEMS else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "final", "users", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", default=SETS[0], choices=SETS)
    parser.add_argument("--systems", default="sasrec,bert4rec,cl4srec")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hold-out", default="last", choices=["last", "time"])
    parser.add_argument("--knobs", nargs="*", default=[])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    systems = given.systems.split(",")
    if given.what == "choose":
        choose(given.out, given.set, systems, dict(knob.split("=", 1) for knob in given.knobs))
    elif given.what == "final":
        final(given.out, given.set, systems, given.seeds, given.hold_out)
    elif given.what == "users":
        users(given.out, systems)
    else:
        print(table(given.out))


if __name__ == "__main__":
    main()
