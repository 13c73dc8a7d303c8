"""Evaluates an encoder, its random init, raw data and off-the-shelf encoders with the same probes."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

from untaught.config.overrides import parse, unknown
from untaught.config.registry import modality_named
from untaught.console import say, warn
from untaught.core import Modality, Options, Preprocessor, UserError
from untaught.data.parts import GROUP, TRAIN
from untaught.evaluation import boosting, low_label
from untaught.evaluation.evaluator import Scorer, merge_rows, read_rows
from untaught.evaluation.left_out_groups import Groups, leave_each_out
from untaught.evaluation.metrics import is_main, metric_of
from untaught.evaluation.models import EvaluatedModel, open_model, random_init_encoder
from untaught.evaluation.next_item import NextItem, can_rank
from untaught.evaluation.pairs import PairScorer, random_init_heads
from untaught.evaluation.verification import PAIRS, Verifier
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.dataset import Dataset, differing, open_dataset
from untaught.pipeline.infer import chosen_modality
from untaught.pipeline.preprocessor import load
from untaught.pipeline.pretrained import encoder_folder, load_encoders, roles_in
from untaught.pipeline.seen_rows import SeenRows
from untaught.pipeline.view_pipeline import Views
from untaught.ranges import Samples, Within, check, in_range
from untaught.storage.atomic import make_room
from untaught.storage.run_dir import data_of, own_data, read_run

KINDS = {"classify": "classes", "multilabel": "multilabel", "regress": "numbers"}  # target kind by task
VERIFY = "verify"  # the task that compares pairs of samples
TRIALS: dict[str, Any] = {"trials": str, "pairs": Annotated[int, Within(1, 1_000_000)]}  # its knobs
LABELS: dict[str, Any] = {"labels": str, "noise": Annotated[float, Within(0, 0.9)], "boosting": bool}  # knobs: what probes learn from
FITTED = 1_000  # training rows that a classical baseline is fitted to, at most, without their labels
PAIR = "global"  # two draws of this view measure the alignment


@in_range
def evaluate(
    target: Any,
    data: Any = None,
    *,
    against: Sequence[Any] = (),
    modality: str | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    group: str | None = None,
    batch_size: Samples = 256,
    out: Path | None = None,
    task: str | None = None,
    knobs: Options | None = None,
) -> list[Options]:
    """Evaluates `target` (see `open_model`) and its baselines on labelled data, by default the run's own -> rows.

    A run with several encoders is evaluated by retrieval between them, on held-out pairs.
    The rows are written to evaluation.json of the run, or to `out`, a folder or a .json file. task: "classify", "multilabel" or "regress",
    for a class, several classes or a number per sample; by default as the labels are read, numbers if any is not an integer; "verify":
    whether two samples have one label, for pairs drawn from the held-out part (`pairs` of one label and of two) or listed in the file
    `trials`. group: a column whose values (speakers, patients, runs) are left out one by one; the data's splits are then not used.
    knobs: `labels` ("1%,25%,10/class": the amounts that probes learn from, beside all), `noise` (a share of wrong ones, for classes),
    `boosting` (gradient boosting on raw data, vectors and both: by default for tables); modality knobs such as length=64, for a model that
    was not trained here. Raises UserError.
    """

    if isinstance(target, str | os.PathLike) and roles_in(Path(target)):
        if against or label or group:
            option = "--against" if against else "--label" if label else "--group"
            raise UserError(
                f"{option}: {target} has several encoders, evaluated by retrieval; give a single encoder, e.g. {_a_role(target)}"
            )
        return evaluate_pairs(Path(target), data, columns, split, batch_size, out)

    def kind() -> Modality:
        if data is None:
            raise UserError(f"{_title(target)} has no data of its own; pass some with --data")
        return chosen_modality(modality, data, columns)

    model = dataclasses.replace(open_model(target, kind), name="encoder")
    knobs = knobs or {}
    pairing = {name: parse(name, knobs[name], kind) for name, kind in TRIALS.items() if task == VERIFY and name in knobs}
    check(pairing, TRIALS)
    learning = {name: parse(name, knobs[name], kind) for name, kind in LABELS.items() if task != VERIFY and name in knobs}
    check(learning, LABELS)
    trees = learning.get("boosting", model.modality.boosted)
    amounts = low_label.amounts_of(learning["labels"]) if "labels" in learning else None
    plan = low_label.Plan(amounts, learning.get("noise", boosting.NOISE if trees else 0.0))
    chosen = _settings_knobs(model, {name: value for name, value in knobs.items() if name not in pairing and name not in learning})
    if task is not None and task not in (*KINDS, VERIFY):
        raise unknown("task", task, (*KINDS, VERIFY))
    peers = [open_model(peer, lambda: model.modality) for peer in against]
    for peer, given in zip(peers, against, strict=True):
        peer.name = f"against:{given if isinstance(given, str | os.PathLike) else peer.name}"
    if len({peer.name for peer in peers}) < len(peers):
        raise UserError("--against contains an encoder twice; give each once")
    place = _place(model, out)
    known = SeenRows.of(model.run) if model.run else None
    own = data is None
    if own:
        data, columns, label, split = _own_data(model, target)

    seed = known.seed if known else 0
    if group:
        columns = {**(columns or {}), GROUP: group}
    dataset = _open(model, data, columns, label, split, known, own, chosen, whole=group is not None)
    networks: list[tuple[str, EvaluatedModel, nn.Module]] = [("encoder", model, model.build(dataset))]
    random_init = model.random_init(dataset)
    if random_init is None:
        warn("skipping the random-init baseline: some modules lack reset_parameters()")
    else:
        networks.append(("random_init", model, random_init))
    for peer in peers:
        if peer.prep and not _alike(peer.prep, dataset.prep):
            raise UserError(
                f"{peer.name[8:]} takes other data than {target}, or preprocesses it differently; compare encoders with compatible input"
            )
        networks.append((peer.name, peer, peer.build(dataset)))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer = Scorer(dataset, model.view, device, has_bfloat16(device.type), seed, batch_size, _kind_of(task, "trials" in pairing))
    scorer.plan = plan
    if learning.get("noise") and scorer.kind != "classes":
        raise UserError(f"noise={learning['noise']:g}: wrong labels are other classes, and these labels are not classes; leave it out")
    measure: Callable[..., list[Options]] = scorer.battery
    if group:
        groups = Groups.of(scorer, group)
        groups.announce(scorer, known)
        measure = partial(leave_each_out, scorer, groups)
    elif task == VERIFY:
        verifier = Verifier(scorer, Path(pairing["trials"]) if "trials" in pairing else None, pairing.get("pairs", PAIRS), seed)
        say(f"split     {dataset.how_split}")
        say(f"trials    {verifier.about}")
        measure = verifier.measure
    else:
        print_labels(scorer)
    for peer in () if group else peers:
        _warn_seen(peer, scorer)
    rows: list[Options] = []
    for name, owner, network in networks:
        rows += measure(name, network.to(device), _views(owner, dataset))
        network.cpu()
    if scorer.possible or group or task == VERIFY:
        rows += measure("raw", None)
        for name, fit in model.modality.classical.items():
            scorer.raw = fit(scorer.training_rows(FITTED), dataset.prep)
            rows += measure(name, None)
        scorer.raw = model.modality.raw
    rows += [] if group or task else _next_item(dataset, networks, device, seed, known)
    if scorer.possible and scorer.kind in boosting.KINDS and trees and not group and task != VERIFY:
        rows += scorer.boosted(networks[0][2].to(device), model.views(dataset.prep, (model.view,)))
        networks[0][2].cpu()
        if trees := boosting.trees_win(rows):
            say(f"trees     {trees}")
    if place is not None:
        merge_rows(place, rows)
        say(f"wrote     {place}")
    return rows


def _next_item(
    dataset: Dataset, networks: list[tuple[str, EvaluatedModel, nn.Module]], device: torch.device, seed: int, known: SeenRows | None
) -> list[Options]:
    """Next-item ranking of the networks that rank items, beside classical recommenders; [] if the data or the encoder do not offer it."""
    ranker = NextItem(dataset, networks[0][2], device, has_bfloat16(device.type), seed, known)
    if not ranker.announce():
        return []
    ranker.describe()
    rows = [row for name, _, network in networks if can_rank(network) for row in ranker.measure(name, network.to(device))[0]]
    return rows + ranker.baselines()[0]


def _kind_of(task: str | None, listed: bool) -> str | None:
    """The target kind of a task; None: as the labels are read. listed: whether pairs of samples are listed, without use of labels."""
    if task == VERIFY:
        return None if listed else "classes"
    return KINDS[task] if task else None


def evaluate_pairs(
    path: Path, data: Any, columns: dict[str, str] | None, split: str | None, batch_size: int, out: Path | None
) -> list[Options]:
    """Recall between the encoders of a run on its held-out pairs, or on those of `data`, with random init and chance as baselines."""
    run = path if (path / "run.yaml").exists() else path.absolute().parent
    record = read_run(run / "run.yaml")
    models, heads = load_encoders(path)
    place = _place_in(run, out)
    known, own = SeenRows.of(run), data is None
    if own:
        data, columns, split = data_of(record, run), record["columns"], record["split"]
    prep = load(modality_named(record["modality"]), record["layout"], record["statistics"], run)
    dataset = open_dataset(data, prep, columns=columns, label=record["label"] if own else None, split=split)
    dataset.open(False, 0, known.divider(dataset, own))
    dataset.prep = dataclasses.replace(dataset.prep, statistics=record["statistics"])
    views = {
        role: f"{role}.{model.config['view']}" if role in prep.modality.parts else model.config["view"] for role, model in models.items()
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer = PairScorer(dataset, views, device, has_bfloat16(device.type), batch_size)
    if not scorer.possible:
        raise UserError(f"can't measure retrieval:  {scorer.why_not}")
    say(f"split     {dataset.how_split}; {len(scorer.rows):,} {prep.modality.noun} of {scorer.held_out} as queries")
    drawn = {
        role: random_init_encoder(model.config["encoder"], model.prep.encoder_arguments, model.config["encoder_knobs"], known.seed)
        for role, model in models.items()
    }
    rows, _ = scorer.measure("encoder", {role: model.network for role, model in models.items()}, heads)
    rows += scorer.measure("random_init", drawn, random_init_heads(heads, known.seed))[0] + scorer.chance()
    if place is not None:
        merge_rows(place, rows)
        say(f"wrote     {place}")
    return rows


def _a_role(target: Any) -> str:
    folder = encoder_folder(Path(target))
    return str(folder / roles_in(folder)[0])


def _settings_knobs(model: EvaluatedModel, knobs: Options) -> Options:
    """Parses the knobs. Raises UserError for an unknown name, and for an encoder that has its own preprocessing."""
    allowed = {name: kind for name, kind in model.modality.knobs.items() if name not in model.overrides}
    for name in knobs:
        if name not in allowed:
            raise unknown("knob", name, allowed)
        if model.prep is not None:
            own = model.prep.settings.get(name)
            raise UserError(f"{name}={knobs[name]}: the trained encoder has its own {name} {own}; leave it out")
    return {name: parse(name, value, allowed[name]) for name, value in knobs.items()}


def print_labels(scorer: Scorer) -> None:
    """Prints what is evaluated on which data, and what is skipped."""
    if not scorer.possible:
        say(f"labels    not used: {scorer.why_not}; label-free metrics only, on {len(scorer.queries):,} {scorer.dataset.modality.noun}")
        return
    train, test = scorer.labels(scorer.bank), scorer.labels(scorer.queries)
    noun = scorer.dataset.modality.noun
    say(f"split     {scorer.dataset.how_split}")
    if scorer.kind == "numbers":
        about = f"numbers from {train.min():g} to {train.max():g} on {len(train):,} training {noun}"
    elif scorer.kind == "multilabel":
        about = f"{train.shape[1]} classes, {train.sum(1).mean():.1f} per sample on average, on {len(train):,} training {noun}"
        about += f" (mAP by chance {test.mean(0)[test.any(0)].mean():.1%})"
    else:
        present, sizes = np.unique(train, return_counts=True)
        span = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
        about = f"{len(present)} classes of {span} training {noun} each"
    say(f"labels    {about}; evaluated on {len(test):,} of {scorer.held_out}")
    for doubt in scorer.doubts():
        warn(doubt)
    for setting, against in low_label.settings(train, scorer.plan):
        if against:
            say(f"labels    skipping {setting}: {against}")


def _warn_seen(peer: EvaluatedModel, scorer: Scorer) -> None:
    """Warns if another run was trained on samples that this one holds out."""
    store = scorer.dataset.store
    if peer.run and store and (count := SeenRows.of(peer.run).seen(store, scorer.queries)):
        noun = scorer.dataset.modality.noun
        warn(f"{peer.name[8:]} was trained on {count:,} of the {len(scorer.queries):,} {noun} it is evaluated on; its scores are too high")


def _open(
    model: EvaluatedModel,
    data: Any,
    columns: dict[str, str] | None,
    label: str | None,
    split: str | None,
    known: SeenRows | None,
    own: bool,
    chosen: Options | None = None,
    whole: bool = False,
) -> Dataset:
    """Opens the data with the encoder's preprocessing and prints what that changes. known: the run's rows; own: whether the data are
    the run's; chosen: settings, for an encoder that has none; whole: not split."""
    modality = model.modality
    overrides = {key: value for key, value in model.shown_as.items() if key in modality.knobs} | model.overrides | (chosen or {})
    dataset = open_dataset(data, model.prep or modality, columns=columns, label=label, split=split, overrides=overrides)
    if model.prep is None:
        settings = dataset.prep.settings
        say("input     " + ", ".join(f"{key} {settings[key]}" for key in modality.knobs if key in settings))
    for key, (found, takes) in differing(dataset.peeked, model.prep).items() if model.prep else ():
        say(f"input     {modality.noun} converted from {key} {found} to {takes}, as in training")
    divide = known.divider(dataset, own) if known else None
    everything = lambda store: ({TRAIN: np.arange(len(store))}, "not split")  # noqa: E731
    dataset.open(False, 0, everything if whole else divide)
    return dataset


