"""The arguments of a run, resolved: method, modality, knobs and, on resume, the existing run."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from untaught.commands.teachers import absolute
from untaught.config.overrides import knobs_of, sort_knobs
from untaught.config.presets import RATES, chosen_defaults, encoder_defaults, with_defaults
from untaught.config.registry import MethodLike, from_python, method_class, method_title, modality_named, modality_table
from untaught.config.train_config import TrainConfig
from untaught.core import Method, Modality, Options, UserError
from untaught.distributed.launch import started
from untaught.pipeline.infer import chosen_modality
from untaught.pipeline.starts import EncoderLike, Start, starts_of
from untaught.pipeline.view_pipeline import view_names
from untaught.storage.run_dir import Folder, free_path

LENGTHS = ("epochs", "steps", "minutes")
PLACES = ("devices", "nodes")
MODULE = "module:"  # starts the name of a module given from Python
FREE_ON_RESUME = {
    *LENGTHS,
    *RATES,
    "weight_decay",
    "clip",
    "log_every",
    "save_every",
    "evaluate_every",
    "health_every",
    "stop_on_collapse",
    "compile",
    "schedule",
    *PLACES,
}


@dataclasses.dataclass
class PretrainArguments:
    """The arguments of a run as given; run.yaml records them."""

    data: Any
    method: MethodLike | None = None  # None: the modality's default, or that of the resumed run
    encoder: EncoderLike | Mapping[str, EncoderLike] | None = None  # one, or one by role
    out: Path | None = None
    modality: str | None = None  # None: inferred from the data
    columns: dict[str, str] | None = None
    label: str | None = None
    split: str | None = None
    knobs: Options = dataclasses.field(default_factory=dict)
    defaults: str | None = None  # of a run that is repeated: "paper" or "short", unless `knobs` name them
    modules: dict[str, nn.Module] = dataclasses.field(default_factory=dict)  # given as knobs (teachers), by the names that replace them

    def __post_init__(self) -> None:
        self.knobs = absolute({key: self._by_name(value) for key, value in self.knobs.items()})
        for what, name in vars(self).items():
            if isinstance(name, str) and not name.strip():
                raise UserError(f"{what} is empty; give a name, or omit it")

    def _by_name(self, value: Any) -> Any:
        """A knob's value; modules, runs and paths, also in a list, are replaced by their names, separated by commas."""
        parts = list(value) if isinstance(value, list | tuple) else [value]
        if not any(isinstance(part, nn.Module | os.PathLike) or hasattr(part, "path") for part in parts):
            return value
        return ",".join(self._name(part) if isinstance(part, nn.Module) else str(getattr(part, "path", part)) for part in parts)

    def _name(self, module: nn.Module) -> str:
        stem, number = f"{MODULE}{type(module).__name__}", 1
        name = stem
        while self.modules.setdefault(name, module) is not module:
            number += 1
            name = f"{stem}-{number}"
        return name

    @property
    def chosen(self) -> MethodLike:
        assert self.modality is not None
        return self.method or modality_named(self.modality).method


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments with names resolved and knobs parsed, before any data is read.

    before: run.yaml of the resumed run. changes: messages about knobs that differ from it. defaults: "paper" or "short", and why. knobs:
    see `sort_knobs`. views: their names.
    starts: of the encoders, by role. given: the arguments of this call, passed on to the processes it starts.
    """

    arguments: PretrainArguments
    given: PretrainArguments
    resume: bool
    before: Options | None
    changes: list[str]
    cls: type[Method]
    modality: Modality
    defaults: tuple[str, str]
    knobs: dict[str, Any]
    train_config: TrainConfig
    views: tuple[str, ...]
    starts: dict[str, Start]

    @property
    def how(self) -> Options:
        """Options for reading the data."""
        return {"columns": self.arguments.columns, "label": self.arguments.label, "split": self.arguments.split}

    @property
    def changed_knobs(self) -> Options:
        """The method's knobs with another value than under its `defaults`: name -> that value."""
        usual = {name: default for name, (_, default) in knobs_of(self.cls).items()} | getattr(self.cls, self.defaults[0])
        own = self.knobs["method"].items()
        return {name: usual[name] for name, value in own if value != usual[name] and name.rpartition(".")[2] != "teachers"}


