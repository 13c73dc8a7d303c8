"""Relation methods: the accuracy of the pretext task on held-out images, as trained and with the cues removed that could be shortcuts.

untaught pretrain DATA --method jigsaw --out runs/jigsaw ...
python benchmarks/relation.py runs/jigsaw [RUN ...]

The method is rebuilt with the weights of the run's last checkpoint and asked on at most 4096 held-out images (val if there is one, else
test): as trained; with grey images; with tiles and patches that touch; and in full colour where channels are dropped in training.
Intervals are 95%, by image. Features are measured by `untaught evaluate runs/jigsaw`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rounds import machine, table

from untaught.config.registry import method_class
from untaught.console import console
from untaught.core import Facts, Method
from untaught.data.loader import Loader
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.dataset import Dataset, open_dataset
from untaught.pipeline.pretrained import load_encoder
from untaught.pipeline.view_pipeline import Views
from untaught.storage.run_dir import read_run
from untaught.training import checkpoint
from untaught.training.validation import MOST

ASKED: dict[str, dict[str, Any]] = {  # changed options of the first view
    "as trained": {},
    "grey": {"grey": 1.0},
    "tiles that touch": {"gap": 0.0},
    "full colour": {"drop": 0.0, "project": 0.0},
}
HEAD = ["run", "method", "images", "chance", *ASKED, "parts placed right"]


def rebuilt(folder: Path) -> tuple[Method, Views, Dataset]:
    """The method of a run with its last weights, its views, and its data."""
    run = read_run(folder / "run.yaml")
    encoder, _, prep = load_encoder(folder)  # network, config, preprocessor
    dataset = open_dataset(run["data"], prep, columns=run["columns"], label=run["label"], split=run["split"])
    dataset.open(False, seed=run["resolved"]["loop"]["seed"])
    options = [dict(view) for view in run["resolved"]["views"]]
    views = Views(tuple(view.pop("name") for view in options), dataset.prep, options, seed=0)
    batch = next(iter(dataset.in_order(dataset.parts["train"][:2], 2).batches(0)))
    build: Any = method_class(run["method"])
    facts = Facts(dataset.rows, dict(zip(views.names, views(batch, 0), strict=True)), dataset.prep.statistics)
    method = build(encoder, facts, **run["resolved"]["method"])
    state = checkpoint.load(folder / "checkpoints", print)
    assert state is not None
    method.load_state_dict(state["method"])
    return method.eval(), views, dataset


@torch.no_grad()
def accuracy(method: Any, views: Views, dataset: Dataset) -> tuple[float, float, float, int]:
    """Accuracy and half its interval, the share of parts that are placed right, and the number of images."""
    part = "val" if len(dataset.parts.get("val", ())) else "test"
    numbers = dataset.numbers(part)
    numbers = numbers[:: -(-len(numbers) // MOST)]
    right, placed = [], []
    for batch in Loader(dataset.samples(part), numbers, 256, 0, drop_last=False, shuffle=False).batches(0):
        made = views(batch, 0)
        parts = made[0].parts
        assert parts is not None
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
            right.append(method.forward(made, 1.0)["accuracy"] * len(batch["index"]))
            guess = method.solve(made)
        placed.append((guess == parts[:, -guess.shape[1] :]).float().sum() / guess[0].numel())
    share = float(torch.stack(right).sum()) / len(numbers)
    return share, 1.96 * (share * (1 - share) / len(numbers)) ** 0.5, float(torch.stack(placed).sum()) / len(numbers), len(numbers)


def line(folder: Path) -> list[str]:
    method, views, dataset = rebuilt(folder)
    cells, placed, count = [], 0.0, 0
    for changes in ASKED.values():
        offered = {key: value for key, value in changes.items() if key in views.options[0]}
        if changes and not offered:
            cells.append("")
            continue
        changed = Views(views.names, views.prep, [views.options[0] | offered, *views.options[1:]], seed=0)
        share, half, own, count = accuracy(method, changed, dataset)
        placed = placed if changes else own
        cells.append(f"{share:.1%} +- {100 * half:.1f}")
    return [folder.name, type(method).__name__, str(count), f"{method.chance:.1%}", *cells, f"{placed:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    asked = parser.parse_args()
    console.quiet = True
    print(f"{machine()}\n")
    print(table(HEAD, [line(folder) for folder in asked.runs]))


if __name__ == "__main__":
    main()
