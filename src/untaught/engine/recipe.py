"""The knobs of the training loop, and how `key=value` finds its knob."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from untaught.core import UserError
from untaught.engine.hybrid import Hybrid
from untaught.ranges import Count, Samples, Seed, Share, Start, Within, check, fits, options_of, plain, refuse

Minutes = Annotated[float, Within(1e-6, 525_600)]
Steps = Annotated[int, Within(1, 10**9)]
Every = Annotated[int, Within(0, 10**9)]  # steps between; 0 is off
Places = Annotated[int, Within(1, 1 << 16)]


@dataclass(frozen=True)
class Recipe:
    """What the loop does. None is decided from the data and the machine, and printed."""

    epochs: Annotated[int, Within(1, 10**6)] | None = None  # one of epochs, steps and minutes says when to stop
    steps: Steps | None = None
    minutes: Minutes | None = None  # by the clock, with scores and checkpoints on the way; becomes steps, planned anew as the load changes
    batch_size: Samples | None = None  # samples in one optimizer step, all processes together
    optimizer: str = "muon"  # muon, adamw, sgd, or any other name of timm.optim (lars, lamb, lion ...)
    lr: Annotated[float, Within(1e-12, 1e6)] | None = None
    weight_decay: Annotated[float, Within(0, 100)] = 0.05
    momentum: Start = 0.9  # of muon, sgd and lars
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05  # share of the steps over which lr rises from 0
    clip: Annotated[float, Within(0, 1e6)] = 0.0  # largest norm of the gradient; 0 is off
    accumulate: Annotated[int, Within(1, 1 << 16)] = 1  # parts that a batch is cut into, one backward pass each
    cache_gradients: Count = 0  # samples, of all processes, that pass through the network at once while the loss sees the batch; 0 is off
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    seed: Seed = 0
    log_every: Steps = 20  # steps
    save_every: Steps | None = None  # steps
    evaluate_every: Every | None = None  # steps between kNN scores on the way; by default three of them; 0 is off
    health_every: Every | None = None  # steps between looks at the run's health; by default under 1% of the work; 0 is only at the end
    stop_on_collapse: bool = False  # end the run, saved, when it is found to collapse
    stream: bool | None = None  # train from the source itself; decided by the disk that a store would take
    devices: Places | None = None  # processes on each machine, one a GPU; by default one, or as many as torchrun or SLURM started
    nodes: Places | None = None  # machines; by default one, or as many as torchrun or SLURM started processes on
    strategy: Literal["ddp", "fsdp"] = "ddp"  # every process has all weights, or a share of them (for what one GPU can't hold)

    def __post_init__(self) -> None:
        chosen = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise UserError(f"{' and '.join(chosen)} were both given; one of epochs, steps and minutes says when to stop")
        check(vars(self), {name: kind for name, (kind, _) in knobs_of(type(self)).items()})
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise UserError(f"batch_size={self.batch_size} can't be cut into accumulate={self.accumulate} equal parts")
        if self.accumulate > 1 and self.cache_gradients:
            raise UserError("accumulate and cache_gradients both cut the batch; give one of them")


def knobs_of(target: Callable | type) -> dict[str, tuple[Any, Any]]:
    """The keyword-only arguments of a function or constructor, or the fields of a dataclass: name -> (type, default).

    Of a method that calls a function, they are the function's; of a hybrid, NAME.KNOB of its methods.
    """
    if inspect.isclass(target) and issubclass(target, Hybrid):
        return {f"{name}.{key}": knob for name, (cls, _) in target.members.items() for key, knob in knobs_of(cls).items()}
    if hasattr(target, "__dataclass_fields__"):
        hints = typing.get_type_hints(target, include_extras=True)
        return {f.name: (hints[f.name], f.default) for f in fields(target)}  # type: ignore[arg-type]
    function = declared_by(target)
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: (hints.get(p.name, Any), p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def declared_by(target: Callable | type) -> Callable:
    """The function whose keyword-only arguments are the knobs of this one, of this constructor, or of a method that calls a function."""
    return getattr(target, "function", target.__init__) if inspect.isclass(target) else target


def parse(name: str, text: Any, kind: Any) -> Any:
    """The value of a knob from its text (or from Python), checked against its type; a UserError says what is allowed."""
    for option in options_of(kind):
        try:
            found = _parse_one(text, plain(option)[0])
        except (ValueError, TypeError, OverflowError):
            continue
        if fits(found, option):
            return found
    raise refuse(name, text, kind)


def _parse_one(value: Any, kind: Any) -> Any:
    if kind is Any:
        return _guess(value)
    if kind is type(None):
        if value is None or value in ("none", "None", "null"):
            return None
        raise ValueError
    if value is None:
        raise ValueError
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value in typing.get_args(kind):
            return value
        raise ValueError
    if origin is tuple or kind is tuple:
        inner = [a for a in typing.get_args(kind) if a is not Ellipsis] or [float]
        parts = value.strip("()[]").split(",") if isinstance(value, str) else list(value)
        if typing.get_args(kind) and Ellipsis not in typing.get_args(kind) and len(parts) != len(inner):
            raise ValueError
        return tuple(_parse_one(part, plain(inner[min(i, len(inner) - 1)])[0]) for i, part in enumerate(parts))
    if kind is bool:
        word = str(value).lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    if kind is str:
        if not str(value).strip():
            raise ValueError
        return str(value)
    if isinstance(value, kind):
        return value
    raise ValueError


def _guess(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(value.lower(), value)


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that isn't known: the nearest ones first, then all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"unknown {what} {name}; {hint}known: {', '.join(known)}")
