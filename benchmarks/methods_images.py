"""Every method on CIFAR-10, alike: speed, memory, kNN, linear probe, 1% of the labels, beside the same encoder untrained.

python benchmarks/methods_images.py [--method simclr ...] [--minutes 1] [--seeds 1] [--jobs 1] [--test] [--out runs/methods]

Each method trains in a process of its own, with the encoder that fits it (conv_small, or vit_mini where it needs tokens, a
smaller one where it needs many steps) and the batch and knobs of BATCHES and KNOBS, else at the defaults.
Scores are of a held-out fifth of the training part, seed 0, so that choices may be made by them;
with --test of the test part, and training has the whole training part. Images a second are those of training, by the clock; memory is
the peak of resident memory of the whole process. --jobs 2 trains two at a time and shares the threads out (OMP_NUM_THREADS says otherwise).
A method that has been measured in --out is not measured again.
Without UNTAUGHT_DATA, scikit-learn's digits stand in for CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rounds import machine, table

from untaught.config.registry import method_class
from untaught.methods import METHODS
from untaught.modalities.image import IMAGE

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data")) / "cifar10"
BATCHES = {  # samples a step; many crops or a transformer leave few steps to a short run, and small batches more of them
    **dict.fromkeys(("swav", "deepcluster", "dino", "lejepa"), 128),
    **dict.fromkeys(("ibot", "dinov2", "msn"), 64),
    **dict.fromkeys(("mae", "ijepa", "data2vec", "mocov3"), 128),
}
BATCH = 256
SMALL = ["encoder.embed_dim=96", "encoder.depth=4"]  # a transformer that makes thousands of steps in ten minutes of a core, not hundreds
KNOBS = {
    **dict.fromkeys(("ijepa", "data2vec", "msn"), SMALL),
    **{name: [*SMALL, "prototypes=512"] for name in ("ibot", "dinov2")},  # scores of every token: they take most of a step
}
HEAD = ["method", "encoder", "batch", "steps", "images/s", "peak MiB", "kNN", "linear", "1% labels", "untrained (kNN, linear)", "health"]


def command(name: str, data: str, out: Path, minutes: float, seed: int) -> list[str]:
    knobs = [f"minutes={minutes:g}", f"batch_size={BATCHES.get(name, BATCH)}", f"seed={seed}", "evaluate_every=0", *KNOBS.get(name, [])]
    return [sys.executable, "-m", "untaught.cli", "pretrain", data, "--method", name, "--out", str(out), *knobs]


def measured(name: str, data: str, out: Path, minutes: float, seed: int, threads: int) -> dict[str, Any]:
    """Trains and measures one method, or reads what an earlier call has measured; keeps what it printed beside it."""
    place, said = out / f"{name}-{seed}", out / f"{name}-{seed}.json"
    if said.exists():
        return json.loads(said.read_text())
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with (out / f"{name}-{seed}.log").open("w") as log:
        child = subprocess.Popen(command(name, data, place, minutes, seed), stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            return {"method": name, "seed": seed, "fault": f"see {log.name}"}
        check = [sys.executable, __file__, "--probe", str(place)]
        probes = json.loads(subprocess.run(check, stdout=subprocess.PIPE, stderr=log, env=environment, check=True).stdout)
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    looked = [row["health"] for row in rows if "health" in row]
    result = {
        "method": name,
        "seed": seed,
        "minutes": minutes,
        "batch": BATCHES.get(name, BATCH),
        "steps": trained[-1]["step"],
        "pictures_per_second": trained[-1]["samples"] / trained[-1]["seconds"],
        "peak_mib": usage.ru_maxrss / 1024,
        "health": looked[-1]["because"] or "healthy" if looked else "",
        **probes,
    }
    said.write_text(json.dumps(result, indent=1))
    return result


def probe(run: Path) -> dict[str, Any]:
    """kNN, linear probe and 1% of the labels, of a run's encoder and of the same untrained."""
    import torch

    from untaught.console import console
    from untaught.evaluation.evaluator import Scorer
    from untaught.evaluation.knn import knn_accuracy
    from untaught.evaluation.linear import LinearProbe
    from untaught.evaluation.low_label import DRAWS, draw
    from untaught.evaluation.models import open_model
    from untaught.ops.precision import has_bfloat16
    from untaught.pipeline.dataset import open_dataset
    from untaught.pipeline.pretrained import load_encoder
    from untaught.storage.run_dir import read_run, seed_of

    console.quiet = True
    said = read_run(run / "run.yaml")
    model = open_model(str(run))
    dataset = open_dataset(said["data"], model.modality, columns=None, label=None, split=None, overrides=said["layout"])
    dataset.open(False, seed=0)
    scorer = Scorer(dataset, model.view, torch.device("cpu"), has_bfloat16("cpu"), 0)
    train, test = scorer.labels(scorer.bank), scorer.labels(scorer.queries)
    encoder, config, _ = load_encoder(run)
    named = " ".join([config["encoder"], *(f"{key}={value}" for key, value in config["encoder_knobs"].items())])
    result: dict[str, Any] = {"encoder": named}
    networks: dict[str, Any] = {"": encoder}
    place = run.parent / f"untrained-{named.replace('/', '-')}-{seed_of(said)}.json"  # the same for many methods
    if place.exists():
        result |= json.loads(place.read_text())
    else:
        networks["untrained_"] = model.random_init(dataset)
    for who, network in networks.items():
        bank, queries = scorer.features(network, scorer.bank), scorer.features(network, scorer.queries)
        result[f"{who}knn20"] = knn_accuracy(bank, train, queries, test)[20]
        linear = LinearProbe(bank, queries)
        guess, _ = linear.predict(scorer.bank.argsort(), train)
        result[f"{who}linear"] = float((guess == test).mean())
        right, c = [], None
        for seed in range(DRAWS if not who else 0):
            rows = draw("1%", train, seed)
            guess, c = linear.predict(rows, train[rows], seed, c)
            right.append(float((guess == test).mean()))
        if right:
            result["one_percent"] = statistics.mean(right)
    place.write_text(json.dumps({key: value for key, value in result.items() if key.startswith("untrained_")}))
    return result


