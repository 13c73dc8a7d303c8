"""Saving and loading encoders of run folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from untaught.config.overrides import parse
from untaught.config.registry import build_random_init, modality_named
from untaught.core import Encoder, Files, Options, Preprocessor, UserError
from untaught.encoders.offline import offline
from untaught.pipeline.preprocessor import load, save_files
from untaught.pipeline.view_pipeline import convolves, used_view
from untaught.storage.atomic import replacing
from untaught.storage.finite import check_finite_weights
from untaught.storage.run_dir import plain
from untaught.storage.safe_load import check_finite, check_kinds, read_json
from untaught.storage.safe_open import checked_file, checked_folder, inside

N = TypeVar("N", bound=nn.Module)
ENCODER_SCHEMA = 1
KINDS: dict[str, Any] = {  # required entries of config.json, with their types
    **dict.fromkeys(("modality", "encoder", "view"), str),
    **dict.fromkeys(("encoder_knobs", "layout", "statistics"), dict),
}
# Knobs that read files or download.
ELSEWHERE = {"weights", "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


class Pretrained(NamedTuple):
    """A network in eval mode, its config.json, and the preprocessor it was trained with."""

    network: Any  # an Encoder, or the network of a fine-tuned model
    config: Options
    prep: Preprocessor


def save_encoder(encoder: Encoder, folder: Path, config: Options, prep: Preprocessor) -> Options:
    """Writes encoder/ (weights, architecture, preprocessing) -> its config. timm models are written in timm's format."""
    preprocessing = prep.modality.export(prep)
    config = {**config, **described(prep)}
    config = {**config, "width": encoder.width, "preprocessing": preprocessing, **_for_timm(encoder, preprocessing)}
    if origin := getattr(encoder, "origin", None):
        config = {**config, **origin}
    if foreign := getattr(encoder, "foreign_config", None):
        config = {**foreign(), **config}
    foreign_files = getattr(encoder, "foreign_files", dict)
    save_network(_network(encoder, config), folder, config, {**prep.files, **foreign_files()})
    return config


def save_encoders(
    encoders: Mapping[str, Encoder], heads: Mapping[str, nn.Module], folder: Path, configs: Mapping[str, Options], prep: Preprocessor
) -> dict[str, Options]:
    """Writes encoder/ of a method with several encoders: one folder per role, as by `save_encoder`; config.json with the roles; and
    model.safetensors with the heads that project into the shared space -> the configs by role."""
    with replacing(folder) as partial:
        partial.mkdir(parents=True)
        saved = {role: save_encoder(encoder, partial / role, configs[role], prep.part(role)) for role, encoder in encoders.items()}
        weights = {name: value.detach().cpu().contiguous() for name, value in nn.ModuleDict(heads).state_dict().items()}
        if weights:
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        about = {"schema": ENCODER_SCHEMA, "roles": list(encoders)}
        (partial / "config.json").write_text(json.dumps(about, indent=2), "utf-8")
    return saved


def roles_in(path: Path) -> tuple[str, ...]:
    """The roles in a run folder, or its encoder/, with several encoders; () if it holds one or none."""
    folder = encoder_folder(path)
    if not (folder / "config.json").exists():
        return ()
    roles = config.get("roles") if isinstance(config := read_json(folder / "config.json", path), dict) else None
    named = isinstance(roles, list) and all(isinstance(role, str) and role.isidentifier() for role in roles)
    return tuple(roles) if named else ()  # type: ignore[arg-type]


def load_encoders(path: Path) -> tuple[dict[str, Pretrained], dict[str, nn.Linear]]:
    """The encoders of such a run and their heads into the shared space, by role, in eval mode. Raises UserError."""
    folder = encoder_folder(path)
    models = {role: load_encoder(folder / role) for role in roles_in(path)}
    try:
        weights = load_file(checked_file(folder / "model.safetensors", path))
        check_finite_weights(weights, f"{folder}")
        heads = {role: linear({"weight": weights[f"{role}.weight"]}) for role in models}
        if any(head.in_features != models[role].network.width for role, head in heads.items()):
            raise ValueError("head widths do not match the encoders")
    except UserError:
        raise
    except Exception as error:  # damaged, or of another method
        raise UserError(f"{folder} has no heads into a shared space of {' and '.join(models)}; copy the whole folder") from error
    return models, {role: head.eval() for role, head in heads.items()}