def _alike(prep: Preprocessor, other: Preprocessor) -> bool:
    """Whether two encoders can share decoded samples: same number of image channels, same tokenizer."""
    return prep.modality is other.modality and prep.modality.kind(prep.settings) == other.modality.kind(other.settings)


def _views(model: EvaluatedModel, dataset: Dataset) -> tuple[Views, Views | None]:

    return model.views(dataset.prep, (model.view,)), model.views(dataset.prep, (PAIR, PAIR)) if PAIR in model.modality.views else None


def _title(target: Any) -> str:
    return str(target) if isinstance(target, str | os.PathLike) else "it"


def _own_data(model: EvaluatedModel, target: Any) -> tuple[Any, dict[str, str] | None, str | None, str | None]:
    if model.run is None:
        raise UserError(f"{_title(target)} has no data of its own; pass some with --data")
    return own_data(model.run)


def _place(model: EvaluatedModel, out: Path | None) -> Path | None:
    """Where the rows are written; raises UserError before any computation if that is not possible."""
    return None if out is None and not model.run else _place_in(model.run or Path(), out)


def _place_in(run: Path, out: Path | None) -> Path:
    folder = out or run
    place = folder if folder.suffix == ".json" else folder / "evaluation.json"
    make_room(place)
    read_rows(place)  # an existing file must be an evaluation
    return place


