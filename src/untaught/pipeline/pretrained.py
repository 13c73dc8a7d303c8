"""The run folder: the unit that everything else takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from untaught.config.registry import build_random_init, modality_named
from untaught.core import Encoder, Modality, Options, UserError
from untaught.encoders.offline import offline
from untaught.pipeline.preprocessor import adopt, files_of, write_files
from untaught.pipeline.view_pipeline import convolves, used_view
from untaught.storage.atomic import whole
from untaught.storage.finite import check_finite_weights
from untaught.storage.run_dir import plain
from untaught.storage.safe_load import check_finite, check_kinds, read_json
from untaught.storage.safe_open import checked_file, checked_folder, inside

N = TypeVar("N", bound=nn.Module)
ENCODER_SCHEMA = 1
KINDS: dict[str, Any] = {  # what it takes of config.json to build an encoder and to feed it
    **dict.fromkeys(("modality", "encoder", "view"), str),
    **dict.fromkeys(("encoder_knobs", "layout", "statistics"), dict),
}
# What a run writes into its folder: where another file has such a name, no run begins.
# Knobs that read or fetch.
ELSEWHERE = {"weights", "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


def save_encoder(encoder: Encoder, folder: Path, config: Options) -> Options:
    """encoder/: weights, and how to build and feed it -> its config. What timm defines is written as timm reads it."""
    preprocessing = modality_named(config["modality"]).preprocessing(config["layout"], config["statistics"])
    config = {**config, "width": encoder.width, "preprocessing": preprocessing, **_for_timm(encoder, preprocessing)}
    if origin := getattr(encoder, "origin", None):
        config = {**config, **origin}
    if foreign := getattr(encoder, "foreign_config", None):
        config = {**foreign(), **config}
    files = modality_named(config["modality"]).kept(config["layout"])
    save_network(_network(encoder, config), folder, config, {name: content.decode() for name, content in files.items()})
    return config


def save_hf_model(model: Any, folder: Path, modality: Modality, layout_of: Path) -> None:
    """method/: a library's model with its heads, as that library saves it, with the files of the layout beside it."""
    with whole(folder) as partial:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        write_files(files_of(modality, layout_of), partial)


def save_network(network: nn.Module, folder: Path, config: Options, beside: dict[str, str] | None = None) -> None:
    """model.safetensors, config.json and the texts `beside` them by name, replaced as one."""
    weights = {name: value.detach().cpu().contiguous() for name, value in once_each(network).items()}
    with whole(folder) as partial:
        partial.mkdir(parents=True)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        texts = {"config.json": json.dumps({"schema": ENCODER_SCHEMA, **plain(config)}, indent=2), **(beside or {})}
        for name, text in texts.items():
            (partial / name).write_text(text, "utf-8")


def once_each(network: nn.Module) -> dict[str, Tensor]:
    """The network's state without what it holds again under another name, as BART its embedding: the first name stands for all."""
    state = network.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(state.items())}
    return {name: value for name, value in state.items() if first[id(value)] == name}


def _for_timm(encoder: Encoder, preprocessing: Options) -> Options:
    """What `timm.create_model("local-dir:FOLDER", pretrained=True)` reads, where timm alone can build the encoder; else nothing."""
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
    """Whose weights the folder holds: timm's own model where timm can load them, else the encoder."""
    return encoder.model if "architecture" in config or "model_type" in config else encoder


def encoder_folder(path: Path) -> Path:
    """encoder/ of a run folder, or the folder itself. Raises UserError where encoder/ is a link that leads out of the run."""
    if not (path / "encoder").is_dir():
        return path
    inside(path / "encoder", path)
    return path / "encoder"


