"""A loop's worth of small parts, so that the loop is tested without data, images or networks worth the name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from untaught.config.train_config import TrainConfig
from untaught.core import Batch, Encoder, Features, Method, Terms, View
from untaught.training.step import TrainingStep
from untaught.training.trainer import Trainer

ROWS, INPUTS, WIDTH = 32, 6, 4


class Line(Encoder):
    """x (B, INPUTS) -> (B, WIDTH), without BatchNorm: halves of a batch know nothing of each other."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(INPUTS, WIDTH)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=torch.tanh(self.line(view.x)))


class Spread(Method):
    """A loss of the whole batch (its variance is not the mean of its halves' variances), which calls `watch` when it runs."""

    views = ("x",)

    def __init__(self, watch: Callable[[int, list[View], Terms], Terms] = lambda step, views, terms: terms) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head = Line(), nn.Linear(WIDTH, 2)
        self.watch, self.calls = watch, []

    def forward(self, views: list[View], progress: float) -> Terms:
        self.calls.append("forward")
        self.pending.append(len(views[0].x))
        z = self.head(self.encoder(views[0])).float()
        return self.watch(self.calls.count("after_step"), views, {"spread": z.var(0).sum(), "size": 0.1 * z.square().mean()})

    def before_step(self, progress: float) -> None:
        self.calls.append("before_step")
        self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}

    def after_step(self, progress: float) -> None:
        self.calls.append("after_step")
        self.seen_pending = list(self.pending)


class Batches:
    """Rows 0..ROWS-1 in order, 8 at a time."""

    steps_per_epoch: int | None = ROWS // 8

    def batches(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        for start in range(8 * step, ROWS, 8):
            yield {"index": torch.arange(start, start + 8)}


class Views:
    """One view a batch (or two), drawn from its index; `where` carries what a step must not touch."""

    names, channels_last = ("x",), False

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def __call__(self, batch: Batch, epoch: int) -> list[View]:
        generator = torch.Generator().manual_seed(int(batch["index"][0]))
        index = batch["index"]
        where = {"code": index + 257, "time": index.double() + 1e9 + 1e-6}
        return [View(torch.randn(len(index), INPUTS, generator=generator), meta=where) for _ in range(self.count)]


def fit(folder: Path, method: Method, views: int = 1, **knobs: Any) -> Trainer:
    """A run of 1 step with plain gradient descent, so that weights move by lr times gradient; `knobs` are the training loop's."""
    plain = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    folder.mkdir(exist_ok=True)
    length = {} if {"minutes", "epochs", "steps"} & set(knobs) else {"steps": 1}
    train_config = TrainConfig(**{**plain, "batch_size": 8, "precision": "float32", **length, **knobs})
    toy_views: Any = Views(views)
    step = TrainingStep(method, train_config)
    return Trainer(step, toy_views, Batches(), folder, name=lambda index: [f"row {i}" for i in index.tolist()])


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
