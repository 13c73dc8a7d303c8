"""A whole evaluation: an encoder, the same untrained, raw data and what exists elsewhere, measured alike and written down."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from untaught.console import say, warn
from untaught.core import Modality, Options, UserError
from untaught.evaluation import low_label
from untaught.evaluation.evaluator import Scorer, merge_rows, read_rows
from untaught.evaluation.models import EvaluatedModel, open_model
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.dataset import Dataset, differing, look
from untaught.pipeline.seen_rows import SeenRows
from untaught.pipeline.view_pipeline import Views
from untaught.ranges import Samples, in_range
from untaught.storage.atomic import make_room
from untaught.storage.run_dir import data_of, read_run

PAIR = "global"  # the view whose two draws of a sample make the alignment


@in_range
def evaluate(
    target: Any,
    data: Any = None,
    *,
    against: Sequence[Any] = (),
    modality: str = "image",
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    batch_size: Samples = 256,
    out: Path | None = None,
) -> list[Options]:
    """Measures `target` (see `open_subject`) and its baselines on labelled data, by default the run's own -> rows.

    They go into the evaluation.json of the run, or of `out`, a folder or a .json file. Raises UserError.
    """
    model = dataclasses.replace(open_model(target, modality), name="encoder")
    peers = [open_model(peer, model.modality.name) for peer in against]
    for peer, given in zip(peers, against, strict=True):
        peer.name = f"against:{given if isinstance(given, str | os.PathLike) else peer.name}"
    if len({peer.name for peer in peers}) < len(peers):
        raise UserError("--against names one encoder twice; name each once")
    place = _place(model, out)
    known = SeenRows.of(model.run) if model.run else None
    own = data is None
    if own:
        data, columns, label, split = _own_data(model, target)

    seed = known.seed if known else 0
    dataset = _open(model, data, columns, label, split, known, own)
    layout = dataset.layout
    networks: list[tuple[str, EvaluatedModel, nn.Module]] = [("encoder", model, model.build(layout))]
    untrained = model.untrained(layout)
    if untrained is None:
        warn("skipping the random-init baseline: some modules lack reset_parameters()")
    else:
        networks.append(("random_init", model, untrained))
    for peer in peers:
        if peer.layout and not _alike(peer.modality, peer.layout, model.modality, layout):
            raise UserError(f"{peer.name[8:]} takes other data than {target}, or reads it in another way; compare encoders of one kind")
        networks.append((peer.name, peer, peer.build(layout)))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer = Scorer(dataset, model.view, device, has_bfloat16(device.type), seed, batch_size)
    print_labels(scorer)
    for peer in peers:
        _warn_seen(peer, scorer)
    rows: list[Options] = []
    for name, owner, network in networks:
        rows += scorer.battery(name, network.to(device), _views(owner, dataset))
        network.cpu()
    if scorer.possible:
        rows += scorer.battery("raw", None)
    if place is not None:
        merge_rows(place, rows)
        say(f"wrote     {place}")
    return rows


def print_labels(scorer: Scorer) -> None:
    """What is measured on what, and what of it can't be."""
    if not scorer.possible:
        say(f"labels    not used: {scorer.why_not}; label-free rows only, of {len(scorer.queries):,} {scorer.dataset.modality.noun}")
        return
    train, test = scorer.labels(scorer.bank), scorer.labels(scorer.queries)
    present, sizes = np.unique(train, return_counts=True)
    say(f"split     {scorer.dataset.how_split}")
    span = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
    say(f"labels    {len(present)} classes of {span} training {scorer.dataset.modality.noun}; {len(test):,} of {scorer.held_out} ask")
    for doubt in scorer.doubts():
        warn(doubt)
    for setting, against in low_label.settings(train):
        if against:
            say(f"labels    {setting} is left out: {against}")


def _warn_seen(peer: EvaluatedModel, scorer: Scorer) -> None:
    """Another run's training samples may be among those that this one held out."""
    store = scorer.dataset.store
    if peer.run and store and (seen := SeenRows.of(peer.run).seen(store, scorer.queries)):
        noun = scorer.dataset.modality.noun
        warn(f"{peer.name[8:]} was trained on {seen:,} of the {len(scorer.queries):,} {noun} it is scored on: its scores are too high")


