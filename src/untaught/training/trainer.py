"""The only training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from untaught.blocks.batch_norm import joined_statistics
from untaught.console import progress_bar, warn
from untaught.core import Batch, UserError
from untaught.distributed.launch import OwnFault
from untaught.pipeline.view_pipeline import Views
from untaught.signals import Interrupted, Received, deferred_signals
from untaught.storage.finite import NotFinite, check_finite_weights
from untaught.training import checkpoint
from untaught.training.divergence import Divergence
from untaught.training.events import EVALUATIONS, Events
from untaught.training.metrics import Metrics
from untaught.training.plan import MOST_STEPS, Plan, is_total
from untaught.training.step import TrainingStep

FEW_STEPS = 20  # a run of `minutes` that ends within this many steps gets a warning


class Batches(Protocol):
    """The interface of loaders and streams."""

    @property
    def steps_per_epoch(self) -> int | None: ...

    def batches(self, epoch: int, step: int = 0) -> Iterator[Batch]: ...


class Collapsed(UserError):
    """The run was stopped because it collapsed; it has been saved."""


class Clock:
    """Training time in seconds: waiting for data, making views, computing. `total` also includes saving and evaluation."""

    def __init__(self) -> None:
        self.seconds = {"data": 0.0, "views": 0.0, "compute": 0.0}
        self.total = 0.0
        self.start()

    def start(self) -> None:
        """Restarts timing; the time until now is not counted."""
        self.last = time.perf_counter()

    def lap(self, name: str | None) -> None:
        """Adds the time since the last lap to `name` and the total, or to the total only."""
        now = time.perf_counter()
        if name:
            self.seconds[name] += now - self.last
        self.total += now - self.last
        self.last = now

    def shares(self) -> dict[str, float]:
        """The shares of the time since the last call."""
        total = sum(self.seconds.values())
        result = {f"share_{name}": seconds / total for name, seconds in self.seconds.items()}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        return result


class Trainer:
    """One training run of a method: the state that a checkpoint holds, and the loop that advances it.

    method: set up for training. batches: a loader or a stream. folder: the run folder. name: index (N,) -> sample names, for messages.
    evaluate: returns scores by name, called between steps. health: see training/collapse.py. extract_features: for methods that need
    features of all samples before an epoch. enough: called after every evaluation, returns whether to stop. resumable: False for a
    short run without checkpoints. evaluations: number of intervals between evaluations, unless evaluate_every is given. title: of the
    progress bar.
    """

    def __init__(
        self,
        method: TrainingStep,
        views: Views,
        batches: Batches,
        folder: Path,
        name: Callable[[Tensor], list[str]],
        *,
        evaluate: Callable[[], dict[str, float]] | None = None,
        health: Callable[[int, float, float, float, dict[str, float]], dict[str, Any]] | None = None,
        extract_features: Callable[[int, str, int], tuple[Tensor, Tensor]] | None = None,
        enough: Callable[[], bool] = lambda: False,
        resumable: bool = True,
        evaluations: int = EVALUATIONS,
        title: str = "training",
    ) -> None:
        self.train_step, self.method, self.train_config, self.group = method, method.method, method.train_config, method.group
        self.views, self.batches, self.folder = views, batches, folder
        self.evaluate, self.health, self.extract_features, self.enough = evaluate, health, extract_features, enough
        self.resumable, self.title = resumable, title
        self.step = self.epoch = self.step_in_epoch = 0
        self.entered = -1  # the last epoch for which before_epoch has run
        self.views.channels_last = method.channels_last
        self.plan, self.lengthened = Plan(self.planned_total()), False
        self.clock = Clock()
        self.events = Events(self.train_config, self.plan, evaluations=evaluations)
        self.divergence = Divergence(self.train_config, self.group, name, folder / "checkpoints" if resumable else None)
        self.signal = Received()
        self.last_health: dict[str, Any] = {}  # the last health check

    @property
    def total(self) -> int | None:
        """The number of steps; None if not yet known."""
        return self.plan.total

    @property
    def seconds(self) -> float:
        """Seconds spent in the loop so far."""
        return self.clock.total

    @property
    def progress(self) -> float:
        """Share of the schedule that is done."""
        return self.plan.progress(self.step)

    @property
    def finished(self) -> bool:
        return self.total is not None and self.step >= self.total

    def lengthen(self) -> None:
        """Replans a restored run whose length was changed: the schedule becomes that of the new length, from the first step on. Saves it,
        since run.yaml will have the new length: a run that is killed before its next checkpoint would be taken for one that has ended."""
        total = self.planned_total()
        if total is None and self.seconds:  # a run of minutes that was killed early has no timing yet
            total = round(self.step * (self.train_config.minutes or 0) * 60 / self.seconds)
        self._follow(Plan(total))
        self.lengthened, self.events.saved_at = True, -1
        self.save()

    def planned_total(self) -> int | None:
        per_epoch = self.batches.steps_per_epoch
        if self.train_config.steps:
            return self.train_config.steps
        if self.train_config.epochs:
            if per_epoch is None:
                raise UserError("a stream of unknown length has no epochs; give steps or minutes")
            return self.train_config.epochs * per_epoch
        return None

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        self.events = Events(self.train_config, plan, self.step, self.events.evaluations)
        self.events.saved_at = self.step

    # ------------------------------------------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        return {"method": self.method.state_dict(), "optimizer": self.train_step.optimizer.state_dict(), "place": self.place()}

    def place(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("step", "epoch", "step_in_epoch", "entered", "seconds")}
        return own | {"plan": self.plan.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises UserError for the state of another run."""
        try:
            if "parts" in state:
                from untaught.training import sharded_checkpoint as shards  # torch's module takes long to import

                shards.load(state["parts"], self.method, self.train_step.optimizer, self.group)
            else:
                self.method.load_state_dict(state["method"])
                self.train_step.optimizer.load_state_dict(state["optimizer"])
                check_finite_weights(dict(self.method.named_parameters()), "the checkpoint")
            self._be_at(state["place"])
        except NotFinite as error:
            raise UserError(f"{self.folder} can't be resumed: {error}") from error
        except Exception as error:  # torch: missing, wrong shape or wrong kind
            raise UserError(
                f"the checkpoints in {self.folder} belong to another run or another version of untaught; start again with another --out"
            ) from error

    def _be_at(self, place: dict[str, Any]) -> None:
        """Raises ValueError for an impossible place."""
        counts = {key: place[key] for key in ("step", "epoch", "step_in_epoch", "entered")}
        for key, value in counts.items():
            if type(value) is not int or not (-1 if key == "entered" else 0) <= value < MOST_STEPS:
                raise ValueError(f"{key} is {value}")
            setattr(self, key, value)
        if type(place["seconds"]) not in (int, float) or not 0 <= place["seconds"] < 1e12:
            raise ValueError(f"seconds is {place['seconds']}")
        self.clock.total = float(place["seconds"])
        self._follow(Plan.restored(place["plan"] if "plan" in place else {"total": place["total"]}))  # old runs have only a total

    def save(self) -> None:
        self.divergence.sync()
        if not self.resumable or self.step == self.events.saved_at:
            return
        folder, step, group = self.folder / "checkpoints", self.step, self.group
        if group.writes_shards:
            from untaught.training import sharded_checkpoint as shards

            with ExitStack() as writing:
                made = checkpoint.written(folder, step, self.place()) if group.is_rank_zero else checkpoint.faults(folder, step)
                place: Any = group.on_rank_zero(lambda: writing.enter_context(made))
                if not group.is_rank_zero:
                    writing.enter_context(made)
                shards.save(place, self.method, self.train_step.optimizer, group)
                group.on_rank_zero(writing.close)
        else:
            group.on_rank_zero(lambda: checkpoint.save(folder, step, self.state()))
        self.events.saved_at = step

    # ------------------------------------------------------------------------------------------------------- loop

    def run(self) -> None:
        """Trains to the end, or until a signal (then saves and raises Interrupted)."""
        metrics = Metrics(self.folder / "metrics.jsonl" if self.group.is_rank_zero else None, self.step)
        self._open_plans()
        self.method.train()
        bar = progress_bar(self.title)
        joined = joined_statistics(self.method) if self.group.size > 1 else nullcontext()
        with bar, deferred_signals() as self.signal, joined:
            task, verdict = bar.add_task("", total=self.total, completed=self.step, note=""), ""
            try:
                for row in self._rows():
                    metrics.write(row)
                    verdict = row["health"]["verdict"] if "health" in row else verdict
                    note = f"{row.get('samples_per_second', 0):.0f}/s loss {row['loss']:.4f} {verdict}" if "loss" in row else ""
                    bar.update(task, total=self.total, completed=self.step, note=note)
            finally:
                metrics.close()
                if self.plans:
                    self.plans.close()
            if number := max(self.group.gather_objects(self.signal.number)):  # during the last step, which has been saved
                raise Interrupted(number)

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Rows of metrics: one every log_every steps, and one per evaluation."""
        self.events.logged_at = self.step
        self.clock.start()
        while not self.finished:
            self._enter_epoch()
            for batch in self._batches():
                stopped = self._train_on(batch)
                if self.train_config.minutes and self.step >= self.plan.due:
                    self._plan(self.train_config.minutes * 60)
                last = self.step == self.total
                if self.events.logs(self.step):
                    yield self._log()
                if self.evaluate is not None and self.events.evaluates(self.step) and not last:
                    with self.group.unsharded(self.train_step.wrapped):
                        scores = self.evaluate()
                    yield {"step": self.step, "epoch": self.epoch, **scores}
                    last = self.enough()
                if self.events.saves(self.step) or last or stopped:
                    self.clock.lap(None)
                    self.save()
                if stopped and not last:
                    raise Interrupted(stopped)
                if self.train_config.stop_on_collapse and self.last_health.get("because") and not last:
                    self._stop_collapsed()
                self.clock.lap(None)
                if last:
                    return
            self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def _enter_epoch(self) -> None:
        """Runs before_epoch once per epoch, and saves, since its result can't be recomputed on resume."""
        if self.extract_features and self.entered != self.epoch:
            self.method.before_epoch(self.epoch, partial(self.extract_features, self.epoch))
            self.entered, self.events.saved_at = self.epoch, -1
            self.clock.lap("compute")
            self.save()
            self.clock.lap(None)

    def _train_on(self, batch: Batch) -> int:
        """One step -> the number of a signal that any process received, else 0."""
        batch = {key: value.to(self.train_step.device, non_blocking=True) for key, value in batch.items()}
        self.clock.lap("data")
        views = self.views(batch, self.epoch)
        self.clock.lap("views")
        outcome = self.train_step(self.step, views, self.progress)
        self.divergence.record(self.step, batch["index"], outcome)
        self.summed = outcome.summed
        self.step += 1
        self.step_in_epoch += 1
        stopped = self.group.delayed_max(self.signal.number)
        self.clock.lap("compute")
        return stopped

    def _log(self) -> dict[str, Any]:
        terms = self.divergence.sync()
        self.clock.lap("compute")
        elapsed, shares = sum(self.clock.seconds.values()), self.clock.shares()
        health = self._look(shares) if self.events.looks(self.step) else {}
        each = self.train_config.batch_size or 0
        row = {
            "step": self.step,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "samples": self.step * each,
            "samples_per_second": (self.step - self.events.logged_at) * each / elapsed,
            "loss": sum(value for name, value in terms.items() if name in self.summed),
            **terms,
            "lr": self.train_step.lr,
            **shares,
            **health,
        }
        self.events.logged_at = self.step
        self.clock.lap(None)
        return row

    def _look(self, shares: dict[str, float]) -> dict[str, Any]:
        if self.health is None:
            return {}
        with self.group.unsharded(self.train_step.wrapped):
            health = self.health(self.step, self.progress, self.train_config.lr or 0.0, self.divergence.gradient_norm, shares)
        self.last_health = health = self.group.broadcast(health)
        return {"health": health}

    def _stop_collapsed(self) -> None:
        self.save()
        raise Collapsed(
            f"stopped at step {self.step} of {self.total}, collapsing because {self.last_health['because']}; "
            f"try {self.last_health['try']}; saved in {checkpoint.newest(self.folder / 'checkpoints')}"
        )

    def _batches(self) -> Iterator[Batch]:
        try:
            yield from self.batches.batches(self.epoch, self.step_in_epoch)
        except UserError as fault:  # in records that only this process reads
            raise OwnFault(*fault.args) from fault

    def _open_plans(self) -> None:
        """Plans are logged before use, so that steps lost with a killed process are repeated under the same plans."""
        self.plans: Metrics | None = None
        self.followed: dict[int, int | None] = {}  # step -> total, of plans made after the checkpoint
        if self.train_config.minutes and self.resumable and self.group.is_rank_zero:
            path = self.folder / "plans.jsonl"
            if not self.lengthened:
                followed = {row["step"]: row.get("total") for row in Metrics.rows(path) if row["step"] > self.step}
                self.followed = {step: total for step, total in followed.items() if is_total(total) and step <= (total or step)}
            self.plans = Metrics(path, self.step)

    def _plan(self, budget: float) -> None:
        """Re-estimates, from the time per step, at which step the budget of seconds will be spent."""
        self.train_step.synchronize()
        self.clock.lap("compute")
        estimate = self.plan.estimate(self.step, self.seconds, budget)
        total = self.group.broadcast(self.followed.get(self.step, estimate))
        if self.plans:
            self.plans.write({"step": self.step, "total": total})
        self.plan.renew(self.step, total)
        if self.step == self.total and self.step <= FEW_STEPS:
            minutes = self.train_config.minutes
            warn(f"minutes={minutes:g} ended after {self.step} steps, too few to learn from; give more minutes or a smaller batch_size")