def line(rows: list[dict[str, Any]]) -> list[str]:
    """A line of the table: means over seeds, with half the span between the lowest and the highest."""

    def share(key: str) -> str:
        values = [100 * row[key] for row in rows]
        spread = f" +- {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    first = rows[0]
    numbers = [f"{statistics.mean(row[key] for row in rows):.0f}" for key in ("steps", "pictures_per_second", "peak_mib")]
    scores = [share("knn20"), share("linear"), share("one_percent"), f"{share('untrained_knn20')}, {share('untrained_linear')}"]
    return [
        first["method"],
        first["encoder"],
        str(first["batch"]),
        *numbers,
        *scores,
        "; ".join(dict.fromkeys(row["health"] for row in rows)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = [name for name in METHODS if set(method_class(name).views) <= set(IMAGE.views)]
    parser.add_argument("--method", nargs="+", default=pictures, choices=pictures)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.probe:
        print(json.dumps(probe(asked.probe)))
        return
    data = str(DATA if asked.test else DATA / "train.parquet") if DATA.exists() else "builtin:digits"
    asked.out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // asked.jobs)
    threads = int(os.environ.get("OMP_NUM_THREADS", threads))
    found: dict[str, list[dict[str, Any]]] = {}
    lock = threading.Lock()

    def one(name: str, seed: int) -> None:
        result = measured(name, data, asked.out, asked.minutes, seed, threads)
        with lock:
            found.setdefault(name, []).append(result)
            print(json.dumps(result), file=sys.stderr, flush=True)

    with ThreadPoolExecutor(asked.jobs) as pool:
        for task in [pool.submit(one, name, seed) for seed in range(asked.seeds) for name in asked.method]:
            task.result()
    whole = [rows for rows in found.values() if not any("fault" in row for row in rows)]
    whole.sort(key=lambda rows: -statistics.mean(row["knn20"] for row in rows))
    print(f"{machine()}\n{data}, {asked.minutes:g} minutes, {asked.seeds} seeds, {threads} threads each\n")
    print(table(HEAD, [line(rows) for rows in whole]))
    for rows in found.values():
        for row in rows:
            if "fault" in row:
                print(f"{row['method']}, seed {row['seed']}: {row['fault']}")


if __name__ == "__main__":
    main()
