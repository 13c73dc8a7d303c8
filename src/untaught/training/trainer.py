"""The only training loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from untaught.blocks.batch_norm import joined_statistics
from untaught.config.train_config import Recipe
from untaught.console import progress_bar, warn
from untaught.core import Batch, Method, Terms, UserError, View
from untaught.distributed.launch import OwnFault
from untaught.distributed.process_group import ProcessGroup, local_shard
from untaught.ops.draws import mix
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.view_pipeline import Views, convolves
from untaught.signals import Interrupted, Noted, noted
from untaught.storage.finite import NotFinite, check_finite_weights
from untaught.training import checkpoint
from untaught.training.allocator import keep_freed_memory
from untaught.training.collapse import PROBE
from untaught.training.metrics import Metrics
from untaught.training.optim import optimizer_for, rate, set_rate
from untaught.training.plan import MOST_STEPS, Plan, is_total

FEW_STEPS = 20  # a run of minutes that has no more is told to take more time, or smaller batches
EVALUATIONS = 4  # parts that kNN scores cut a run into
LOOKS = 16  # at a run's health, at most
LOOK = 1 << 13  # samples trained on between two looks at the health, at least: 64 times those that a look is taken of
BAD_STEPS = 3  # steps with non-finite gradients, with no clean stretch between two syncs among them, that end the run


class Batches(Protocol):
    """What a loader or a stream gives."""

    @property
    def steps_per_epoch(self) -> int | None: ...

    def batches(self, epoch: int, step: int = 0) -> Iterator[Batch]: ...


class Step(nn.Module):
    """The one module that is wrapped: whatever enters the method enters through this forward, under our own autocast.

    Fabric's bf16-mixed would cast views, targets and geometry too.
    """

    def __init__(self, method: Method, device_type: str, bf16: bool) -> None:
        super().__init__()
        self.method, self.device_type, self.bf16 = method, device_type, bf16

    def forward(self, what: str, *args: Any) -> Any:
        function: Any = self.method
        for name in what.split("."):  # a hybrid's methods have functions of their own
            function = getattr(function, name)
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return function(*args)


class Collapsed(UserError):
    """The run was found to collapse; it has been saved."""


class Clock:
    """Where the time of training goes: seconds of waiting for data, making views, and computing; `total` has saving and scoring, too."""

    def __init__(self) -> None:
        self.seconds = {"data": 0.0, "views": 0.0, "compute": 0.0}
        self.total = 0.0
        self.start()

    def start(self) -> None:
        """What was until now is not counted."""
        self.last = time.perf_counter()

    def lap(self, name: str | None) -> None:
        """Counts the time since the last lap: as `name`, or in the total alone."""
        now = time.perf_counter()
        if name:
            self.seconds[name] += now - self.last
        self.total += now - self.last
        self.last = now

    def shares(self) -> dict[str, float]:
        """The shares since the last call."""
        total = sum(self.seconds.values())
        result = {f"share_{name}": seconds / total for name, seconds in self.seconds.items()}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        return result


@dataclass
class Fit:
    """One training run of a method: state that a checkpoint holds, and the loop that moves it."""

    method: Method
    views: Views
    batches: Batches
    recipe: Recipe
    folder: Path
    name: Callable[[Tensor], list[str]]  # index -> names of samples, for messages
    evaluate: Callable[[], dict[str, float]] | None = None
    health: Callable[[int, float, float, float, dict[str, float]], dict[str, Any]] | None = None  # see Health
    survey: Callable[[int, str, int], tuple[Tensor, Tensor]] | None = None  # for methods that look at all samples before an epoch
    enough: Callable[[], bool] = lambda: False  # asked after every evaluation: whether more training would be in vain
    resumable: bool = True  # False for a short run: no checkpoints
    evaluations: int = EVALUATIONS  # parts that they cut a run into, unless the recipe's evaluate_every says otherwise
    says: str = "training"
    group: ProcessGroup = field(default_factory=ProcessGroup)
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    entered: int = -1  # the epoch that the method has last entered

    def __post_init__(self) -> None:
        self.fabric = self.group.fabric
        device = self.fabric.device
        if device.type == "cpu":
            keep_freed_memory()
        self.bf16 = has_bfloat16(device.type) if self.recipe.precision == "auto" else self.recipe.precision == "bf16"
        self.views.channels_last = convolves(self.method)
        if self.views.channels_last and not self.group.sharded:
            self.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.wrapped = self.fabric.setup_module(Step(self.method, device.type, self.bf16))
        self.call = torch.compile(self.wrapped) if self.recipe.compile else self.wrapped
        self.optimizer = optimizer_for(self.method, self.recipe)
        self.wrapped_optimizer = self.fabric.setup_optimizers(self.optimizer)
        self.parameters = [p for p in self.method.parameters() if p.requires_grad]
        self.plan, self.lengthened = Plan(self.planned_total()), False
        self.clock = Clock()
        self.recent: deque[tuple[int, Terms, Tensor, Tensor, Tensor]] = deque(maxlen=self.recipe.log_every)
        self.saved_at, self.dropped, self.scored = -1, 0, 0
        self.came = Noted()
        self.gradient_norm = 0.0  # mean since the last sync
        self.looked: dict[str, Any] = {}  # at the health, last

    @property
    def total(self) -> int | None:
        """The last step, as far as it is known."""
        return self.plan.total

    @property
    def seconds(self) -> float:
        """The time of the loop so far."""
        return self.clock.total

    @property
    def progress(self) -> float:
        """Share of the schedule that lies behind."""
        return self.plan.progress(self.step)

    def lengthen(self) -> None:
        """Plans a restored run anew whose length has been changed: its schedule is then that of the new length from the start."""
        total = self.planned_total()
        if total is None and self.seconds:  # of a run of minutes that was killed early no time is known
            total = round(self.step * (self.recipe.minutes or 0) * 60 / self.seconds)
        self.plan, self.lengthened = Plan(total), True

    def planned_total(self) -> int | None:
        per_epoch = self.batches.steps_per_epoch
        if self.recipe.steps:
            return self.recipe.steps
        if self.recipe.epochs:
            if per_epoch is None:
                raise UserError("epochs of a stream of unknown length can't be counted; give steps or minutes")
            return self.recipe.epochs * per_epoch
        return None

    # ------------------------------------------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        return {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict(), "place": self.place()}

    def place(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("step", "epoch", "step_in_epoch", "entered", "seconds")}
        return own | {"plan": self.plan.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises UserError for a state that is of another run."""
        try:
            if "parts" in state:
                from untaught.training import sharded_checkpoint as shards  # torch's module takes long to import

                shards.load(state["parts"], self.method, self.optimizer, self.group)
            else:
                self.method.load_state_dict(state["method"])
                self.optimizer.load_state_dict(state["optimizer"])
                check_finite_weights(dict(self.method.named_parameters()), "the checkpoint")
            self._be_at(state["place"])
        except NotFinite as error:
            raise UserError(f"{self.folder} can't be gone on with: {error}") from error
        except Exception as error:  # whatever torch finds missing, of another shape or of another kind
            raise UserError(
                f"the checkpoints of {self.folder} are of another run or another version of untaught; begin anew with another --out"
            ) from error
        self.scored, self.saved_at = self._scores_due(), self.step

    def _be_at(self, place: dict[str, Any]) -> None:
        """Raises ValueError for what can't be the place of a run."""
        counts = {key: place[key] for key in ("step", "epoch", "step_in_epoch", "entered")}
        for key, value in counts.items():
            if type(value) is not int or not (-1 if key == "entered" else 0) <= value < MOST_STEPS:
                raise ValueError(f"{key} is {value}")
            setattr(self, key, value)
        if type(place["seconds"]) not in (int, float) or not 0 <= place["seconds"] < 1e12:
            raise ValueError(f"seconds is {place['seconds']}")
        self.clock.total = float(place["seconds"])
        self.plan = Plan.restored(place["plan"] if "plan" in place else {"total": place["total"]})  # of a run before plans were bent

    def save(self) -> None:
        self.check()
        if not self.resumable or self.step == self.saved_at:
            return
        folder, step, group = self.folder / "checkpoints", self.step, self.group
        if group.writes_shards:
            from untaught.training import sharded_checkpoint as shards

            with ExitStack() as writing:
                made = checkpoint.written(folder, step, self.place()) if group.is_rank_zero else checkpoint.faults(folder, step)
                place: Any = group.on_rank_zero(lambda: writing.enter_context(made))
                if not group.is_rank_zero:
                    writing.enter_context(made)
                shards.save(place, self.method, self.optimizer, group)
                group.on_rank_zero(writing.close)
        else:
            group.on_rank_zero(lambda: checkpoint.save(folder, step, self.state()))
        self.saved_at = step

    # ------------------------------------------------------------------------------------------------------- loop

    def run(self) -> None:
        """Trains to the end, or to a signal (then saved, and raised as Interrupted)."""
        metrics = Metrics(self.folder / "metrics.jsonl" if self.group.is_rank_zero else None, self.step)
        self._open_plans()
        self.method.train()
        bar = progress_bar(self.says)
        joined = joined_statistics(self.method) if self.group.size > 1 else nullcontext()
        with bar, noted() as self.came, joined:
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
            if came := max(self.group.gather_objects(self.came.number)):  # in the last step, which has been saved
                raise Interrupted(came)

    def _rows(self) -> Iterator[dict[str, Any]]:
        """One row of metrics every log_every steps, and one a kNN score."""
        clock, recipe = self.clock, self.recipe
        since = self.step
        clock.start()
        samples_per_step = recipe.batch_size or 0
        while self.total is None or self.step < self.total:
            if self.survey and self.entered != self.epoch:
                self.method.before_epoch(self.epoch, partial(self.survey, self.epoch))
                self.entered, self.saved_at = self.epoch, -1
                clock.lap("compute")
                self.save()
                clock.lap(None)
            for batch in self._batches():
                batch = {key: value.to(self.fabric.device, non_blocking=True) for key, value in batch.items()}
                clock.lap("data")
                views = self.views(batch, self.epoch)
                clock.lap("views")
                self._train_step(batch["index"], views)
                self.step += 1
                self.step_in_epoch += 1
                stopped = self.group.delayed_max(self.came.number)
                clock.lap("compute")
                if recipe.minutes and self.step >= self.plan.due:
                    self._sync()
                    clock.lap("compute")
                    self._plan(recipe.minutes * 60)
                last = self.step == self.total
                if self.step % recipe.log_every == 0 or last:
                    terms = self.check()
                    clock.lap("compute")
                    elapsed = sum(clock.seconds.values())
                    shares = clock.shares()
                    looked = self._look(shares) if last or self._looks_since(since) else {}
                    yield {
                        "step": self.step,
                        "epoch": self.epoch,
                        "seconds": self.seconds,
                        "samples": self.step * samples_per_step,
                        "samples_per_second": (self.step - since) * samples_per_step / elapsed,
                        "loss": sum(value for name, value in terms.items() if name in self.summed),
                        **terms,
                        "lr": self.optimizer.param_groups[0]["lr"],
                        **shares,
                        **looked,
                    }
                    since = self.step
                    clock.lap(None)
                if self._evaluates_now() and not last:
                    assert self.evaluate is not None
                    with self.group.unsharded(self.wrapped):
                        scores = self.evaluate()
                    yield {"step": self.step, "epoch": self.epoch, **scores}
                    last = self.enough()
                if self._saves_now() or last or stopped:
                    clock.lap(None)
                    self.save()
                if stopped and not last:
                    raise Interrupted(stopped)
                if recipe.stop_on_collapse and self.looked.get("because") and not last:
                    self.save()
                    raise Collapsed(
                        f"stopped at step {self.step} of {self.total}, collapsing because {self.looked['because']}; "
                        f"try {self.looked['try']}; saved in {checkpoint.newest(self.folder / 'checkpoints')}"
                    )
                clock.lap(None)
                if last:
                    return
            self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def _batches(self) -> Iterator[Batch]:
        try:
            yield from self.batches.batches(self.epoch, self.step_in_epoch)
        except UserError as fault:  # of records that only this process reads
            raise OwnFault(*fault.args) from fault

    def _open_plans(self) -> None:
        """Every plan is written down before it is followed: steps that were lost with their process are done again by the same ones."""
        self.plans: Metrics | None = None
        self.followed: dict[int, int | None] = {}  # step -> total, of plans made after the checkpoint
        if self.recipe.minutes and self.resumable and self.group.is_rank_zero:
            path = self.folder / "plans.jsonl"
            if not self.lengthened:
                followed = {row["step"]: row.get("total") for row in Metrics.rows(path) if row["step"] > self.step}
                self.followed = {step: total for step, total in followed.items() if is_total(total) and step <= (total or step)}
            self.plans = Metrics(path, self.step)

    def _plan(self, budget: float) -> None:
        """Decides anew at which step the budget of seconds will be spent, by the time that steps have taken."""
        estimate = self.plan.estimate(self.step, self.seconds, budget)
        total = self.group.broadcast(self.followed.get(self.step, estimate))
        if self.plans:
            self.plans.write({"step": self.step, "total": total})
        self.plan.renew(self.step, total)
        if self.step == self.total and self.step <= FEW_STEPS:
            minutes = self.recipe.minutes
            warn(f"minutes={minutes:g} were over after {self.step} steps, too few to learn by: give more, or a smaller batch")

    def _saves_now(self) -> bool:
        every = self.recipe.save_every or max(50, (self.total or 0) // 20)
        if self.recipe.minutes and not self.recipe.save_every:  # a total that moves
            return self.step - self.saved_at >= every
        return self.step % every == 0

    def _looks_since(self, step: int) -> bool:
        """Whether a look at the health has become due after `step`."""
        every = self.recipe.health_every
        if every is None:
            every = max(min(LOOK // (self.recipe.batch_size or 1), LOOK // PROBE), (self.total or 0) // LOOKS, 1)
        return every > 0 and self.step // every > step // every

    def _look(self, shares: dict[str, float]) -> dict[str, Any]:
        if self.health is None:
            return {}
        with self.group.unsharded(self.wrapped):
            looked = self.health(self.step, self.progress, self.recipe.lr or 0.0, self.gradient_norm, shares)
        self.looked = looked = self.group.broadcast(looked)
        return {"health": looked}

    def _evaluates_now(self) -> bool:
        if self.evaluate is None:
            return False
        if self.recipe.evaluate_every is not None:
            return self.recipe.evaluate_every > 0 and self.step % self.recipe.evaluate_every == 0
        before, self.scored = self.scored, self._scores_due()
        return self.scored > before

    def _scores_due(self) -> int:
        """How many of the parts that evaluations cut the schedule into lie behind."""
        return int(self.evaluations * self.progress + 1e-9)

    def _train_step(self, index: Tensor, views: list[View]) -> None:
        recipe = self.recipe
        progress = self.progress
        assert recipe.lr is not None
        set_rate(self.optimizer, recipe.lr, rate(recipe.schedule, recipe.warmup, progress))
        self.optimizer.zero_grad(set_to_none=True)
        if recipe.cache_gradients:
            terms = self._backward_cached(views, progress)
        else:
            terms = self._backward(views, progress)
        self.summed = {name for name, value in terms.items() if value.requires_grad}
        self.method.before_step(progress)

        gradients = [local_shard(p.grad) for p in self.parameters if p.grad is not None]
        norm = self.group.total_norm(gradients)
        bad = ~torch.isfinite(norm)
        for gradient in gradients:
            gradient.masked_fill_(bad, 0.0)
        if recipe.clip:
            share = (recipe.clip / (norm.nan_to_num(1.0) + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
            torch._foreach_mul_(gradients, share)  # type: ignore[attr-defined]
        self.wrapped_optimizer.step()
        self.method.after_step(progress)
        self.method.pending.clear()
        self.recent.append((self.step, {name: value.detach() for name, value in terms.items()}, index, bad, norm))

    def _backward(self, views: list[View], progress: float) -> Terms:
        total: Terms = {}
        parts = self.recipe.accumulate
        for part, micro in enumerate(_cut(views, parts)):
            self._reseed(part)
            with self.group.no_sync(self.wrapped, part < parts - 1):
                terms = self.call("forward", micro, progress)
                self.fabric.backward(_loss(terms) / parts)
            total = {name: total.get(name, 0) + value / parts for name, value in terms.items()}
        return total

    def _backward_cached(self, views: list[View], progress: float) -> Terms:
        """Gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983): the loss sees the whole batch, the network
        one chunk at a time. BatchNorm's statistics are those of a chunk, and move once."""
        each = -(-self.recipe.cache_gradients // self.group.size)
        chunks = list(_cut(views, -(-len(views[0]) // each)))
        projected = []
        with torch.no_grad(), _frozen_statistics(self.method):
            for part, chunk in enumerate(chunks):
                self._reseed(part)
                projected.append(self.call("project", chunk))
        whole = [torch.cat(parts).requires_grad_() for parts in zip(*projected, strict=True)]
        with self.group.no_sync(self.wrapped):
            terms = self.call("objective", whole, progress)
            _loss(terms).backward()
        start = 0
        for part, chunk in enumerate(chunks):
            self._reseed(part)
            with self.group.no_sync(self.wrapped, not self.group.sharded or part < len(chunks) - 1):
                again = self.call("project", chunk)
                stop = start + len(again[0])
                self.fabric.backward(sum((z * w.grad[start:stop]).sum() for z, w in zip(again, whole, strict=True)))  # type: ignore[index,arg-type]
            start = stop
        self.group.average_gradients(self.parameters)
        return terms

    def _reseed(self, part: int) -> None:
        """torch's own generators (dropout) depend on nothing but the seed and where the run is."""
        place = (self.step << 16) + (part << 8) + self.fabric.global_rank
        torch.manual_seed(place ^ mix(mix(self.recipe.seed) + (self.step >> 16)))  # a CPU's generator reads the low 32 bits alone

    # --------------------------------------------------------------------------------------------------- vigilance

    def check(self) -> dict[str, float]:
        """The one sync: mean terms since the last; names step, term and samples of a non-finite one, and ends the run if they persist."""
        if not self.recent:
            return {}
        rows = list(self.recent)
        self.recent.clear()
        names = list(rows[-1][1])
        norms = torch.stack([norm for *_, norm in rows]).nan_to_num(0.0, 0.0, 0.0)  # of a bad gradient, which was dropped, nothing
        table = torch.stack([torch.stack([terms[name].float() for name in names] + [bad.float()]) for _, terms, _, bad, _ in rows])
        local = torch.isfinite(table).all(1)
        table, self.gradient_norm = self.group.mean(table).cpu(), float(norms.mean())
        bad = (table[:, -1] > 0) | ~torch.isfinite(table).all(1)
        if bad.any():
            first = int(bad.nonzero()[0])
            step, _, index, *_ = rows[first]
            broken = [name for name, value in zip(names, table[first], strict=False) if not torch.isfinite(value)] or ["its gradient"]
            samples = self.group.gather_objects((bool(local[first]), ", ".join(self.name(index[:3]))))
            what = f"step {step}: {' and '.join(broken)} not finite (samples {min(samples)[1]} ...)"  # of a process whose own are not
            self.dropped += int(bad.sum())
            if self.dropped >= BAD_STEPS or not torch.isfinite(table).all():
                if self.resumable and not torch.isfinite(table[first, :-1]).all():
                    self.group.on_rank_zero(lambda: checkpoint.forsake(self.folder / "checkpoints", step))
                last = checkpoint.newest(self.folder / "checkpoints")
                kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
                raise UserError(
                    f"training diverged at {what}; {kept}; try a lower lr (now {self.recipe.lr:g}), clip=1 or precision=float32"
                )
            warn(f"{what}; the gradients of {int(bad.sum())} of {len(rows)} steps were dropped")
        else:
            self.dropped = 0
        mean = table[:, :-1].mean(0)
        return dict(zip(names, mean.tolist(), strict=True))

    def _sync(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()


def _loss(terms: Terms) -> Tensor:
    return torch.stack([value for value in terms.values() if value.requires_grad]).sum()


def _cut(views: list[View], parts: int) -> Iterator[list[View]]:
    """The views of `parts` consecutive shares of the batch."""
    if parts == 1:
        yield views
        return
    rows = len(views[0])
    bounds = [round(i * rows / parts) for i in range(parts + 1)]
    for low, high in pairwise(bounds):
        yield [view[low:high] for view in views]


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by the batch, as in training, but its running statistics stay."""
    norms = [(m, m.momentum) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
