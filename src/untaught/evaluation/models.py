"""What can be measured: our runs and encoder folders, models of timm and transformers, plain modules; each shown data as it was trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untaught.config.registry import build_encoder, build_random_init, modality_named
from untaught.core import Encoder, Modality, Options, UserError
from untaught.pipeline.pretrained import load_encoder
from untaught.pipeline.view_pipeline import Views
from untaught.storage.run_dir import read_run, seed_of
from untaught.storage.safe_load import read_json

WIDEST = 4096  # pixels of a side that a model may ask for
ALLOWED = "a run folder, an encoder folder, timm/NAME, timm/NAME=WEIGHTS, transformers/NAME or a folder of either"


@dataclass
class EvaluatedModel:
    """A network and how it is shown data. `layout` and `statistics` are those that it was trained with, None for "as the data is"."""

    name: str
    modality: Modality
    build: Callable[[Options], Encoder]  # layout of the data -> the network
    untrained: Callable[[Options], Encoder | None]  # the same network, drawn anew; None where that can't be done
    view: str = "whole"
    layout: Options | None = None
    size: int | None = None
    statistics: Options | None = None
    run: Path | None = None  # the run folder that it is of
    brought: Options = field(default_factory=dict)  # of the layout, what it brings along where data are read for it, as a tokenizer

    def shown(self, layout: Options, statistics: Options, names: tuple[str, ...]) -> Views:
        """The views `names` of material of this layout, in the size and the normalisation that this network knows."""
        own = self.modality.presets(self.layout or layout)
        size = {"size": self.size} if self.size else {}
        options = [own[name] | (size if name == self.view or name == "global" else {}) for name in names]
        normal = self.statistics or statistics
        channels = self.modality.input(layout).get("channels")
        if channels and len(normal["mean"]) != channels:  # a network for colours whose first layer was made to fit
            normal = {key: [sum(values) / len(values)] * channels for key, values in normal.items()}
        return Views(names, self.modality, options, normal, seed=0)


def open_model(target: Any, modality: str = "image") -> EvaluatedModel:
    """A name, a folder, a module, or (encoder, config, folder) of a run in memory. Raises UserError, saying what is allowed."""
    if isinstance(target, tuple):
        encoder, config, folder = target
        return _ours(encoder, config, folder, str(folder))
    if isinstance(target, nn.Module):
        return _module(target, modality_named(modality))
    text = str(target)
    if not text.strip():
        raise UserError(f"an empty name of an encoder was given; allowed: {ALLOWED}")
    family, _, rest = text.partition("/")
    if family == "timm" and rest and not Path(text).exists():
        return _timm(rest, modality_named(modality))
    if family == "transformers" and rest and not Path(text).exists():
        return _transformers(rest, modality_named(modality))
    path = Path(text).expanduser()
    if not path.exists():
        raise UserError(f"{text} is not there; allowed: {ALLOWED}")
    if "modality" not in (said := _said(path)) and not (path / "encoder").is_dir():
        if "model_type" in said:
            return _transformers(text, modality_named(modality))
        if "architecture" in said:
            return _timm(f"local-dir:{text}", modality_named(modality))
    return _ours(*load_encoder(path), path, text)


def _said(folder: Path) -> Options:
    try:
        found = read_json(folder / "config.json", None)
        return found if isinstance(found, dict) else {}
    except UserError:
        return {}  # load_encoder says what is wrong


def _ours(encoder: Encoder, config: Options, folder: Path, name: str = "encoder") -> EvaluatedModel:
    modality = modality_named(config["modality"])
    run = next((place for place in (folder, folder.absolute().parent) if (place / "run.yaml").exists()), None)
    seed = seed_of(read_run(run / "run.yaml")) if run else 0

    def untrained(layout: Options) -> Encoder | None:
        if config["encoder"].startswith("module:"):
            return drawn_anew(encoder, seed)
        return random_init_encoder(config["encoder"], modality.input(config["layout"]), config["encoder_knobs"], seed)

    layout = config["layout"]
    view = config["view"]
    return EvaluatedModel(name, modality, lambda _: encoder, untrained, view, layout, layout.get("size"), config["statistics"], run)


def random_init_encoder(encoder: str, given: Options, knobs: Options, seed: int) -> Encoder:
    """The encoder of this name as a run with this seed begins, without pretrained weights."""
    torch.manual_seed(seed)
    return build_random_init(encoder, given, knobs).eval()


def drawn_anew(encoder: Encoder, seed: int) -> Encoder | None:
    """A copy with every weight drawn again by its module's reset_parameters; None where a weight has no such way."""
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
    build = lambda layout: build_encoder(module, modality.input(layout), {}).eval()  # noqa: E731
    return EvaluatedModel(type(module).__name__, modality, build, lambda layout: drawn_anew(build(layout), 0))


