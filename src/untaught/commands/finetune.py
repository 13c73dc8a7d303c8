"""Fine-tuning: trains an encoder and a head on labels, with the same network trained from scratch as the baseline."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import untaught
from untaught.config.overrides import knobs_of, parse, unknown
from untaught.config.registry import resolve
from untaught.config.train_config import TrainConfig
from untaught.console import say, warn
from untaught.core import Encoder, Modality, Options, Preprocessor, UserError
from untaught.data.labels import hold_out
from untaught.data.parts import TRAIN, VAL
from untaught.data.store import Store, sizes
from untaught.downstream import TASKS
from untaught.downstream.comparison import print_scores, score_rows
from untaught.downstream.label_sampling import Trial
from untaught.downstream.network import TrainedLayers
from untaught.downstream.task import Task
from untaught.downstream.tuner import Settings, Tuner
from untaught.evaluation.evaluator import merge_rows
from untaught.evaluation.forecasts import baselines_win
from untaught.inference.predict import holds_model, load_model
from untaught.pipeline.dataset import Dataset, Parts, differing, open_dataset
from untaught.pipeline.pretrained import Pretrained, extended, resized, save_network
from untaught.pipeline.seen_rows import SeenRows
from untaught.pipeline.view_pipeline import view_options
from untaught.storage.atomic import make_room
from untaught.storage.cells import plain_cells
from untaught.storage.run_dir import claim_path, own_data

if TYPE_CHECKING:
    import pyarrow


def finetune(
    model: Pretrained,
    path: Path,
    data: Any,
    *,
    task: str,
    out: Path | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    knobs: Options | None = None,
    record: bool = True,
) -> tuple[Path, Pretrained]:
    """Trains, compares and saves -> the folder of the fine-tuned model, and the model.

    model: the encoder of the run, or encoder folder, at `path`. data: None for those of the run. record: whether to print the scores and
    add them to evaluation.json of the run.
    """
    model, others = resized(model, knobs or {})
    place = path.parent if path.name == "encoder" else path
    ours = (place / "run.yaml").exists()
    if out and os.path.lexists(out):
        raise UserError(f"{out} already exists; choose another --out")
    if data is None:
        if not ours:
            raise UserError(f"{path} has no data of its own; pass labelled data with --data")
        data, own, known_label, known_split = own_data(place)
        columns, label, split = {**(own or {}), **(columns or {})} or None, label or known_label, split or known_split
    make_room(out or place / "finetuned")
    tuner = open_tuner(model, path, data, task=task, columns=columns, label=label, split=split, knobs=others)
    cls, trial, layers, dataset = tuner.cls, tuner.trial, tuner.layers, tuner.dataset
    _, config, prep = tuner.model  # of the table's own columns
    tuner.describe()
    outcomes: dict[str, list[np.ndarray]] = {}
    saved: Any = None
    beside: Any = None
    pictures: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for draw in range(trial.draws):
            for features in ("encoder", "random_init") if tuner.compares else ("encoder",):
                trained = tuner.train(features, draw, Path(scratch))
                predicted = tuner.predictions(trained, tuner.test) if tuner.test is not None else None
                if predicted is not None:
                    outcomes.setdefault(features, []).append(trained.outcome(*predicted))
                if features == "encoder" and draw == 0:
                    saved = trained
                    if predicted is not None and tuner.test is not None:
                        beside = trained.beside(*predicted, dataset.names(tuner.test))
                        pictures = trained.pictures(tuner)
        if record and tuner.test is not None:
            outcomes |= {name: [outcome] for name, outcome in cls.baselines(tuner).items()}
        measured = {features: cls.metrics(each) for features, each in outcomes.items()}
        rows = score_rows(measured, trial, layers.train, dataset.name, saved.setting)
        described = {"untaught": untaught.__version__, "task": task, **saved.facts}
        described |= {key: config[key] for key in ("method", "encoder", "encoder_knobs", "modality", "view", "layout", "statistics")}
        described |= {key: config[key] for key in ("encoder_arguments",) if key in config}
        described |= {"knobs": dict(knobs or {}), "resolved": tuner.resolved, "scores": rows}
        metrics = (Path(scratch) / "encoder" / "metrics.jsonl").read_text()
        files = {"metrics.jsonl": metrics.encode(), **prep.files, **pictures} | (
            {} if beside is None else {cls.beside_name: as_csv(beside)}
        )
        folder = claim_path(out or place / "finetuned")  # only now: another fine-tuning may have ended in the meantime
        try:
            save_network(saved.network, folder, described, files)
        except BaseException:
            folder.rmdir()  # still empty: it is replaced as a whole
            raise
    if outcomes and (wrong := cls.verdict(np.concatenate(outcomes["encoder"]))):
        warn(wrong)
    if record:
        if rows and ours:
            merge_rows(place / "evaluation.json", rows)
        if tuner.test is not None:
            if won := baselines_win(rows):
                warn(won)
            print_scores(measured, cls, tuner.truth[tuner.test], trial.draws, dataset.modality.noun, layers.train)
        for found in saved.findings():
            say(found)
        if out and folder != out:
            warn(f"{out} was written by another process meanwhile; this model is in {folder}")
        say(f"model     {folder}; use it with: untaught predict {folder} DATA -o predictions.csv")
    return folder, Pretrained(saved.network.eval(), described, prep)


def relearning(path: Path) -> Pretrained | None:
    """The encoder of a fine-tuned model, to be fine-tuned again on other data; None if the folder holds none."""
    if not holds_model(path):
        return None
    model = load_model(path)
    warn(f"{path} has learned from labels: rows of that training which the new data hold out make the scores too high")
    return model._replace(network=model.network.encoder)


def as_csv(table: pyarrow.Table) -> bytes:
    from pyarrow import csv

    written = io.BytesIO()
    csv.write_csv(plain_cells(table), written)
    return written.getvalue()


def open_tuner(
    model: Pretrained,
    path: Path,
    data: Any,
    *,
    task: str,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    knobs: Options | None = None,
) -> Tuner:
    """The labelled data and the way a network is trained on them. Arguments as for `finetune`."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    cls: type[Task] = resolve(TASKS[task])
    model, others = resized(model, knobs or {})
    encoder, config, prep = model
    modality = prep.modality
    sorted_knobs = _sort(others, cls, modality)
    loop: Options = {"optimizer": "adamw"} | sorted_knobs["loop"]
    trial, train_config, layers = Trial(**sorted_knobs["trial"]), TrainConfig(**loop), TrainedLayers(**sorted_knobs["layers"])
    if trial.amount[1] and not cls.by_class:
        raise UserError(f"labels={trial.labels}: --task {task} has no classes; use labels=all or a share such as 1%")
    if missing := cls.missing(encoder):
        raise UserError(
            f"--task {task} requires an encoder with {', '.join(sorted(missing))}; {config['encoder']} offers {_offers(encoder)}"
        )
    reading, target = cls.reading(prep), cls.target_of(modality)
    if target and label and target.name not in target.fields:
        raise UserError(f"--label {label}: --task {task} needs no labels, its {target.noun} are in the data themselves; leave it out")
    if target and label:
        columns, label = {**(columns or {}), target.name: label}, None
    names = tuple(name if name in modality.views else config["view"] for name in cls.views)
    usual = {f"{name}.{key}": value for name in names for key, value in (target.training if target else {}).items()}
    options = view_options(names, prep, usual | sorted_knobs["view"])
    place = path.parent if path.name == "encoder" else path
    known = SeenRows.of(place) if (place / "run.yaml").exists() else None  # rows the encoder was trained on are not held out
    dataset = open_dataset(data, reading, columns=columns, label=label, split=split)
    if target and (found := target.learn((record for part in dataset.source.parts.values() for record in part), dataset.prep.settings)):
        dataset.prep = replace(dataset.prep, settings={**dataset.prep.settings, **found})
    if modality.extend is not None and "columns" in encoder.offers:
        source = dataset.source.parts.get(TRAIN) or next(iter(dataset.source.parts.values()))
        if (other := modality.extend(iter(source), dataset.prep)) is not dataset.prep:
            model, prep = extended(model, other, train_config.seed), other
            dataset.prep = prep
    _warn_differences(dataset, prep, chosen=(knobs or {}).keys() - others.keys())
    if cls.arrange is None:
        dataset.open(False, train_config.seed, _divider(dataset, known, train_config.seed, target is not None))
    else:
        dataset.open(False, train_config.seed, lambda store: ({TRAIN: np.arange(len(store))}, ""))
        cls.arrange(dataset, prep, sorted_knobs["task"])
    return Tuner(model, dataset, cls, Settings(train_config, trial, layers, sorted_knobs["task"]), names, options)