def linear(state: Mapping[str, Tensor]) -> nn.Linear:
    """The linear layer without bias with this state."""
    outputs, inputs = state["weight"].shape
    head = nn.Linear(inputs, outputs, bias=False)
    head.load_state_dict(state)
    return head


def described(prep: Preprocessor) -> Options:
    """The preprocessor's entries of config.json and run.yaml; its files are saved in the same folder."""
    return {"modality": prep.modality.name, "layout": prep.settings, "statistics": prep.statistics}


def save_hf_model(model: Any, folder: Path, files: Files) -> None:
    """Writes method/: a library's model with its heads, as the library saves it, and the preprocessor's files."""
    with replacing(folder) as partial:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        save_files(files, partial)


def save_network(network: nn.Module, folder: Path, config: Options, beside: Files | None = None) -> None:
    """Writes model.safetensors, config.json and the files in `beside` (by name), replacing the folder atomically."""
    write_network(once_each(network), folder, config, beside)


def write_network(state: Mapping[str, Tensor], folder: Path, config: Options, beside: Files | None = None) -> None:
    """As `save_network`, from the state of a network without tied weights."""
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(folder) as partial:
        partial.mkdir(parents=True)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps({"schema": ENCODER_SCHEMA, **plain(config)}, indent=2), "utf-8")
        save_files(beside or {}, partial)


def once_each(network: nn.Module) -> dict[str, Tensor]:
    """The network's state without tied weights' further names (e.g. BART's embedding): the first name is kept."""
    state = network.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(state.items())}
    return {name: value for name, value in state.items() if first[id(value)] == name}


def _for_timm(encoder: Encoder, preprocessing: Options) -> Options:
    """What `timm.create_model("local-dir:FOLDER", pretrained=True)` reads, if timm alone can build the encoder; else empty."""
    made = getattr(encoder, "timm_args", None)
    if made is None:
        return {}
    own = {"num_classes": 0, "classifier": made["classifier"], "first_conv": None, "fixed_input_size": "img_size" in made["model_args"]}
    return {
        "architecture": made["architecture"],
        "num_classes": 0,
        "num_features": encoder.width,
        "model_args": made["model_args"],
        "pretrained_cfg": {**preprocessing, **own},
    }


def _network(encoder: Any, config: Options) -> nn.Module:
    """The module whose weights the folder holds: the timm or transformers model if that library can load them, else the encoder."""
    return encoder.model if "architecture" in config or "model_type" in config else encoder


def encoder_folder(path: Path) -> Path:
    """encoder/ of a run folder, or the folder itself. Raises UserError if encoder/ is a link that leads out of the run."""
    if not (path / "encoder").is_dir():
        return path
    inside(path / "encoder", path)
    return path / "encoder"


