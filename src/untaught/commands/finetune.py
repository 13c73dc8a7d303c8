"""Fine-tuning: an encoder and a head learn from labels, beside the same network from scratch on the same labels."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

import untaught
from untaught.config.overrides import knobs_of, parse, unknown
from untaught.config.registry import modality_named, resolve
from untaught.config.train_config import TrainConfig
from untaught.console import say, warn
from untaught.core import Batch, Encoder, Modality, Options, UserError, View
from untaught.data.labels import hold_out
from untaught.data.loader import Loader
from untaught.data.parts import TRAIN, VAL, held_out_part
from untaught.data.store import Store, sizes
from untaught.downstream import TASKS
from untaught.downstream.predicting import Follow, collect, predict
from untaught.downstream.task import Predictions, Task
from untaught.evaluation.evaluator import merge_rows
from untaught.evaluation.features import collect as collect_features
from untaught.evaluation.features import encode
from untaught.evaluation.interval import Measured
from untaught.pipeline.dataset import Dataset, Parts, differing, look
from untaught.pipeline.pretrained import build_from, save_network
from untaught.pipeline.seen_rows import SeenRows
from untaught.pipeline.view_pipeline import Views, convolves, view_options
from untaught.ranges import Count, Few, Within, check
from untaught.storage.atomic import make_room
from untaught.storage.run_dir import free_path
from untaught.training.early_stopping import BestWeights
from untaught.training.step import TrainingStep
from untaught.training.trainer import Trainer

EVALUATIONS = 20  # of the validation part, over the whole budget
VALIDATED = 5_000  # samples of it at most
FEW = 20  # validation samples under which nothing can be chosen by them
PROBED = 10_000  # training samples that the head's linear probe is fitted on, at most
BATCH = 512  # samples encoded at once
DENSE = 64  # of tasks that predict more than one thing a sample


@dataclass(frozen=True)
class Trial:
    """How much is learned from, and how it is measured."""

    labels: str = "all"  # of the training part: all, a share as 1%, or a number a class as 10/class
    draws: Few = 1  # of those labels, each with a validation part and a seed of its own
    validation: Annotated[float, Within(0, 0.5)] = 0.2  # share of the labels that chooses when to stop and calibrates; 0 is off
    patience: Count = 8  # evaluations (20 in the budget) without a better one, after which training ends; 0 is off
    probe: bool = True  # the head begins as a linear probe of the encoder
    scratch: bool = True  # train the same network from scratch as well

    def __post_init__(self) -> None:
        self.amount  # noqa: B018  # refuses what can't be read
        check(vars(self), {name: kind for name, (kind, _) in knobs_of(type(self)).items()})

    @property
    def amount(self) -> tuple[float, int | None]:
        """(share, None) or (1.0, number a class)."""
        text = self.labels
        try:
            if text == "all":
                return 1.0, None
            if text.endswith("%") and 0 < float(text[:-1]) <= 100:
                return float(text[:-1]) / 100, None
            if text.endswith("/class") and int(text[:-6]) > 0:
                return 1.0, int(text[:-6])
        except ValueError:
            pass
        raise UserError(f"labels={text}: must be all, a share as 1%, or a number a class as 10/class")


def finetune(
    encoder: Encoder,
    config: Options,
    path: Path,
    data: Any,
    *,
    task: str,
    out: Path | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    knobs: Options | None = None,
) -> tuple[Path, nn.Module, Options]:
    """Trains, compares and saves; returns the model's folder, network and config.

    `encoder` and its `config` are those of the run, or the encoder folder, at `path`.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    cls: type[Task] = resolve(TASKS[task])
    modality = modality_named(config["modality"])
    sorted_knobs = _sort(knobs or {}, cls, modality)
    loop: Options = {"optimizer": "adamw"} | sorted_knobs["loop"]
    trial, recipe = Trial(**sorted_knobs["trial"]), TrainConfig(**loop)
    if trial.amount[1] and not cls.by_class:
        raise UserError(f"labels={trial.labels}: --task {task} has no classes; give all or a share as 1%")
    if cls.needs - encoder.offers:
        raise UserError(
            f"--task {task} needs an encoder with {', '.join(sorted(cls.needs))}; {config['encoder']} offers {_offers(encoder)}"
        )
    reading, target = cls.reading(modality), cls.target_of(modality)
    if target and label:
        columns, label = {**(columns or {}), target.name: label}, None
    names = tuple(name if name in modality.views else config["view"] for name in cls.views)
    options = view_options(names, modality, config["layout"], sorted_knobs["view"])
    place = path.parent if path.name == "encoder" else path
    ours = (place / "run.yaml").exists()
    known = SeenRows.of(place) if ours else None  # what the encoder was trained on asks no question here
    folder = out or free_path(place / "finetuned")
    if os.path.lexists(folder):
        raise UserError(f"{folder} is already there; choose another --out")
    make_room(folder)

    dataset = look(data, reading, columns=columns, label=label, split=split, layout=cls.layout(modality, config["layout"]))
    if target and (found := target.learn((record for part in dataset.source.parts.values() for record in part), dataset.layout)):
        dataset.layout = {**dataset.layout, **found}
    _warn_differences(dataset, config)
    dataset.open(False, recipe.seed, _divider(dataset, known, recipe.seed, target is not None))
    tuner = Tuner(encoder, config, dataset, task, cls, recipe, trial, sorted_knobs["task"], names, options)
    tuner.describe()
    outcomes: dict[str, list[np.ndarray]] = {}
    kept: Any = None
    with tempfile.TemporaryDirectory() as scratch:
        for draw in range(trial.draws):
            for features in ("encoder", "random_init") if tuner.compares else ("encoder",):
                trained = tuner.train(features, draw, Path(scratch))
                if tuner.test is not None:
                    outcomes.setdefault(features, []).append(trained.outcome(*tuner.predictions(trained, tuner.test)))
                if features == "encoder" and draw == 0:
                    kept = trained
        measured = {features: cls.metrics(each) for features, each in outcomes.items()}
        rows = [row for features, scores in measured.items() for row in tuner.rows(features, scores)]
        described = {"untaught": untaught.__version__, "task": task, **kept.facts}
        described |= {key: config[key] for key in ("method", "encoder", "encoder_knobs", "modality", "view", "layout", "statistics")}
        described |= {"knobs": dict(knobs or {}), "resolved": tuner.resolved, "scores": rows}
        metrics = (Path(scratch) / "encoder" / "metrics.jsonl").read_text()
        files = {name: content.decode() for name, content in modality.kept(config["layout"]).items()}
        save_network(kept.network, folder, described, {"metrics.jsonl": metrics, **files})
    if rows and ours:
        merge_rows(place / "evaluation.json", rows)
    tuner.report(measured)
    say(f"model     {folder}; use it with: untaught predict {folder} DATA -o predictions.csv")
    return folder, kept.network.eval(), described