def _sort(knobs: Options, cls: Any, modality: Modality) -> dict[str, Options]:
    """Assigns each key=value to loop, task, layers, trial or a view option. Raises UserError for an unknown key."""
    tables = {"trial": knobs_of(Trial), "task": knobs_of(cls), "layers": knobs_of(TrainedLayers), "loop": knobs_of(TrainConfig)}
    for only_pretraining in ("stream", "devices", "nodes", "strategy"):
        del tables["loop"][only_pretraining]
    result: dict[str, Options] = {name: {} for name in (*tables, "view")}
    for key, value in knobs.items():
        where = next((name for name, known in tables.items() if key in known), None)
        if where:
            result[where][key] = parse(key, value, tables[where][key][0])
        elif "." in key and key.partition(".")[0] in (*modality.views, "view0"):
            result["view"][key] = value
        else:
            known = [name for table in tables.values() for name in table]
            raise unknown("knob", key, [*known, *modality.resized, *(f"{view}.OPTION" for view in cls.views)])
    return result


def _warn_differences(dataset: Dataset, prep: Preprocessor, chosen: Collection[str]) -> None:
    """Warns about data that is converted to the format the encoder was trained on. chosen: by the user, which needs no warning."""
    if kinds := {key: both for key, both in differing(dataset.peeked, prep).items() if key not in chosen}:
        given, trained = (", ".join(f"{key} {both[i]}" for key, both in kinds.items()) for i in (0, 1))
        warn(f"the {dataset.modality.noun} have {given}; they are converted to {trained}, as the encoder was trained")


def _offers(encoder: Encoder) -> str:
    return ", ".join(sorted(encoder.offers)) or "pooled vectors only"


def _divider(dataset: Dataset, known: SeenRows | None, seed: int, fields: bool) -> Callable[[Store], Parts]:
    """Splits the rows. fields: targets are fields, not labels; data without parts then hold out rows as if all had one label."""

    def divide(store: Store) -> Parts:
        rows, how = known.divider(dataset, own=False)(store) if known else store.parts(seed)
        if not fields or len(rows) > 1 or store.labels is not None:
            return rows, how
        one = np.zeros(len(store), np.int64)
        held_out = hold_out(one, seed, groups=store.groups)
        if known is not None and known.trained is not None and ((new := known.queries(store, one)).any() or not dataset.group):
            held_out = new
        elif known is not None and (count := known.seen(store, np.flatnonzero(held_out))):
            noun = dataset.modality.noun
            warn(f"{known.folder} was trained on {count:,} of the {int(held_out.sum()):,} {noun} held out, without their labels")
        if not held_out.any():
            return rows, how
        rows = {TRAIN: np.flatnonzero(~held_out), VAL: np.flatnonzero(held_out)}
        return rows, f"80/20 seed {seed}: {sizes(rows)}"

    return divide