def resolve(arguments: PretrainArguments, resume: bool) -> Request:
    """Raises UserError for an unknown name or knob, and for a resume that would change the run."""
    found, before, changes, given = started(), None, [], arguments
    if found and found.again and arguments.out is None:
        raise UserError("torchrun restarted the run, which can't be found without its folder; give --out")
    resume = resume or bool(found and found.again)
    if resume and arguments.out is None:
        raise UserError("--resume requires --out, the run to resume")
    if resume and arguments.out and Folder(arguments.out).begun:
        before = Folder(arguments.out).read()
        arguments, changes = _as_before(arguments, before)
    elif resume and arguments.data is None:
        raise UserError(f"{arguments.out} has no run to resume; give data to start one")
    _check_at_hand(arguments)
    views = method_class(arguments.method).views if arguments.method else ()  # an unknown name is an error before the data are read
    modality = _modality(arguments, views)
    arguments = dataclasses.replace(arguments, modality=modality.name)
    given = dataclasses.replace(given, modality=modality.name)
    cls = method_class(arguments.chosen)
    if not cls.alone:
        name = method_title(arguments.chosen)
        raise UserError(f"{name} is a term beside another method and learns nothing alone; combine them, as in dinov2+{name}:0.5")
    defaults = chosen_defaults(cls, arguments.knobs, before.get("defaults", "short") if before else arguments.defaults)
    knobs = sort_knobs(with_defaults(cls, defaults[0], arguments.knobs), cls, modality, TrainConfig)
    starts = starts_of(cls, arguments.encoder, knobs["encoder"], encoder_defaults(cls, defaults[0]))
    names = view_names(cls, modality, knobs["views"])
    return Request(arguments, given, resume, before, changes, cls, modality, defaults, knobs, TrainConfig(**knobs["loop"]), names, starts)


def _modality(arguments: PretrainArguments, views: tuple[str, ...]) -> Modality:
    """Named or inferred. If one of several processes can't infer it, opening the data, which they do together, fails for all of them."""
    try:
        return chosen_modality(arguments.modality, arguments.data, arguments.columns, views)
    except UserError:
        if started() is None or arguments.modality is not None:
            raise
        return next(kind for kind in map(modality_named, modality_table()) if set(views) <= kind.views.keys())


def _as_before(arguments: PretrainArguments, before: Options) -> tuple[PretrainArguments, list[str]]:
    """The run's original arguments; only loop knobs that do not affect the samples may change -> arguments, and messages about changes."""
    knobs, changes = absolute(before["knobs"]), []
    if found := started():  # the current number of processes, if one was given then
        knobs |= {name: getattr(found, name) for name in PLACES if name in knobs}
    advice = "resume without it, or choose another --out"
    for what in ("method", "encoder", "columns", "label", "split"):
        given, had = getattr(arguments, what), before[what]
        if what == "method" and given is not None:
            given = method_title(given)
        if isinstance(given, str | dict) and given != had:
            raise UserError(f"--{what} {given}: the run in {arguments.out} has {had or 'none'}; {advice}")
    for key, value in arguments.knobs.items():
        if str(knobs.get(key)) == str(value):
            continue
        if key not in FREE_ON_RESUME:
            raise UserError(f"{key}={value}: the run in {arguments.out} has {key}={knobs.get(key, 'its default')}; {advice}")
        alternatives = next((names for names in (LENGTHS, RATES) if key in names), (key,))
        replaced = [name for name in alternatives if name in knobs]
        was = " ".join(f"{name}={knobs.pop(name)}" for name in replaced)
        changes.append(f"resuming  with {key}={value} (was {was or 'the default'})")
        knobs[key] = value
    merged = dataclasses.replace(
        arguments,
        data=arguments.data if arguments.data is not None else before["data"],
        method=arguments.method or before["method"],
        encoder=before["encoder"] if arguments.encoder is None else arguments.encoder,
        **{key: before[key] for key in ("modality", "columns", "label", "split")},
        knobs=knobs,
    )
    return merged, changes


def _check_at_hand(arguments: PretrainArguments) -> None:
    """Raises UserError for Python objects that run.yaml can't store."""
    marks: dict[str, Callable[[str], bool]] = {
        "data": lambda value: value.startswith("in memory: "),
        "encoder": lambda value: MODULE in value,
        "method": from_python,
    }
    for what, lost in marks.items():
        value = getattr(arguments, what)
        if found := [one for one in (value.values() if isinstance(value, dict) else [value]) if isinstance(one, str) and lost(one)]:
            raise UserError(f"the {what} of the run was a Python object ({found[0]}); pass it again from Python")
    for key, value in arguments.knobs.items():
        names = str(value).split(",") if isinstance(value, str) else ()
        if lost_modules := [name for name in names if name.startswith(MODULE) and name not in arguments.modules]:
            raise UserError(f"{key} of the run was a Python object ({lost_modules[0]}); pass it again from Python")


def free_name(arguments: PretrainArguments) -> Path:
    """runs/METHOD-DATA, with a number appended if that exists."""
    title = method_title(arguments.chosen)
    method = title.split(":")[-1].split(".")[-1].strip("<>").lower() if from_python(title) else re.sub(r":[^+]*", "", title)
    return free_path(Path("runs") / f"{method}-{data_stem(arguments.data)}")


def data_stem(data: Any) -> str:
    """The name of data in the name of a folder."""
    text = str(data) if isinstance(data, str | os.PathLike) else "data"
    return text.rstrip("/").replace("builtin:", "").split("/")[-1].split(".")[0] or "data"