# ------------------------------------------------------------------------------------------------------- rows as text

HEADINGS: dict[str, str] = {"chance": "chance", "random_init": "random init", "raw": "raw data", "copy": "first mask"}
HEADINGS |= {"window_ridge": "ridge on window", "seasonal_naive": "seasonal naive", "last_value": "last value"}
HEADINGS |= {"recent_popularity": "recent popularity", "item_knn": "item-kNN", "ease": "EASE", "encoder+raw": "encoder and raw"}
PROBES = {"knn20": "kNN k=20", "knn200": "kNN k=200", "kmeans": "k-means", "spectrum": "", "retrieval": "", "verification": ""}
PROBES |= {"next_item": "next item, full ranking,"}


def as_text(rows: list[Options], width: int) -> str:
    """A table: a column per encoder, a line per score with half its 95% interval; if that is too wide, a paragraph per score. With groups
    left out, a second one has a line per group."""
    single = [row for row in rows if "group" in row]
    if single:
        count = len({row["group"] for row in single})
        means = _table([row for row in rows if "group" not in row], width, f"over the {count} groups", _what)
        probe = next((row["probe"] for row in single if row["probe"] in ("linear", "ridge")), "")
        main = [row for row in single if row["probe"] == probe and row["labels"] == "all" and is_main(row["metric"])]
        title = f"{probe} {metric_of(main[0]['metric']).title}, the group left out" if main else ""
        return f"{means}\n\n{title}\n{_table(main, width, 'over its rows', lambda row: row['group'])}" if main else means
    return _table(rows, width, "over label draws and test rows", _what)