def load_encoder(path: Path) -> Pretrained:
    """The encoder of a run folder or of its encoder/, in eval mode. Raises UserError."""
    folder = encoder_folder(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run folder, or its encoder folder")
    if roles := roles_in(path):
        raise UserError(f"{path} holds several encoders: {' and '.join(roles)}; give {' or '.join(str(folder / role) for role in roles)}")
    if not (folder / "config.json").exists() or not (folder / "model.safetensors").exists():
        raise UserError(f"{path} holds no encoder (config.json and model.safetensors); give the folder of a finished run")

    def bare(encoder: Encoder, config: Options) -> Encoder:
        if "task" in config:
            raise UserError(
                f"{folder} holds a fine-tuned model, not an encoder; give the run it was fine-tuned from, or use untaught predict"
            )
        return encoder

    return load_network(folder, bare, path)


def load_network(folder: Path, finish: Callable[[Encoder, Options], nn.Module], within: Path | None = None) -> Pretrained:
    """Builds the encoder that config.json describes, applies `finish`, and loads model.safetensors; in eval mode.

    The folder is untrusted: nothing outside it (or outside `within`, its run folder) is read, nothing is downloaded, and no code in it
    is executed.
    """
    within = within or folder
    config = read_json(folder / "config.json", within)
    if not KINDS.keys() <= set(config if isinstance(config, dict) else ()):
        raise UserError(f"{folder} does not hold an untaught encoder: its config.json has no modality and view")
    where = f"{folder} can't be loaded: in its config.json"
    check_kinds(config, KINDS | {"encoder_arguments": dict}, where)
    check_finite({key: config[key] for key in ("layout", "statistics", "encoder_knobs", "encoder_arguments") if key in config}, where)
    if config["encoder"].startswith("module:"):
        raise UserError(f"{folder} holds the weights of your own module {config['encoder'][7:]}: load them with load_state_dict")
    elsewhere = sorted(ELSEWHERE & config["encoder_knobs"].keys())
    if elsewhere or ":" in config["encoder"]:
        raise UserError(
            f"{folder} can't be loaded: its config.json points out of the folder ({', '.join(elsewhere) or config['encoder']}); "
            "an encoder folder must contain its weights and name an architecture"
        )
    if config["encoder"].startswith("transformers/"):  # its architecture is in the folder; the original checkpoint is not needed
        if "model_type" not in config:
            raise UserError(f"{folder} can't be loaded: its config.json points out of the folder ({config['encoder']})")
        checked_folder(folder, within)
        config = {**config, "encoder": f"transformers/{folder}"}
    modality = modality_named(config["modality"])
    try:
        prep = load(modality, config["layout"], config["statistics"], folder, within)
        used_view(prep, config["view"])
        modality.export(prep)
        weights = load_file(checked_file(folder / "model.safetensors", within))
        check_finite_weights(weights, "it")
        with offline():
            _check_size(config, prep, finish, weights)
            network = finish(build_from(config, prep), config)
        try:
            into = _network(network, config)
            into.load_state_dict(weights, strict=False)
            if once_each(into).keys() != weights.keys():
                raise RuntimeError("missing or unexpected weights")
        except RuntimeError as error:  # whose message lists every name
            raise UserError(f"{folder} can't be loaded: its weights do not match {config['encoder']} as in config.json") from error
    except UserError as error:
        raise UserError(str(error) if str(folder) in str(error) else f"{folder} can't be loaded: {error}") from error
    except Exception as error:  # a damaged folder can fail in many ways
        raise UserError(f"{folder} can't be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    return Pretrained(for_inference(network), config, prep)


def for_inference(network: N) -> N:
    """The network in eval mode and in its fastest memory format."""
    if convolves(network):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def _check_size(config: Options, prep: Preprocessor, finish: Callable[[Encoder, Options], nn.Module], weights: dict[str, Tensor]) -> None:
    """Raises UserError if config.json would allocate more than the weights need: the network is first built on the meta device."""
    try:
        with torch.device("meta"):
            empty = _network(finish(build_from(config, prep), config), config)
    except NotImplementedError:  # a model whose constructor computes with its weights
        return
    shapes = {name: tuple(value.shape) for name, value in once_each(empty).items()}
    if shapes != {name: tuple(value.shape) for name, value in weights.items()}:
        raise UserError(f"its weights do not match {config['encoder']} as in config.json")


def build_from(config: Options, prep: Preprocessor) -> Encoder:
    """The encoder that a config.json describes, at random init."""
    given = prep.encoder_arguments
    trained = config.get("encoder_arguments", given)  # of a network used at another size than in pretraining
    if trained.keys() != given.keys() or any(type(trained[key]) is not type(given[key]) for key in given):
        raise UserError(f"its encoder_arguments are {str(trained)[:60]}; {', '.join(given)} are needed, as in its layout")
    return build_random_init(config["encoder"], trained, config["encoder_knobs"])


def resized(model: Pretrained, knobs: Options) -> tuple[Pretrained, Options]:
    """The model, to be used with the knobs that are settings of its input, such as size=128 -> it, and the other knobs.

    Raises UserError where the encoder takes only inputs as in pretraining.
    """
    encoder, config, prep = model
    own = {key: value for key, value in knobs.items() if key in prep.modality.resized}
    if not own:
        return model, knobs
    if "any_size" not in encoder.offers:
        raise UserError(f"{next(iter(own))}: {config['encoder']} takes only {prep.modality.noun} as in pretraining; leave it out")
    settings = prep.settings
    for key, value in own.items():
        settings = prep.modality.resized[key](settings, parse(key, value, prep.modality.knobs[key]))
    changed = {**config, "layout": settings, "encoder_arguments": prep.encoder_arguments}
    others = {key: value for key, value in knobs.items() if key not in own}
    return Pretrained(encoder, changed, replace(prep, settings=settings)), others


def extended(model: Pretrained, prep: Preprocessor, seed: int) -> Pretrained:
    """The model for data with other columns, as `prep` describes them: weights of shared columns as trained, of new ones drawn by seed."""
    torch.manual_seed(seed)
    fresh = build_from(model.config, prep)
    fresh.adopt(model.network)
    return Pretrained(for_inference(fresh), {**model.config, "layout": prep.settings}, prep)