def _open(
    model: EvaluatedModel,
    data: Any,
    columns: dict[str, str] | None,
    label: str | None,
    split: str | None,
    known: SeenRows | None,
    own: bool,
) -> Dataset:
    """Data read as the encoder's own was, with what that changes said. known: of the run; own: whether the data are to be the run's."""
    modality = model.modality
    overrides = ({"size": model.size} if model.size else {}) | model.brought
    dataset = look(data, modality, columns=columns, label=label, split=split, overrides=overrides, layout=model.layout)
    for key, (found, takes) in differing(dataset.peeked, modality, model.layout).items() if model.layout else ():
        if key == "channels" and 1 not in (found, takes):
            raise UserError(
                f"the {modality.noun} have {found} channels, the encoder was trained on {takes}; give {modality.noun} of {takes}"
            )
        say(f"layout    {modality.noun} of {key} {found} are read with {key} {takes}, as in training")
    divide = known.divider(dataset, own) if known else None
    dataset.open(False, 0, divide)
    return dataset


def _alike(modality: Modality, layout: Options, other: Modality, others: Options) -> bool:
    """Whether what is decoded for one encoder can be shown to another: of one modality, channels and tokenizer; sizes may differ."""
    if modality is not other or modality.input(layout).get("channels") != other.input(others).get("channels"):
        return False
    return modality.learn is None or modality.kept(layout)[modality.files[0]] == modality.kept(others)[modality.files[0]]


def _views(model: EvaluatedModel, dataset: Dataset) -> tuple[Views, Views | None]:
    whole = model.shown(dataset.layout, dataset.statistics, (model.view,))
    offered = PAIR in model.modality.views
    return whole, model.shown(dataset.layout, dataset.statistics, (PAIR, PAIR)) if offered else None


def _own_data(model: EvaluatedModel, target: Any) -> tuple[Any, dict[str, str] | None, str | None, str | None]:
    if model.run is None:
        name = target if isinstance(target, str | os.PathLike) else "it"
        raise UserError(f"{name} has no data of its own to be measured on; name some with --data")
    run = read_run(model.run / "run.yaml")
    return data_of(run, model.run), run["columns"], run["label"], run["split"]


def _place(model: EvaluatedModel, out: Path | None) -> Path | None:
    """Where the rows go; refused before anything is measured if it can't be written."""
    if out is None and not model.run:
        return None
    folder = out or model.run or Path()
    place = folder if folder.suffix == ".json" else folder / "evaluation.json"
    make_room(place)
    read_rows(place)  # what is there must be an evaluation
    return place


# ------------------------------------------------------------------------------------------------------- rows as text

HEADINGS: dict[str, str] = {"random_init": "untrained", "raw": "raw data"}
PROBES = {"knn20": "kNN k=20", "knn200": "kNN k=200", "kmeans": "k-means", "spectrum": ""}
SHARES = {"accuracy", "balanced_accuracy"}


def as_text(rows: list[Options], width: int) -> str:
    """A table, a column an encoder, a line a score with half its 95% interval; where that is too wide, a paragraph a score."""
    shown = [name for name in dict.fromkeys(row["features"] for row in rows) if name != "encoder"]
    names: list[str] = ["encoder", *shown]
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        cells.setdefault(_what(row), {})[row["features"]] = _cell(row)
    headings = [HEADINGS[name] if name in HEADINGS else name.removeprefix("against:") for name in names]
    table = [["", *headings], *([what, *(found.get(name, "") for name in names)] for what, found in cells.items())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if sum(widths) + 2 * len(widths) <= width:
        lines = ["  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]) for line in table]
    else:
        lines = list(_paragraphs(table, headings))
    return "\n".join(line.rstrip() for line in [*lines, "", "+- half a 95% interval over label draws and test rows; shares in percent"])


def _paragraphs(table: list[list[str]], headings: list[str]) -> Iterator[str]:
    wide = max(map(len, headings))
    for what, *found in table[1:]:
        yield what
        yield from (f"  {heading.ljust(wide)}  {cell}" for heading, cell in zip(headings, found, strict=True) if cell)


def _what(row: Options) -> str:
    labels = "" if row["labels"] in ("all", "none") else row["labels"]
    metric = "" if row["metric"] == "accuracy" else row["metric"].replace("_accuracy", "")
    return " ".join(filter(None, (PROBES.get(row["probe"], row["probe"]), labels, metric)))


def _cell(row: Options) -> str:
    half = max(row["high"] - row["mean"], row["mean"] - row["low"])
    if row["metric"] in SHARES:
        return f"{100 * row['mean']:.1f} +- {100 * half:.1f}"
    digits = 1 if abs(row["mean"]) >= 10 else 2
    return f"{row['mean']:.{digits}f} +- {half:.{digits}f}"
