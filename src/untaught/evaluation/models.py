"""What can be evaluated: run and encoder folders, timm and transformers models, plain modules; each with its own preprocessing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untaught.config.registry import build_encoder, build_random_init
from untaught.core import Encoder, Modality, Options, Preprocessor, UserError
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.pretrained import Pretrained, load_encoder
from untaught.pipeline.view_pipeline import Views
from untaught.storage.run_dir import read_run, seed_of
from untaught.storage.safe_load import read_json

WIDEST = 4096  # largest input side of a model, in pixels
ALLOWED = "a run folder, an encoder folder, timm/NAME, timm/NAME=WEIGHTS, transformers/NAME or a folder of either"


@dataclass
class EvaluatedModel:
    """A network and its preprocessing."""

    name: str
    modality: Modality
    build: Callable[[Dataset], Encoder]  # the network for these data
    random_init: Callable[[Any], Encoder | None]  # the same network at random init; None if that is not possible
    view: str = "whole"
    prep: Preprocessor | None = None  # it was trained with this; None: the data's own is used
    shown_as: Options = field(default_factory=dict)  # input of an external model: "size", "mean", "std" of images
    run: Path | None = None  # the run folder that it comes from
    overrides: Options = field(default_factory=dict)  # preprocessing settings that it requires, such as a tokenizer

    def shown(self, data: Preprocessor) -> Preprocessor:
        """The preprocessor of the data, with the settings and normalisation of this network."""
        if self.prep is not None:
            return self.prep
        return self.modality.shown(data, self.shown_as) if self.modality.shown and self.shown_as else data

    def views(self, data: Preprocessor, names: tuple[str, ...]) -> Views:
        prep = self.shown(data)
        return Views(names, prep, [prep.presets()[name] for name in names], seed=0)


def open_model(target: Any, modality: Callable[[], Modality] | None = None) -> EvaluatedModel:
    """target: a name, a folder, a module, or (a Pretrained, its folder) of a run in memory; modality: for a target without its own.

    Raises UserError with the allowed forms.
    """

    def kind() -> Modality:
        if modality is None:
            raise UserError(f"{target} has no modality; give --modality")
        return modality()

    if isinstance(target, tuple):
        pretrained, folder = target
        return _ours(pretrained, folder, str(folder))
    if isinstance(target, nn.Module):
        return _module(target, kind())
    text = str(target)
    if not text.strip():
        raise UserError(f"the encoder name is empty; allowed: {ALLOWED}")
    family, _, rest = text.partition("/")
    if family == "timm" and rest and not Path(text).exists():
        return _timm(rest, kind())
    if family == "transformers" and rest and not Path(text).exists():
        return _transformers(rest, kind())
    path = Path(text).expanduser()
    if not path.exists():
        raise UserError(f"{text} not found; allowed: {ALLOWED}")
    if "modality" not in (config := _config(path)) and not (path / "encoder").is_dir():
        if "model_type" in config:
            return _transformers(text, kind())
        if "architecture" in config:
            return _timm(f"local-dir:{text}", kind())
    return _ours(load_encoder(path), path, text)


def _config(folder: Path) -> Options:
    try:
        found = read_json(folder / "config.json", None)
        return found if isinstance(found, dict) else {}
    except UserError:
        return {}  # load_encoder reports the error


def _ours(pretrained: Pretrained, folder: Path, name: str = "encoder") -> EvaluatedModel:
    encoder, config, prep = pretrained
    run = next((place for place in (folder, folder.absolute().parent) if (place / "run.yaml").exists()), None)
    seed = seed_of(read_run(run / "run.yaml")) if run else 0

    def random_init(data: Dataset) -> Encoder | None:
        if config["encoder"].startswith("module:"):
            return reinitialised(encoder, seed)
        return random_init_encoder(config["encoder"], prep.encoder_arguments, config["encoder_knobs"], seed)

    return EvaluatedModel(name, prep.modality, lambda data: encoder, random_init, config["view"], prep, run=run)


def random_init_encoder(encoder: str, given: Options, knobs: Options, seed: int) -> Encoder:
    """The named encoder as initialised by a run with this seed, without pretrained weights."""
    torch.manual_seed(seed)
    return build_random_init(encoder, given, knobs).eval()


def reinitialised(encoder: Encoder, seed: int) -> Encoder | None:
    """A copy with all weights reinitialised by reset_parameters(); None if a module with weights lacks it."""
    copied = copy.deepcopy(encoder)
    torch.manual_seed(seed)
    for module in copied.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            return None
    return copied.eval()


def _module(module: nn.Module, modality: Modality) -> EvaluatedModel:
    build = lambda data: build_encoder(module, {}, {}, lambda: data.example("whole")).eval()  # noqa: E731
    return EvaluatedModel(type(module).__name__, modality, build, lambda data: reinitialised(build(data), 0))


def _timm(name: str, modality: Modality) -> EvaluatedModel:
    from untaught.encoders.timm import shown_as

    name, _, file = name.partition("=")
    as_trained = _shown(f"timm/{name}", modality, lambda: shown_as(name))

    def build(data: Dataset) -> Encoder:
        given = model.shown(data.prep).encoder_arguments
        return build_encoder(f"timm/{name}", given, {"stem": "original", "weights": file or "pretrained"}).eval()

    def random_init(data: Dataset) -> Encoder | None:
        if name.startswith("local-dir:"):
            return reinitialised(build(data), 0)
        return random_init_encoder(f"timm/{name}", model.shown(data.prep).encoder_arguments, {"stem": "original"}, 0)

    model = EvaluatedModel(f"timm/{name}", modality, build, random_init, shown_as=as_trained)
    return model


def _transformers(name: str, modality: Modality) -> EvaluatedModel:
    if brought := modality.expects(f"transformers/{name}"):
        return _with_own_files(name, modality, brought)
    from untaught.encoders.transformers import shown_as, transformers_encoder

    as_trained = _shown(f"transformers/{name}", modality, lambda: shown_as(name))

    def build(data: Dataset, pretrained: bool = True) -> Encoder:
        return transformers_encoder(name, **model.shown(data.prep).encoder_arguments, pretrained=pretrained).eval()

    random_init = lambda data: _seeded(lambda: build(data, pretrained=False))  # noqa: E731
    model = EvaluatedModel(f"transformers/{name}", modality, build, random_init, shown_as=as_trained)
    return model


def _with_own_files(name: str, modality: Modality, brought: Options) -> EvaluatedModel:
    """A checkpoint that brings its own preprocessing: a tokenizer, a sample rate."""

    def given(data: Dataset) -> Options:
        own = brought if modality.learn is None else modality.learn((), {**data.prep.settings, **brought})[0]
        if any(own[key] != data.prep.settings[key] for key in brought):
            what = " and ".join(brought)
            raise UserError(f"transformers/{name} has another {what} than the data; evaluate it separately, or evaluate a run of it")
        return data.prep.encoder_arguments

    build = lambda data: build_encoder(f"transformers/{name}", given(data), {}).eval()  # noqa: E731
    random_init = lambda data: random_init_encoder(f"transformers/{name}", given(data), {}, 0)  # noqa: E731
    return EvaluatedModel(f"transformers/{name}", modality, build, random_init, overrides=brought)


def _seeded(make: Callable[[], Encoder]) -> Encoder:
    torch.manual_seed(0)
    return make()


def _shown(name: str, modality: Modality, shown_as: Callable[[], Options]) -> Options:
    """ "size", "mean" and "std" from the model's own files: side of the images, mean and std of their channels."""
    if modality.shown is None:
        raise UserError(f"{name} takes images, not {modality.noun}; evaluate a run of it")
    try:
        given = shown_as()
        size, statistics = int(given["size"]), {key: [float(value) for value in given[key]] for key in ("mean", "std")}
        numbers = [size, *statistics["mean"], *statistics["std"]]
        possible = all(map(math.isfinite, numbers)) and 0 < size <= WIDEST and min(statistics["std"]) > 0
    except UserError:
        raise
    except Exception as error:  # the file may contain anything
        raise UserError(f"{name} does not specify a numeric image size, mean and std; fix its config.json") from error
    if not possible or len(statistics["mean"]) != len(statistics["std"]):
        raise UserError(f"{name} specifies images of size {size} with {statistics}, which is not valid; fix its config.json")
    return {"size": size, **statistics}
