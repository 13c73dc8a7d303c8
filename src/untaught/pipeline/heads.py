"""heads/ of a run folder: the parts of a method that are not exported with its encoders, for answering its pretext task later."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from untaught.config.footprint import sized
from untaught.config.overrides import method_knobs
from untaught.config.registry import method_class
from untaught.core import Batch, Encoder, Facts, Method, Options, Preprocessor, UserError
from untaught.pipeline.pretrained import Pretrained, load_encoder, write_network
from untaught.pipeline.view_pipeline import Views, view_names, view_options
from untaught.storage.finite import check_finite_weights
from untaught.storage.safe_load import check_kinds, read_json
from untaught.storage.safe_open import checked_file

FOLDER = "heads"
KINDS: dict[str, Any] = {"method": str, "knobs": dict, "rows": int, "views": list}  # entries of config.json


class Heads(NamedTuple):
    """A trained method's encoder and what is needed to rebuild the method around it."""

    encoder: Pretrained
    cls: type[Method]
    config: Options
    weights: dict[str, Tensor]

    def views(self, prep: Preprocessor, seed: int) -> Views:
        """The method's views as in training, without random augmentation. seed: of what is still drawn, such as masks."""
        names = tuple(view["name"] for view in self.config["views"])
        chosen = {f"view{i}.{key}": value for i, view in enumerate(self.config["views"]) for key, value in view.items() if key != "name"}
        view_names(self.cls, prep.modality, names)
        return Views(names, prep, view_options(names, prep, chosen), seed).unaugmented(seed)

    def build(self, batch: Batch, views: Views) -> Method:
        """The method in eval mode, built as for training. batch: a few samples. Raises UserError if its weights do not fit."""
        try:
            return self._build({key: value[:2] for key, value in batch.items()}, views).eval()
        except UserError as error:
            raise UserError(f"{FOLDER}/ can't be used: {error}") from error
        except Exception as error:  # a damaged folder can fail in many ways
            raise UserError(f"{FOLDER}/ can't be used: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error

    def _build(self, few: Batch, views: Views) -> Method:
        facts = Facts(self.config["rows"], dict(zip(views.names, views(few, 0), strict=True)), views.prep.statistics)
        encoder = copy.deepcopy(self.encoder.network)  # which becomes the student's where a teacher's is exported
        construct: Any = self.cls
        make = partial(construct, encoder, facts, **method_knobs(self.cls, self.config["knobs"]))
        method: Method = sized(make, f"the method {self.config['method']}")
        exported = self.encoder.network.state_dict()
        own = {f"{prefix}.{name}": value for prefix in _exported(method) for name, value in exported.items()}
        try:
            method.load_state_dict(own | self.weights)
        except RuntimeError as error:  # whose message lists every name
            raise UserError(f"its weights do not match {self.config['method']} as in its config.json") from error
        return method


def usable(cls: type[Method]) -> bool:
    """Whether something can be done with the heads of a method once it is trained."""
    return bool(cls.answers or cls.generates or cls.prototype_scores is not Method.prototype_scores) and len(cls.roles()) == 1


def save_heads(method: Method, state: Mapping[str, Tensor], path: Path, config: Options) -> None:
    """Writes heads/ of a run folder. state: the method's, with full weights if it is sharded."""
    own = tuple(f"{prefix}." for prefix in _exported(method))
    weights = {name: value for name, value in state.items() if not name.startswith(own)}
    write_network(weights, path / FOLDER, config)


def holds_heads(path: Path) -> bool:
    """Whether it is a run folder with heads/."""
    return (path / FOLDER / "config.json").exists()


def load_heads(run: Path) -> Heads:
    """The heads in a run folder, and the encoder beside them. The folder is untrusted: see `load_network`. Raises UserError."""
    folder = run / FOLDER
    config = read_json(folder / "config.json", run)
    where = f"{folder} can't be loaded: in its config.json"
    if not isinstance(config, dict) or not config.keys() >= KINDS.keys():
        raise UserError(f"{where} {', '.join(KINDS)} are required")
    check_kinds(config, KINDS, where)
    if not config["views"] or not all(isinstance(view, dict) and isinstance(view.get("name"), str) for view in config["views"]):
        raise UserError(f"{where} views must have names")
    try:
        weights = load_file(checked_file(folder / "model.safetensors", run))
    except UserError:
        raise
    except Exception as error:  # damaged
        raise UserError(f"{folder} can't be loaded: {str(error).splitlines()[0]}") from error
    check_finite_weights(weights, f"{folder}")
    heads = Heads(load_encoder(run), method_class(config["method"]), config, weights)
    try:
        heads.views(heads.encoder.prep, 0)
    except UserError as error:
        raise UserError(f"{where} {error}") from error
    return heads


def _exported(method: Method) -> dict[str, Encoder]:
    """The exported encoders by their names within the method."""
    found = list(method.exported().values())
    return {name: module for name, module in method.named_modules() if any(module is one for one in found)}  # type: ignore[misc]