def load_encoder(path: Path) -> tuple[Encoder, Options]:
    """The encoder of a run folder or of its encoder/, in eval mode, and its config."""
    folder = encoder_folder(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run folder, or its encoder folder")
    if not (folder / "config.json").exists() or not (folder / "model.safetensors").exists():
        raise UserError(f"{path} holds no encoder (config.json and model.safetensors); give a run folder whose training has ended")

    def bare(encoder: Encoder, config: Options) -> Encoder:
        if "task" in config:
            raise UserError(f"{folder} holds a fine-tuned model, no bare encoder; give the run that it came from, or use untaught predict")
        return encoder

    encoder, config = load_network(folder, bare, path)
    assert isinstance(encoder, Encoder)
    return encoder, config


def load_network(folder: Path, finish: Callable[[Encoder, Options], nn.Module], within: Path | None = None) -> tuple[nn.Module, Options]:
    """What `finish` makes of the encoder that config.json describes, with model.safetensors as its weights, in eval mode; the config.

    The folder may come from anyone: nothing outside of it (or of `within`, the run that it is of) is read or downloaded, and nothing in
    it is run.
    """
    within = within or folder
    config = read_json(folder / "config.json", within)
    if not KINDS.keys() <= set(config if isinstance(config, dict) else ()):
        raise UserError(f"{folder} holds a model that is none of untaught's encoders: its config.json names no modality and no view")
    where = f"{folder} can't be loaded: in its config.json"
    check_kinds(config, KINDS, where)
    check_finite({key: config[key] for key in ("layout", "statistics", "encoder_knobs")}, where)
    if config["encoder"].startswith("module:"):
        raise UserError(f"{folder} holds the weights of {config['encoder'][7:]}, a module of your own: load them into it")
    elsewhere = sorted(ELSEWHERE & config["encoder_knobs"].keys())
    if elsewhere or ":" in config["encoder"]:
        raise UserError(
            f"{folder} can't be loaded: its config.json points out of the folder ({', '.join(elsewhere) or config['encoder']}); "
            "an encoder brings its own weights and names an architecture"
        )
    if config["encoder"].startswith("transformers/"):  # its shape is in the folder: the checkpoint that it began as is not asked
        if "model_type" not in config:
            raise UserError(f"{folder} can't be loaded: its config.json points out of the folder ({config['encoder']})")
        checked_folder(folder, within)
        config = {**config, "encoder": f"transformers/{folder}"}
    modality = modality_named(config["modality"])
    try:
        adopt(modality, config["layout"], folder, within)
        used_view(modality, config["layout"], config["view"], config["statistics"])
        modality.preprocessing(config["layout"], config["statistics"])
        weights = load_file(checked_file(folder / "model.safetensors", within))
        check_finite_weights(weights, "it")
        with offline():
            _check_size(config, finish, weights)
            network = finish(build_from(config), config)
        try:
            into = _network(network, config)
            into.load_state_dict(weights, strict=False)
            if once_each(into).keys() != weights.keys():
                raise RuntimeError("others are missing, or too many")
        except RuntimeError as error:  # it lists every name
            raise UserError(f"{folder} can't be loaded: its weights are not those of {config['encoder']} as config.json has it") from error
    except UserError as error:
        raise UserError(str(error) if str(folder) in str(error) else f"{folder} can't be loaded: {error}") from error
    except Exception as error:  # any of a dozen ways in which a folder can be damaged
        raise UserError(f"{folder} can't be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    return for_inference(network), config


def for_inference(network: N) -> N:
    """In eval mode, and in the memory format that is fastest for it."""
    if convolves(network):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def _check_size(config: Options, finish: Callable[[Encoder, Options], nn.Module], weights: dict[str, Tensor]) -> None:
    """A config.json must not ask for more memory than its weights are: the network is first built without any."""
    try:
        with torch.device("meta"):
            empty = _network(finish(build_from(config), config), config)
    except NotImplementedError:  # a model that computes with its weights while it is built
        return
    shapes = {name: tuple(value.shape) for name, value in once_each(empty).items()}
    if shapes != {name: tuple(value.shape) for name, value in weights.items()}:
        raise UserError(f"its weights are not those of {config['encoder']} as config.json has it")


def build_from(config: Options) -> Encoder:
    """The encoder that a config.json describes, with weights drawn anew."""
    return build_random_init(config["encoder"], modality_named(config["modality"]).input(config["layout"]), config["encoder_knobs"])
