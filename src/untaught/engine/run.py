"""The run folder: the unit that everything else takes."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from untaught.core import Encoder, Modality, Options, UserError
from untaught.encoders.offline import offline
from untaught.engine.build import build_untrained, modality_named
from untaught.engine.documents import check_finite, check_kinds, read_json, read_yaml
from untaught.engine.finite import check_finite_weights
from untaught.engine.foreign import checked_file, checked_folder, inside
from untaught.engine.learned import adopt, files_of, write_files
from untaught.engine.views import convolves, used_view
from untaught.engine.writing import disk_fault, whole, write_text

ENCODER_SCHEMA = 1
KINDS: dict[str, Any] = {  # what it takes of config.json to build an encoder and to feed it
    **dict.fromkeys(("modality", "encoder", "view"), str),
    **dict.fromkeys(("encoder_knobs", "layout", "statistics"), dict),
}
# What a run writes into its folder: where another file has such a name, no run begins.
OWN = ("metrics.jsonl", "plans.jsonl", "checkpoints", "encoder", "method", "evaluation.json", "report.html", "sample.npz", "views.png")
# Knobs that read or fetch.
ELSEWHERE = {"weights", "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


class Folder:
    """runs/NAME: run.yaml, metrics.jsonl, checkpoints/, encoder/. Held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Any = None
        self._made: list[Path] = []  # folders, the innermost first

    def hold(self, fresh: bool) -> None:
        """Creates the folder and locks it; the lock goes when the process does. fresh: it may hold neither a run nor a file named as one of
        a run's."""
        try:
            self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _open_lock(self.path / ".lock")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip()
            raise UserError(f"{self.path} is in use by process {owner}; wait for it, or choose another --out") from None
        except OSError as error:
            raise UserError(f"{self.path} can't be written: {disk_fault(error, self.path)}; choose another --out") from error
        if fresh and self.begun:
            self.release()
            raise UserError(f"{self.path} already holds a run; go on with it with --resume, or choose another --out")
        if fresh and (taken := [name for name in OWN if os.path.lexists(self.path / name)]):
            self.release()
            raise UserError(f"{self.path} holds no run, but {taken[0]}, which a run would replace; choose another --out")

    def release(self) -> None:
        """Lets others in; of a run that never began nothing is left, but the folders that were there before."""
        if self._lock:
            if not self.begun:
                (self.path / ".lock").unlink(missing_ok=True)
                with suppress(OSError):  # it holds something else
                    for place in self._made:
                        place.rmdir()
            self._lock.close()
            self._lock = None

    @property
    def begun(self) -> bool:
        return (self.path / "run.yaml").exists()

    def write(self, asked: Options) -> None:
        write_run(self.path / "run.yaml", asked)

    def read(self) -> Options:
        return read_run(self.path / "run.yaml")


def _open_lock(path: Path) -> Any:
    """The file, opened to be locked and written; what is no file of its own, as a link to another, makes room for one."""
    with suppress(FileNotFoundError):
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            path.unlink()
    return open(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))


def free_path(path: Path) -> Path:
    """The path, with a number where it is taken."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


RUN: dict[str, Any] = {  # what others read of run.yaml, and of what kind it must be
    "data": str | list,  # one name or several
    **dict.fromkeys(("method", "modality"), str),
    **dict.fromkeys(("encoder", "label", "split"), str | None),
    **dict.fromkeys(("knobs", "layout", "resolved", "statistics"), dict),
    "columns": dict | None,
    **dict.fromkeys(("fingerprint", "contents"), str | None),  # of the data; contents: of the store, if one was packed
}
RESOLVED: dict[str, Any] = {**dict.fromkeys(("method", "encoder", "loop"), dict), "views": list}


def read_run(path: Path, named: bool = False) -> Options:
    """run.yaml, whole enough to be gone on with, repeated and reported. named: by the user, so that it may be a link. Raises UserError."""
    run = read_yaml(path, None if named else path.parent)
    missing = {"data", "method", "encoder", "knobs", "layout", "resolved"} - set(run if isinstance(run, dict) else ())
    if missing:
        raise UserError(f"{path} is no run file: it has no {sorted(missing)[0]}")
    check_kinds(run, RUN, f"{path} is no run file: its")
    check_kinds(run["resolved"], RESOLVED, f"{path} is no run file: its resolved")
    check_kinds(run["resolved"].get("loop", {}), {"seed": int, "minutes": int | float | None}, f"{path} is no run file: its loop's")
    if isinstance(run["data"], list) and not (run["data"] and all(isinstance(name, str) for name in run["data"])):
        raise UserError(f"{path} is no run file: its data is a list, but not of names")
    if not all(isinstance(key, str) for key in run["knobs"]):
        raise UserError(f"{path} is no run file: its knobs have names that are no text")
    if not all(isinstance(view, dict) for view in run["resolved"].get("views", ())):
        raise UserError(f"{path} is no run file: its resolved views are of another kind than they must be")
    return {"modality": "image", "columns": None, "label": None, "split": None, **run}


def write_run(path: Path, run: Options) -> None:
    write_text(path, yaml.safe_dump(_plain(run), sort_keys=False, allow_unicode=True))


def data_of(run: Options, folder: Path) -> str | list[str]:
    """The data that a run was trained on, to be read again; a UserError where it was in memory, or would be fetched unasked.

    Who reads it compares it with what the run says: it may have changed, and runs of older versions keep relative paths.
    """
    for name in run["data"] if isinstance(run["data"], list) else [run["data"]]:
        if name.startswith("in memory: "):
            raise UserError(f"{folder} had its data from Python ({name}); give it again from there, or name some with --data")
        if name.startswith("hf:") or "://" in name:
            raise UserError(f"{folder} was trained on {name}, which is fetched only when you name it: --data {name}")
    return run["data"]


def name_of(run: Options) -> str:
    """The run's data as scores name it."""
    data = run.get("data", "")
    return data if isinstance(data, str) else ", ".join(data)


def seed_of(run: Options) -> int:
    return run["resolved"].get("loop", {}).get("seed", 0)


def _plain(value: Any) -> Any:
    """Tuples as lists, paths as text: what YAML and JSON can say."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value if isinstance(value, int | float | bool | type(None)) else str(value)


def save_encoder(encoder: Encoder, folder: Path, config: Options) -> None:
    """encoder/: weights, and how to build and feed it. What timm defines is written as timm reads it."""
    preprocessing = modality_named(config["modality"]).preprocessing(config["layout"], config["statistics"])
    config = {**config, "width": encoder.width, "preprocessing": preprocessing, **_for_timm(encoder, preprocessing)}
    if origin := getattr(encoder, "origin", None):
        config = {**config, **origin}
    if foreign := getattr(encoder, "foreign_config", None):
        config = {**foreign(), **config}
    files = modality_named(config["modality"]).kept(config["layout"])
    save_network(_network(encoder, config), folder, config, {name: content.decode() for name, content in files.items()})


def save_speaker(model: Any, folder: Path, modality: Modality, layout_of: Path) -> None:
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
        texts = {"config.json": json.dumps({"schema": ENCODER_SCHEMA, **_plain(config)}, indent=2), **(beside or {})}
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
    if convolves(network):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval(), config


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
    return build_untrained(config["encoder"], modality_named(config["modality"]).input(config["layout"]), config["encoder_knobs"])
