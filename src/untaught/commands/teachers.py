"""The frozen teachers of a run: opened by name, each with its own preprocessing, checked, and recognised on resume."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untaught.core import Encoder, FrozenEncoder, Options, UserError, View
from untaught.evaluation.models import open_model
from untaught.pipeline.dataset import Dataset

KNOB = "teachers"


def named(knobs: Options) -> tuple[str, ...]:
    """The names given by the knob `teachers`, of a method or of a hybrid's member."""
    return next((tuple(value) for key, value in knobs.items() if key.rpartition(".")[2] == KNOB), ())


def absolute(knobs: Options) -> Options:
    """The knobs with absolute paths of teachers: a run folder names the same ones from any working directory."""

    def one(name: Any) -> Any:
        if not isinstance(name, str):
            return name
        model, sign, file = name.strip().rpartition("=")  # timm/NAME=FILE
        path = Path(file).expanduser()
        return f"{model}{sign}{path.absolute()}" if file and path.exists() else name

    def all_of(value: Any) -> Any:
        if isinstance(value, str):
            return ",".join(map(one, value.split(",")))
        return [one(name) for name in value] if isinstance(value, list | tuple) else value

    return {key: all_of(value) if key.rpartition(".")[2] == KNOB else value for key, value in knobs.items()}


def open_teachers(
    names: Sequence[str], modules: Mapping[str, nn.Module], data: Dataset, students: Iterable[Encoder], example: View
) -> tuple[FrozenEncoder, ...]:
    """The teachers in the order of `names`; modules: those given from Python, by name. example: a view of the data, on which each is tried.

    Raises UserError for one that can't be opened, has no pretrained weights, does not take these data, or is the student itself.
    """
    students = list(students)
    return tuple(_open(name, modules.get(name), data, students, example) for name in names)


def _open(name: str, module: nn.Module | None, data: Dataset, students: list[Encoder], example: View) -> FrozenEncoder:
    if module is not None:
        own = {id(p) for p in module.parameters()}
        if any(id(p) in own for student in students for p in student.parameters()):
            raise UserError(f"the teacher {name} shares weights with the student; give a copy of it (copy.deepcopy), or another network")
    noun = data.modality.noun
    model = open_model(name if module is None else copy.deepcopy(module), lambda: data.modality)
    if model.modality.name != data.modality.name:
        raise UserError(f"the teacher {name} takes {model.modality.noun}, the data are {noun}; choose one of {noun}")
    encoder = model.build(data).requires_grad_(False).eval()
    adapt = partial(_adapted, name=name, data=data, prep=model.shown(data.prep))
    with torch.no_grad():
        try:
            encoder(adapt(example))
        except UserError:
            raise
        except Exception as error:  # each model raises its own types
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the teacher {name} can't take {noun} of shape {adapt(example).shapes}: {reason}") from error
    return FrozenEncoder(name, encoder, adapt, digest(encoder))


def _adapted(view: View, name: str, data: Dataset, prep: object) -> View:
    try:
        return data.modality.adapted(view, data.prep, prep)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"the teacher {name} {error}") from error


def digest(network: nn.Module) -> str:
    """The SHA-256 of the names, types, shapes and bytes of a network's weights and buffers."""
    found = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        value = value.detach().cpu().contiguous()
        found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_same(teachers: Sequence[FrozenEncoder], before: Options) -> None:
    """Raises UserError if the run that is resumed had teachers with other weights. before: its run.yaml."""
    known = before.get(KNOB, {})
    for one, earlier in zip(teachers, known.values(), strict=False):  # by place: runs of older versions have relative paths as names
        if known.get(one.name, earlier) != one.digest:
            raise UserError(f"the weights of the teacher {one.name} have changed since the run started; restore them, or start a new run")
