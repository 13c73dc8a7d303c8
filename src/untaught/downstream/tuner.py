"""One fine-tuning: a task trained on labelled rows from a pretrained encoder or, with the same budget, from scratch."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from untaught.config.train_config import TrainConfig
from untaught.console import say, warn
from untaught.core import Batch, Options, UserError, View
from untaught.data.loader import Loader
from untaught.data.parts import held_out_part
from untaught.downstream.label_sampling import FEW, Trial, divide
from untaught.downstream.network import TrainedLayers
from untaught.downstream.predicting import Follow, collect, predict
from untaught.downstream.task import Predictions, Task
from untaught.evaluation.features import collect as collect_features
from untaught.evaluation.features import encode
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.pretrained import Pretrained, build_from
from untaught.pipeline.view_pipeline import Views, convolves
from untaught.training.early_stopping import BestWeights
from untaught.training.step import TrainingStep
from untaught.training.trainer import Trainer

EVALUATIONS = 20  # of the validation part, over the whole budget
PROBED = 10_000  # training samples that the head's linear probe is fitted on, at most
BATCH = 512  # samples encoded at once
DENSE = 64  # of tasks that predict more than one thing a sample


@dataclass(frozen=True)
class Settings:
    """What was chosen of a fine-tuning: the loop, the labels, the layers that learn, and the task's own knobs."""

    train_config: TrainConfig
    trial: Trial
    layers: TrainedLayers = TrainedLayers()  # noqa: RUF009  # frozen
    knobs: Options = field(default_factory=dict)


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
        model: Pretrained,
        dataset: Dataset,
        cls: Any,
        settings: Settings,
        names: tuple[str, ...],
        options: list[Options],
    ) -> None:
        self.model, self.dataset, self.cls = model, dataset, cls
        self.encoder, self.config = model.network, model.config
        self.train_config, self.trial, self.layers, self.knobs = settings.train_config, settings.trial, settings.layers, settings.knobs
        self.names, self.options = names, options
        modality = dataset.modality
        self.prep = replace(dataset.prep, statistics=model.prep.statistics)  # shown as in pretraining
        self.used = cls.used_view(self.prep, self.config["view"])
        store = dataset.store
        assert store is not None
        self.targets = cls.targets(store, modality, dataset.source.what, self.knobs)
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
        anew = not self.config["encoder"].startswith(("module:", "timm/local-dir:"))
        self.compares = self.trial.scratch and anew
        if self.trial.scratch and not anew:
            warn(f"the weights of {self.config['encoder']} can't be drawn anew: it is not compared with the same network from scratch")
        self.bf16 = False
        self.resolved: Options = {}
        self.plans = [
            divide(self.pool, self.truth, self.trial, self.train_config.seed, draw, self.validation) for draw in range(self.trial.draws)
        ]

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
        train_config, decided = self.train_config, {}
        if train_config.batch_size is None:
            decided["batch_size"] = min(len(rows), 64 if len(rows) < 4096 else 256)
        elif train_config.batch_size > len(rows):
            raise UserError(
                f"batch_size={train_config.batch_size} is larger than the labels, {len(rows)} to learn from; choose at most that"
            )
        if train_config.lr is None:
            decided["lr"] = 1e-3 if scratch else self.cls.lr
        if train_config.epochs is train_config.steps is train_config.minutes is None:
            batch = train_config.batch_size or decided["batch_size"]
            decided["steps"] = max(400, 15 * (len(rows) // batch))
        if scratch and train_config.minutes and "steps" in self.resolved:  # the same budget
            decided |= {"minutes": None, "steps": self.resolved["steps"]}
        return dataclasses.replace(train_config, **decided)

    def train(self, features: str, draw: int, scratch: Path) -> Any:
        """The task, trained from the encoder or (features "random_init") from scratch; metrics go to a folder below `scratch`."""
        rows, validation = self.plans[draw]
        fresh = features == "random_init"
        train_config = self.decide(rows, fresh)
        torch.manual_seed(train_config.seed + draw)
        encoder = build_from(self.config, self.prep) if fresh else copy.deepcopy(self.encoder)
        layers = TrainedLayers(layer_decay=1.0) if fresh else self.layers
        task = self.cls.built(encoder, self.cls.learned(self.targets, rows, encoder, self.example(rows[:1])), self.knobs, layers)
        if not fresh and draw == 0:
            for said in task.remarks():
                say(said)
        views: Any = Targeted(Views(self.names, self.prep, self.options, train_config.seed + draw), self.targets.follow)
        store = self.dataset.store
        assert store is not None
        loader = Loader(store, rows, train_config.batch_size or 1, train_config.seed + draw, pin=self.device.type == "cuda")
        folder = scratch / (features if draw == 0 else f"{features}-{draw}")
        folder.mkdir()
        step, best, watched = TrainingStep(task, train_config), None, {}
        self.bf16 = step.bf16
        if validation is not None:
            best = BestWeights(task, lambda: self.predictions(task, validation), self.trial.patience)
            watched = {"evaluate": best, "enough": best.enough}
        title = {"encoder": "fine-tuning", "random_init": "from scratch"}[features]
        if self.trial.draws > 1:
            title += f" {draw + 1} of {self.trial.draws}"
        names = lambda index: self.dataset.names(index.cpu().numpy())  # noqa: E731
        trainer = Trainer(step, views, loader, folder, names, **watched, resumable=False, evaluations=EVALUATIONS, title=title)
        solved = False
        if self.trial.probe and not fresh:
            solved = self.solve(task, rows, validation)
            if not solved:
                probed = np.sort(np.random.default_rng(draw).permutation(rows)[:PROBED])
                task.begin(lambda: self.pooled(task.probed, probed), self.truth[probed])
        done = solved and self.layers.train == "frozen"
        if best and self.trial.probe and not fresh and not done:
            best()  # the probe itself may be the best
        if done:
            (folder / "metrics.jsonl").touch()
        else:
            trainer.run()
        if best and not done:
            best()
            best.restore()
        if not fresh and draw == 0:
            chosen = (train_config, self.trial, self.layers)
            self.resolved = {key: value for one in chosen for key, value in dataclasses.asdict(one).items()}
            self.resolved |= {**self.knobs, "steps": 0 if done else trainer.total}
        if done:
            return task
        early = f"stopped after {trainer.step} of {trainer.total} steps"
        stopped = f"{trainer.step} steps" if trainer.finished else early
        say(f"trained   {title}: {stopped} in {trainer.seconds:.0f} s" + (f", validation loss {best.least:.3f}" if best else ""))
        return task

    def solve(self, task: Task, rows: np.ndarray, validation: np.ndarray | None) -> bool:
        """Whether the task solved its head in closed form."""
        task.to(self.device).eval()

        def views(wanted: np.ndarray) -> Iterator[View]:
            for batch in self.dataset.in_order(wanted, DENSE).batches(0):
                batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
                yield self.targets.follow(batch, self.used(batch, 0)[0])

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            solved = task.solve(views, rows, validation)
        task.train()
        return solved

    def example(self, rows: np.ndarray) -> View:
        """The view of some samples, as the network is used."""
        store = self.dataset.store
        assert store is not None
        batch = {name: torch.from_numpy(values) for name, values in store.gather(rows).items()}
        return self.used({**batch, "index": torch.from_numpy(rows)}, 0)[0]

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