def _table(rows: list[Options], width: int, over: str, what: Callable[[Options], str]) -> str:
    shown = [name for name in dict.fromkeys(row["features"] for row in rows) if name != "encoder"]
    names: list[str] = ["encoder", *shown]
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        cells.setdefault(what(row), {})[row["features"]] = _cell(row)
    headings = [HEADINGS[name] if name in HEADINGS else name.removeprefix("against:") for name in names]
    table = [["", *headings], *([line, *(found.get(name, "") for name in names)] for line, found in cells.items())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if sum(widths) + 2 * len(widths) <= width:
        lines = ["  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]) for line in table]
    else:
        lines = list(_paragraphs(table, headings))
    return "\n".join(line.rstrip() for line in [*lines, "", f"+- half a 95% interval {over}; shares in percent"])


def _paragraphs(table: list[list[str]], headings: list[str]) -> Iterator[str]:
    wide = max(map(len, headings))
    for what, *found in table[1:]:
        yield what
        yield from (f"  {heading.ljust(wide)}  {cell}" for heading, cell in zip(headings, found, strict=True) if cell)


def _what(row: Options) -> str:
    labels = "" if row["labels"] in ("all", "none") else row["labels"]
    metric = "" if row["metric"] == "accuracy" else metric_of(row["metric"]).title.replace(" accuracy", "")
    return " ".join(filter(None, (PROBES.get(row["probe"], row["probe"]), labels, metric)))


def _cell(row: Options) -> str:
    half = max(row["high"] - row["mean"], row["mean"] - row["low"])
    if metric_of(row["metric"]).share:
        return f"{100 * row['mean']:.1f} +- {100 * half:.1f}"
    place = lambda value: -math.floor(math.log10(value)) if value > 0 else 0  # noqa: E731  # of its first digit
    digits = 1 if abs(row["mean"]) >= 10 else min(max(2, place(half), place(abs(row["mean"])) + 1), 6)
    return f"{row['mean']:.{digits}f} +- {half:.{digits}f}"