class Targeted:
    """Views with the targets of their samples."""

    def __init__(self, views: Views, follow: Follow) -> None:
        self.views, self.follow, self.names = views, follow, views.names

    @property
    def channels_last(self) -> bool:
        return self.views.channels_last

    @channels_last.setter
    def channels_last(self, value: bool) -> None:
        self.views.channels_last = value

    def __call__(self, batch: Batch, epoch: int) -> list[View]:
        with torch.no_grad():
            return [self.follow(batch, view) for view in self.views(batch, epoch)]


class Tuner:
    """The labelled data, cut into training, validation and test rows, and the way a network is trained on them."""

    def __init__(
        self,
        encoder: Encoder,
        config: Options,
        dataset: Dataset,
        task: str,
        cls: Any,
        recipe: TrainConfig,
        trial: Trial,
        knobs: Options,
        names: tuple[str, ...],
        options: list[Options],
    ) -> None:
        self.encoder, self.config, self.dataset, self.task, self.cls = encoder, config, dataset, task, cls
        self.recipe, self.trial, self.knobs, self.names, self.options = recipe, trial, knobs, names, options
        modality = dataset.modality
        self.used = cls.used_view(modality, dataset.layout, config["view"], config["statistics"])
        store = dataset.store
        assert store is not None
        self.targets = cls.targets(store, modality, dataset.source.what, knobs)
        known, self.truth = self.targets.known, self.targets.strata
        parts = {name: rows[known[rows]] for name, rows in dataset.parts.items()}
        if missing := int((~known).sum()):
            warn(f"{missing:,} of {len(store):,} {modality.noun} have no label and are left out")
        held_out = held_out_part(parts)
        self.test = parts[held_out] if held_out else None
        self.validation = parts["val"] if held_out == "test" and len(parts.get("val", ())) >= FEW else None
        self.pool = parts["train"]
        if self.test is None:
            warn(f"no labelled {modality.noun} are held out: the model will be trained, but not measured")
        for said in cls.check_targets(self.targets, self.pool, self.test, modality.noun):
            warn(said)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        anew = not config["encoder"].startswith(("module:", "timm/local-dir:"))
        self.compares = trial.scratch and anew
        if trial.scratch and not anew:
            warn(f"the weights of {config['encoder']} can't be drawn anew: it is not compared with the same network from scratch")
        self.bf16 = False
        self.resolved: Options = {}
        self.plans = [self._divide(draw) for draw in range(trial.draws)]

    def _divide(self, draw: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The training rows of a draw, and its validation rows."""
        share, each = self.trial.amount
        random = np.random.default_rng([self.recipe.seed, draw])
        rows = self.pool
        if share < 1 or each:
            truth = self.truth[rows]
            groups = [np.flatnonzero(truth == c) for c in np.unique(truth)] if truth.dtype.kind == "i" else [np.arange(len(rows))]
            wanted = [min(each, len(group)) if each else max(1, round(share * len(group))) for group in groups]
            rows = np.sort(rows[np.concatenate([random.permutation(g)[:n] for g, n in zip(groups, wanted, strict=True)])])
        if len(rows) < 2:
            raise UserError(f"labels={self.trial.labels} leaves {len(rows)} training sample; at least 2 are needed")
        validation = self.validation
        if validation is None and self.trial.validation:
            held_out = hold_out(self.truth[rows], self.recipe.seed + draw, self.trial.validation, least=0)
            if held_out.sum() >= FEW:
                rows, validation = rows[~held_out], rows[held_out]
        if validation is not None and len(validation) > VALIDATED:
            spared = random.permutation(len(validation))
            if self.validation is None:
                rows = np.sort(np.concatenate([rows, validation[spared[VALIDATED:]]]))
            validation = np.sort(validation[spared[:VALIDATED]])
        return rows, validation if self.trial.validation else None

    def describe(self) -> None:
        """What is learned from what, before the first step."""
        rows, validation = self.plans[0]
        noun = self.dataset.modality.noun
        say(f"split     {self.dataset.how_split}")
        amount = "" if self.trial.labels == "all" else f" ({self.trial.labels}{f', {self.trial.draws} draws' * (self.trial.draws > 1)})"
        chosen = f"{len(validation):,} to stop by and calibrate" if validation is not None else "none to stop by"
        tested = f"{len(self.test):,} to test" if self.test is not None else "none to test"
        say(f"labels    {self.targets.about}{len(rows):,} {noun} to learn from{amount}, {chosen}, {tested}")
        if validation is None and self.trial.validation:
            warn(f"too few labels for a validation part (under {FEW}): the whole budget is trained, probabilities are not calibrated")
        if advice := self.cls.advice(self.targets, rows, self.knobs):
            say(advice)

    def decide(self, rows: np.ndarray, scratch: bool) -> TrainConfig:
        """Fills in what was left open, from the number of labels and by the task."""
        recipe, decided = self.recipe, {}
        if recipe.batch_size is None:
            decided["batch_size"] = min(len(rows), 64 if len(rows) < 4096 else 256)
        elif recipe.batch_size > len(rows):
            raise UserError(f"batch_size={recipe.batch_size} is larger than the labels, {len(rows)} to learn from; choose at most that")
        if recipe.lr is None:
            decided["lr"] = 1e-3 if scratch else self.cls.lr
        if recipe.epochs is recipe.steps is recipe.minutes is None:
            batch = recipe.batch_size or decided["batch_size"]
            decided["steps"] = max(400, 15 * (len(rows) // batch))
        if scratch and recipe.minutes and "steps" in self.resolved:  # the same budget
            decided |= {"minutes": None, "steps": self.resolved["steps"]}
        return dataclasses.replace(recipe, **decided)

    def train(self, features: str, draw: int, scratch: Path) -> Any:
        """The task, trained from the encoder or (features "random_init") from scratch; metrics go to a folder below `scratch`."""
        rows, validation = self.plans[draw]
        fresh = features == "random_init"
        recipe = self.decide(rows, fresh)
        torch.manual_seed(recipe.seed + draw)
        encoder = build_from(self.config) if fresh else copy.deepcopy(self.encoder)
        knobs = {**self.knobs, "train": "full", "layer_decay": 1.0} if fresh else self.knobs
        task = self.cls.built(encoder, self.cls.learned(self.targets, rows, encoder, self.example()), knobs)
        views: Any = Targeted(
            Views(self.names, self.dataset.modality, self.options, self.config["statistics"], recipe.seed + draw), self.targets.follow
        )
        store = self.dataset.store
        assert store is not None
        loader = Loader(store, rows, recipe.batch_size or 1, recipe.seed + draw, pin=self.device.type == "cuda")
        folder = scratch / (features if draw == 0 else f"{features}-{draw}")
        folder.mkdir()
        step, best, watched = TrainingStep(task, recipe), None, {}
        self.bf16 = step.bf16
        if validation is not None:
            best = BestWeights(task, lambda: self.predictions(task, validation), self.trial.patience)
            watched = {"evaluate": best, "enough": best.enough}
        title = {"encoder": "fine-tuning", "random_init": "from scratch"}[features]
        if self.trial.draws > 1:
            title += f" {draw + 1} of {self.trial.draws}"
        names = lambda index: self.dataset.names(index.cpu().numpy())  # noqa: E731
        trainer = Trainer(step, views, loader, folder, names, **watched, resumable=False, evaluations=EVALUATIONS, title=title)
        if self.trial.probe and not fresh:
            probed = np.sort(np.random.default_rng(draw).permutation(rows)[:PROBED])
            task.begin(lambda: self.pooled(encoder, probed), self.truth[probed])
            if best:
                best()  # the probe itself may be the best
        trainer.run()
        if best:
            best()
            best.restore()
        if not fresh and draw == 0:
            self.resolved = {**dataclasses.asdict(recipe), **dataclasses.asdict(self.trial), **self.knobs, "steps": trainer.total}
        early = f"stopped after {trainer.step} of {trainer.total} steps"
        stopped = f"{trainer.step} steps" if trainer.finished else early
        say(f"trained   {title}: {stopped} in {trainer.seconds:.0f} s" + (f", validation loss {best.least:.3f}" if best else ""))
        return task

    def example(self) -> View:
        """The view of one sample, as the network is used."""
        store = self.dataset.store
        assert store is not None
        batch = {name: torch.from_numpy(values) for name, values in store.gather(self.pool[:1]).items()}
        return self.used({**batch, "index": torch.from_numpy(self.pool[:1])}, 0)[0]

    def predictions(self, task: Task, rows: np.ndarray) -> tuple[Predictions, np.ndarray]:
        """What a task predicts of rows of the store (n,), and their targets."""
        self.used.channels_last = convolves(task.network)
        batches = self.dataset.in_order(rows, BATCH if self.cls.target is None else DENSE).batches(0)
        view = lambda batch: self.used(batch, 0)[0]  # noqa: E731
        return collect(predict(task, batches, view, self.targets.follow, self.device, self.bf16, self.dataset.names))

    def pooled(self, encoder: nn.Module, rows: np.ndarray) -> np.ndarray:
        """The pooled vectors of rows of the store (n,) -> (n, D) float32."""
        self.used.channels_last = convolves(encoder)
        loader = self.dataset.in_order(rows, BATCH)
        view = lambda batch: self.used(batch, 0)[0]  # noqa: E731
        return collect_features(encode(encoder, loader.batches(0), view, self.device, self.bf16, self.dataset.names), len(rows))

    def rows(self, features: str, scores: dict[str, Measured]) -> list[Options]:
        """Rows of evaluation.json."""
        probe = "finetune" if self.knobs.get("train", "full") == "full" else f"finetune-{self.knobs['train']}"
        return [
            {"features": features, "probe": probe, "labels": self.trial.labels, "metric": name, "mean": score.mean}
            | {"low": score.interval[0], "high": score.interval[1], "draws": self.trial.draws, "data": self.dataset.name}
            for name, score in scores.items()
        ]

    def report(self, measured: dict[str, dict[str, Measured]]) -> None:
        """The scores on the test part, with 95% intervals."""
        if not measured:
            return
        assert self.test is not None
        over = f", mean of {self.trial.draws} draws" if self.trial.draws > 1 else ""
        say(f"measured  on {len(self.test):,} {self.dataset.modality.noun} not learned from{over}, 95% intervals in brackets")
        unit, times = ("%", 100) if self.cls.percent else ("", 1)
        number = lambda value, sign="": f"{value * times:{sign}.{1 if times == 100 else 4}{'f' if times == 100 else 'g'}}"  # noqa: E731
        said = lambda score, sign="": (  # noqa: E731
            f"{number(score.mean, sign)}{'' if sign else unit} ({number(score.interval[0], sign)} to {number(score.interval[1], sign)})"
        )
        spared = self.cls.spared(self.truth[self.test])
        for name, score in measured["encoder"].items():
            if name in spared:
                continue
            line = f"{name.replace('_', ' '):<18} fine-tuned {said(score)}"
            if scratch := measured.get("random_init", {}).get(name):
                line += f", from scratch {said(scratch)}, difference {said(score - scratch, '+')}"
            say(line)


def _sort(knobs: Options, cls: Any, modality: Modality) -> dict[str, Options]:
    """Each key=value to where it belongs: loop, task, trial, or an option of the view; else a UserError."""
    tables = {"trial": knobs_of(Trial), "task": knobs_of(cls), "loop": knobs_of(TrainConfig)}
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
            raise unknown("knob", key, [*(name for known in tables.values() for name in known), *(f"{view}.OPTION" for view in cls.views)])
    return result


def _warn_differences(dataset: Dataset, config: Options) -> None:
    """Data of another kind than the encoder was trained on is converted, and that is said."""
    if kinds := differing(dataset.peeked, dataset.modality, config["layout"]):
        asks, trained = (", ".join(f"{key} {both[i]}" for key, both in kinds.items()) for i in (0, 1))
        warn(f"the {dataset.modality.noun} are of {asks}; the encoder was trained on {trained}, to which they are converted")


def _offers(encoder: Encoder) -> str:
    return ", ".join(sorted(encoder.offers)) or "pooled vectors alone"


def _divider(dataset: Dataset, known: SeenRows | None, seed: int, fields: bool) -> Callable[[Store], Parts]:
    """Which rows are for what. fields: targets are not labels; where the data have no parts, 20% of the rows are held out, of those that
    the encoder was not trained on."""

    def divide(store: Store) -> Parts:
        rows, how = known.divider(dataset, own=False)(store) if known else store.parts(seed)
        if not fields or len(rows) > 1 or store.labels is not None:
            return rows, how
        unseen = ~np.isin(store.hashes, known.trained) if known is not None and known.trained is not None else np.ones(len(store), bool)
        held_out = hold_out(np.where(unseen, 0, -1), seed)
        if not held_out.any():
            return rows, how
        rows = {TRAIN: np.flatnonzero(~held_out), VAL: np.flatnonzero(held_out)}
        return rows, f"80/20 seed {seed}: {sizes(rows)}"

    return divide