def _timm(name: str, modality: Modality) -> EvaluatedModel:
    from untaught.encoders.timm import shown_as

    name, _, file = name.partition("=")
    size, statistics = _shown(f"timm/{name}", lambda: shown_as(name))

    def build(layout: Options) -> Encoder:
        given = modality.input(layout) | {"size": size}
        return build_encoder(f"timm/{name}", given, {"stem": "original", "weights": file or "pretrained"}).eval()

    def untrained(layout: Options) -> Encoder | None:
        if name.startswith("local-dir:"):
            return drawn_anew(build(layout), 0)
        return random_init_encoder(f"timm/{name}", modality.input(layout) | {"size": size}, {"stem": "original"}, 0)

    return EvaluatedModel(f"timm/{name}", modality, build, untrained, size=size, statistics=statistics)


def _transformers(name: str, modality: Modality) -> EvaluatedModel:
    if brought := modality.expects(f"transformers/{name}"):
        return _with_own_files(name, modality, brought)
    from untaught.encoders.transformers import shown_as, transformers_encoder

    size, statistics = _shown(f"transformers/{name}", lambda: shown_as(name))

    def build(layout: Options, pretrained: bool = True) -> Encoder:
        given = modality.input(layout)
        if "channels" not in given:
            raise UserError(f"transformers/{name} is measured as a model of images, no data of {', '.join(given)}; measure a run of it")
        return transformers_encoder(name, channels=given["channels"], size=size, pretrained=pretrained).eval()

    untrained = lambda layout: _seeded(lambda: build(layout, pretrained=False))  # noqa: E731
    return EvaluatedModel(f"transformers/{name}", modality, build, untrained, size=size, statistics=statistics)


def _with_own_files(name: str, modality: Modality, brought: Options) -> EvaluatedModel:
    """A checkpoint by whose own files (a tokenizer) raw data are read."""

    def given(layout: Options) -> Options:
        assert modality.learn is not None
        own, _ = modality.learn((), {**layout, **brought})
        if any(own[key] != layout[key] for key in brought):
            what = " and ".join(brought)
            raise UserError(f"transformers/{name} has another {what} than the data are read with; evaluate it by itself, or a run of it")
        return modality.input(layout)

    build = lambda layout: build_encoder(f"transformers/{name}", given(layout), {}).eval()  # noqa: E731
    untrained = lambda layout: random_init_encoder(f"transformers/{name}", given(layout), {}, 0)  # noqa: E731
    return EvaluatedModel(f"transformers/{name}", modality, build, untrained, brought=brought)


def _seeded(make: Callable[[], Encoder]) -> Encoder:
    torch.manual_seed(0)
    return make()


def _shown(name: str, shown_as: Callable[[], Options]) -> tuple[int, Options]:
    """The side of the images, and the mean and deviation of their channels, that a model's own files say."""
    try:
        said = shown_as()
        size, statistics = int(said["size"]), {key: [float(value) for value in said[key]] for key in ("mean", "std")}
        numbers = [size, *statistics["mean"], *statistics["std"]]
        possible = all(map(math.isfinite, numbers)) and 0 < size <= WIDEST and min(statistics["std"]) > 0
    except UserError:
        raise
    except Exception as error:  # whatever was written there
        raise UserError(f"{name} does not say in numbers how images are shown to it; mend its config.json") from error
    if not possible or len(statistics["mean"]) != len(statistics["std"]):
        raise UserError(f"{name} wants images of size {size} with {statistics}, which can't be; mend its config.json")
    return size, statistics
