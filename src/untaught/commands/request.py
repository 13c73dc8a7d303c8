"""What was asked of a run, resolved against what is known: method, modality, knobs, and, on resume, the run as it was."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from untaught.config.overrides import knobs_of, sort_knobs
from untaught.config.registry import MethodLike, from_python, method_class, method_title, modality_named
from untaught.config.train_config import TrainConfig
from untaught.core import Method, Modality, Options, UserError
from untaught.distributed.launch import started
from untaught.pipeline.view_pipeline import view_names
from untaught.storage.run_dir import Folder, free_path

LENGTHS = ("epochs", "steps", "minutes")
PLACES = ("devices", "nodes")
FREE_ON_RESUME = {
    *LENGTHS,
    "lr",
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
class Asked:
    """Everything that was asked of a run, before anything is decided. What run.yaml repeats."""

    data: Any
    method: MethodLike | None = None  # the modality's own, or that of the run gone on with
    encoder: str | nn.Module | None = None
    out: Path | None = None
    modality: str = "image"
    columns: dict[str, str] | None = None
    label: str | None = None
    split: str | None = None
    knobs: Options = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, name in vars(self).items():
            if isinstance(name, str) and not name.strip():
                raise UserError(f"{what} is empty; give a name, or leave it out")

    @property
    def chosen(self) -> MethodLike:
        return self.method or modality_named(self.modality).method


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked, with names resolved and knobs parsed, before any data is read.

    before: run.yaml of the run that is gone on with. changes: what to say of knobs that differ from it. knobs: see `sort_knobs`.
    views: their names. given: what was asked in this call, which other processes are started with.
    """

    asked: Asked
    given: Asked
    resume: bool
    before: Options | None
    changes: list[str]
    cls: type[Method]
    modality: Modality
    knobs: dict[str, Any]
    recipe: TrainConfig
    views: tuple[str, ...]

    @property
    def how(self) -> Options:
        """How the data are to be read."""
        return {"columns": self.asked.columns, "label": self.asked.label, "split": self.asked.split}

    @property
    def changed_knobs(self) -> Options:
        """The method's knobs that were given another value than their default: name -> default."""
        known = knobs_of(self.cls)
        return {name: known[name][1] for name, value in self.knobs["method"].items() if value != known[name][1]}


def resolve(asked: Asked, resume: bool) -> Request:
    """Raises UserError for a name or knob that is not known, and for a resume that would change the run."""
    found, before, changes, given = started(), None, [], asked
    if found and found.again and asked.out is None:
        raise UserError("torchrun has started the run anew, which can't be found without its folder; give --out")
    resume = resume or bool(found and found.again)
    if resume and asked.out is None:
        raise UserError("--resume goes on with the run of --out; give both")
    if resume and asked.out and Folder(asked.out).begun:
        before = Folder(asked.out).read()
        asked, changes = _as_before(asked, before)
    elif resume and asked.data is None:
        raise UserError(f"{asked.out} holds no run to go on with; name the data to begin one")
    _check_at_hand(asked)
    cls, modality = method_class(asked.chosen), modality_named(asked.modality)
    knobs = sort_knobs(asked.knobs, cls, modality, TrainConfig)
    recipe = TrainConfig(**(cls.training_defaults | knobs["loop"]))
    return Request(asked, given, resume, before, changes, cls, modality, knobs, recipe, view_names(cls, modality, knobs["views"]))


def _as_before(asked: Asked, before: Options) -> tuple[Asked, list[str]]:
    """The run as it was asked first; only loop knobs that leave the samples alone may change -> it, and what to say of that."""
    knobs, changes = dict(before["knobs"]), []
    if found := started():  # as many as there are now, if a number was asked for then
        knobs |= {name: getattr(found, name) for name in PLACES if name in knobs}
    advice = "resume without it, or choose another --out"
    for what in ("method", "encoder", "columns", "label", "split"):
        given, had = getattr(asked, what), before[what]
        if what == "method" and given is not None:
            given = method_title(given)
        if isinstance(given, str | dict) and given != had:
            raise UserError(f"--{what} {given}: the run in {asked.out} has {had or 'none'}; {advice}")
    for key, value in asked.knobs.items():
        if str(knobs.get(key)) == str(value):
            continue
        if key not in FREE_ON_RESUME:
            raise UserError(f"{key}={value}: the run in {asked.out} has {key}={knobs.get(key, 'its default')}; {advice}")
        replaced = [name for name in (LENGTHS if key in LENGTHS else (key,)) if name in knobs]
        was = " ".join(f"{name}={knobs.pop(name)}" for name in replaced)
        changes.append(f"resuming  with {key}={value} (was {was or 'the default'})")
        knobs[key] = value
    whole = dataclasses.replace(
        asked,
        data=asked.data if asked.data is not None else before["data"],
        method=asked.method or before["method"],
        encoder=before["encoder"] if asked.encoder is None else asked.encoder,
        **{key: before[key] for key in ("modality", "columns", "label", "split")},
        knobs=knobs,
    )
    return whole, changes


def _check_at_hand(asked: Asked) -> None:
    """run.yaml can only name what lived in the memory of the process that wrote it."""
    marks: dict[str, Callable[[str], bool]] = {
        "data": lambda value: value.startswith("in memory: "),
        "encoder": lambda value: "module:" in value,
        "method": from_python,
    }
    for what, lost in marks.items():
        value = getattr(asked, what)
        if isinstance(value, str) and lost(value):
            raise UserError(f"the run had its {what} from Python ({value}); give it again from there")


def free_name(asked: Asked) -> Path:
    """runs/METHOD-DATA, with a number where that is taken."""
    data = asked.data if isinstance(asked.data, str | os.PathLike) else "data"
    stem = str(data).rstrip("/").replace("builtin:", "").split("/")[-1].split(".")[0] or "data"
    title = method_title(asked.chosen)
    method = title.split(":")[-1].split(".")[-1].strip("<>").lower() if from_python(title) else re.sub(r":[^+]*", "", title)
    return free_path(Path("runs") / f"{method}-{stem}")
