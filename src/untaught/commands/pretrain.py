"""A whole pretraining run: decide, say, train, score, keep."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import untaught
from untaught.config.footprint import check_views, sized
from untaught.config.overrides import knobs_of, parse, unknown
from untaught.config.registry import (
    MethodLike,
    build_encoder,
    check_needs,
    from_python,
    method_class,
    method_knobs,
    method_title,
    modality_named,
)
from untaught.config.train_config import Recipe
from untaught.console import console, say, size_text, warn
from untaught.core import Encoder, Facts, Files, Method, Modality, Options, UserError
from untaught.data.addresses import data_names
from untaught.data.stream import Stream
from untaught.distributed.launch import launch, started, to_launch
from untaught.distributed.process_group import ProcessGroup
from untaught.evaluation.evaluator import Scorer, merge_rows
from untaught.evaluation.models import untrained_encoder
from untaught.methods.composite import Hybrid
from untaught.pipeline import preprocessor as learned
from untaught.pipeline.dataset import Material, look, tell_skipped
from untaught.pipeline.pretrained import save_encoder, save_speaker
from untaught.pipeline.seen_rows import STREAMED, Known, keep_rows
from untaught.pipeline.view_pipeline import Views, check_padding, view_names, view_options
from untaught.report.samples import keep_sample, keep_views
from untaught.signals import Interrupted
from untaught.storage.run_dir import Folder, free_path, write_run
from untaught.training import checkpoint
from untaught.training.collapse import Health
from untaught.training.feature_pass import Survey
from untaught.training.optim import default_lr
from untaught.training.trainer import Fit
from untaught.training.validation import HeldOut, both

LENGTHS = ("epochs", "steps", "minutes")
PLACES = ("devices", "nodes")
MEASURES = (("effective_rank", 0), ("std", 2))  # of health that are said, and their digits
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


def pretrain(asked: Asked, resume: bool = False, finish: Callable[[Path], None] = lambda run: None) -> Path:
    """Runs it; returns the run folder. With `resume`, goes on from the newest whole checkpoint of asked.out, if there is one.

    `finish` is done with the trained run. More than one process is started here, unless torchrun or SLURM did, and waited for.
    """
    before, found = None, started()
    console.quiet = found is not None and found.rank > 0
    if found and found.again and asked.out is None:
        raise UserError("torchrun has started the run anew, which can't be found without its folder; give --out")
    resume = resume or bool(found and found.again)
    if resume and asked.out is None:
        raise UserError("--resume goes on with the run of --out; give both")
    asked_now, changes = asked, []
    if resume and asked.out and Folder(asked.out).begun:
        before = Folder(asked.out).read()
        asked, changes = _as_before(asked, before)
    elif resume and asked.data is None:
        raise UserError(f"{asked.out} holds no run to go on with; name the data to begin one")
    _check_at_hand(asked)
    cls = method_class(asked.chosen)
    modality = modality_named(asked.modality)
    sorted_knobs = sort_knobs(asked.knobs, cls, modality)
    recipe = Recipe(**sorted_knobs["loop"])
    names = view_names(cls, modality, sorted_knobs["views"])
    if processes := to_launch(recipe):
        return _elsewhere(asked_now, asked, resume, processes)
    for change in changes:
        say(change)

    group = ProcessGroup(recipe, cls.find_unused_parameters)
    folder = Folder(asked.out or group.broadcast(_free_name(asked)))
    group.on_rank_zero(lambda: folder.hold(fresh=before is None))
    try:
        path = _run(asked, folder, before, cls, modality, sorted_knobs, recipe, names, group)
        group.on_rank_zero(lambda: finish(path))
    except (KeyboardInterrupt, Interrupted) as stop:
        if getattr(stop, "when", "") is None:
            raise
        raise Interrupted(getattr(stop, "number", signal.SIGINT), _when(folder)) from stop
    finally:
        folder.release()
    return path


def _elsewhere(asked: Asked, whole: Asked, resume: bool, processes: int) -> Path:
    """The run, as so many processes of our own command. whole: with what a run gone on with was asked before."""
    for what, given in (("data", whole.data), ("method", whole.chosen), ("encoder", whole.encoder)):
        if given is not None and not isinstance(given, str | os.PathLike):
            advice = "save it as .npz and name the file" if what == "data" else "name one that is known"
            raise UserError(f"devices={processes}: the {what} from Python can't be sent to other processes; {advice}, or use torchrun")
    out = asked.out or _free_name(asked)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "run.yaml"
        said = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)}
        write_run(file, said | {"data": whole.data, "method": whole.chosen, "layout": {}, "resolved": {}})
        command = ["-m", "untaught.cli", "pretrain", "--from", str(file), "--out", str(out), *["--resume"] * resume]
        launch(command, processes)
    return out


def _when(folder: Folder) -> str:
    """When a run was interrupted, and how to go on."""
    if not folder.begun:
        return " before training began; nothing is kept"
    saved = checkpoint.steps(folder.path / "checkpoints")
    place = f"at step {saved[-1]}, saved" if saved else "before the first checkpoint"
    return f" {place}; go on with: untaught pretrain --out {folder.path} --resume"


def _run(
    asked: Asked,
    folder: Folder,
    before: Options | None,
    cls: type[Method],
    modality: Modality,
    knobs: dict[str, Any],
    recipe: Recipe,
    names: tuple[str, ...],
    group: ProcessGroup,
) -> Path:
    began = time.perf_counter()
    how: Options = {"columns": asked.columns, "label": asked.label, "split": asked.split}
    layout = before["layout"] if before else None
    if layout is not None:
        learned.adopt(modality, layout, folder.path)
    wishes = (modality.expects(asked.encoder) if isinstance(asked.encoder, str) else {}) | knobs["layout"]
    material = look_alike(asked.data, modality, how, wishes, layout, group)
    encoder_name = asked.encoder if asked.encoder is not None else modality.encoder_for(material.layout, cls.needs)
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(encoder_name, modality.input(material.layout), knobs["encoder"])
    check_needs(cls, encoder)
    options = view_options(names, modality, material.layout, knobs["view"])
    streams = group.on_rank_zero(
        lambda: material.open(recipe.stream, recipe.seed)
    )  # all that can be refused has been: packing may take an hour
    group.on_all_ranks(lambda: group.is_rank_zero or material.open(streams, recipe.seed))
    material.runs = modality.runs(options)
    if material.runs and material.store is None:
        raise UserError(f"the {modality.noun} are read as one stream of tokens, which needs them packed; give stream=false")
    recipe = decide(recipe, material, group)
    views = Views(names, modality, options, material.statistics, recipe.seed)
    views.fit_encoder(encoder)
    example = next(iter(material.training(recipe.batch_size or 1, recipe.seed).batches(0)))  # whole: the same in every process
    batches = material.training(recipe.batch_size or 1, recipe.seed, group.rank, group.size, group.fabric.device)
    two = views({key: value[:2] for key, value in example.items()}, 0)
    views.check_encoder(encoder, two, modality.presets(material.layout)[cls.whole])
    check_padding(cls, modality, names, two)
    check_views(two, (recipe.batch_size or 1) // recipe.accumulate // group.size)
    looks = cls.before_epoch is not Method.before_epoch
    if looks and material.store is None:
        raise UserError(f"{cls.__name__} looks at all samples before each epoch, and a stream has no end in sight; give stream=false")
    build: Any = cls  # each method has a constructor of its own
    facts = Facts(material.rows, dict(zip(names, two, strict=True)), material.statistics, group.size)
    make: Callable[[], Method] = lambda: build(encoder, facts, **knobs["method"])  # noqa: E731
    method = sized(make, f"the method {method_title(asked.chosen)}", bool(knobs["method"]), group.size if group.sharded else 1)
    if recipe.cache_gradients and not hasattr(cls, "project"):
        raise UserError(f"cache_gradients: {cls.__name__} has no project and objective to cache between")
    untrained = copy.deepcopy(method.kept) if isinstance(encoder_name, nn.Module) else None

    asked_again = describe(asked, cls, encoder_name, material, recipe, knobs, views)
    kept = copy.deepcopy(method.kept) if group.sharded and group.is_rank_zero else method.kept
    fit = Fit(method, views, batches, recipe, folder.path, name=lambda index: material.names(index.cpu().numpy()), group=group)
    scorer = Scorer(material, cls.whole, fit.fabric.device, fit.bf16, recipe.seed)
    changed = {name: asked_again["resolved"]["method"][name] for name in knobs["method"]}
    defaults = {name: knobs_of(cls)[name][1] for name, value in changed.items() if value != knobs_of(cls)[name][1]}
    with group.unsharded(fit.wrapped):
        fit.health = Health(method, views, scorer.view, example, defaults, fit.bf16)
    if looks:
        loader = material.in_order(np.sort(material.parts["train"]), 512)
        fit.survey = Survey(loader, views, method, fit.call, fit.fabric.device, folder.path)
    if scorer.possible:
        fit.evaluate = lambda: scorer.watch(method.kept)
    speaker = method.publish()
    held_out = HeldOut(method, views, material, fit.fabric.device, fit.bf16, recipe.batch_size or 1)
    if speaker is not None and held_out.possible:
        fit.evaluate = both(fit.evaluate, held_out)
    if before is None:
        group.on_rank_zero(lambda: keep_layout(folder, material, asked_again))
    else:
        _check_same_data(folder.path, material)
        if state := group.on_all_ranks(lambda: checkpoint.load(folder.path / "checkpoints", warn)):
            fit.restore(state)
            known = before["resolved"].get("loop", {})
            if any(getattr(recipe, name) != known.get(name) for name in LENGTHS):
                fit.lengthen()
            done = fit.total is not None and fit.step >= fit.total
            say(
                f"resuming  {'after' if done else 'from'} step {fit.step}"
                + (f" of {fit.total}" if fit.total else "")
                + ("; nothing is left to train" if done else "")
            )
        if asked.knobs != before["knobs"]:
            group.on_rank_zero(lambda: folder.write(asked_again))  # or the next --resume would go back to the old ones
    if not group.broadcast((folder.path / "views.png").exists()):
        group.on_rank_zero(lambda: keep_views(folder.path, views, cls.whole, example, material))
    tell(asked_again, material, method, fit)
    for doubt in scorer.doubts():
        warn(doubt)
    if fit.total is None or fit.step < fit.total:
        try:
            group.on_rank_zero(
                lambda: (folder.path / "evaluation.json").unlink(missing_ok=True)
            )  # it was of the encoder that is now trained on
            fit.run()
        except Interrupted as stop:
            say(f"stopped   {Interrupted(stop.number, _when(folder))}")
            group.broadcast(None)  # or the others' end would cut that short
            raise Interrupted(stop.number, None) from stop

    weights = group.full_state(method.kept) if group.sharded else {}

    def conclude() -> None:
        nonlocal untrained
        if weights:
            kept.load_state_dict(weights)
            kept.to(fit.fabric.device)
        tell_health(fit.looked)
        save_encoder(kept, folder.path / "encoder", encoder_config(asked_again))
        if speaker is not None:
            if held_out.possible:
                report_loss(held_out, folder.path, material.name)
            save_speaker(speaker, folder.path / "method", modality, folder.path)
        tell_skipped([*getattr(batches, "skipped", {}).items()], modality.noun)  # of a stream they are known only now
        say(f"trained   {fit.step} steps in {fit.seconds:.0f} s; encoder in {folder.path / 'encoder'}")
        keep_sample(folder.path, material, kept, cls.whole, fit.fabric.device, fit.bf16, recipe.seed)
        if scorer.possible:
            if untrained is None:
                assert isinstance(encoder_name, str)
                untrained = untrained_encoder(encoder_name, modality.input(material.layout), knobs["encoder"], recipe.seed)
            report_scores(scorer, kept, untrained.to(fit.fabric.device), folder.path)
        elif material.store is not None:
            say(f"kNN       not measured: {scorer.why_not}")
        say(f"run       {folder.path} ({time.perf_counter() - began:.0f} s in all)")

    group.on_rank_zero(conclude)
    return folder.path


def look_alike(data: Any, modality: Modality, how: Options, wishes: Options, layout: Options | None, group: ProcessGroup) -> Material:
    """What `look` makes, in every process of what the first has learned of the data: a tokenizer that is trained twice may differ."""
    opened: list[Material] = []

    def first() -> tuple[Options, Files]:
        opened.append(look(data, modality, **how, wishes=wishes, layout=layout))
        return opened[0].layout, modality.kept(opened[0].layout)

    planned, files = group.on_rank_zero(first)
    if not opened and files:
        modality.adopt(planned, files)
    return group.on_all_ranks(lambda: opened[0] if opened else look(data, modality, **how, layout=planned))


def keep_layout(folder: Folder, material: Material, run: Options) -> None:
    """run.yaml, and what belongs to the layout and the data beside it."""
    learned.write_files(material.modality.kept(material.layout), folder.path)
    if material.store:
        keep_rows(folder.path, material.store, material.parts)
    folder.write(run)


def sort_knobs(knobs: Options, cls: type[Method], modality: Modality) -> dict[str, Any]:
    """Each key=value to where it belongs: loop, method, encoder.X, views and NAME.X or viewN.X, layout; else a UserError."""
    loop, own = knobs_of(Recipe), knobs_of(cls)
    result: dict[str, Any] = {"loop": {}, "method": {}, "encoder": {}, "view": {}, "layout": {}, "views": None}
    for key, value in knobs.items():
        place, dot, option = key.partition(".")
        if named := [name for name in own if key in (name, name.rpartition(".")[2])]:  # a hybrid's plain knob is of all that have it
            result["method"] |= method_knobs(cls, {name: value for name in named if name == key or name not in knobs})
        elif dot and place == "encoder":
            result["encoder"][option] = value
        elif dot and (place in modality.views or (place.startswith("view") and place[4:].isdigit())):
            result["view"][key] = value
        elif key == "views":
            result["views"] = value
        elif key in loop:
            result["loop"][key] = parse(key, value, loop[key][0])
        elif key in modality.knobs:
            result["layout"][key] = parse(key, value, modality.knobs[key])
        else:
            raise unknown(
                "knob", key, [*own, *loop, *modality.knobs, "views", "encoder.KNOB", *(f"{v}.OPTION" for v in dict.fromkeys(cls.views))]
            )
    return result


def decide(recipe: Recipe, material: Material, group: ProcessGroup) -> Recipe:
    """Fills in what was left open, from the number of rows and the machine."""
    shares = recipe.accumulate * group.size
    rows = material.train_rows
    if material.runs and not rows:
        raise UserError(f"the {material.modality.noun} hold fewer values than one sample of {material.runs[1]}; choose a smaller length")
    if rows == 1:
        raise UserError(f"1 {material.modality.noun.rstrip('s')} to train on; at least 2 are needed, and hundreds to learn anything")
    batch_size = recipe.batch_size
    if batch_size is None:
        batch_size = 1 << max(1, min(material.modality.batch, rows // 4 if rows else 256).bit_length() - 1)
        if rows:
            batch_size = min(batch_size, rows)
        batch_size = max(batch_size // shares, 1) * shares
    if rows and batch_size > rows:
        raise UserError(
            f"batch_size={batch_size} is larger than the data, {rows} {material.modality.noun} to train on; choose at most {rows}"
        )
    if batch_size // recipe.accumulate < 2:
        raise UserError(f"batch_size={batch_size} leaves {batch_size // recipe.accumulate} sample a pass; at least 2 are needed")
    if batch_size % shares:
        parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
        raise UserError(f"batch_size={batch_size} can't be shared out to {group.size} processes{parts}; choose a multiple of {shares}")
    decided: Options = {"batch_size": batch_size, "devices": group.devices, "nodes": group.nodes}
    if recipe.lr is None:
        decided["lr"] = default_lr(recipe.optimizer, batch_size)
    if recipe.epochs is recipe.steps is recipe.minutes is None:
        decided["minutes"] = 10.0
    return dataclasses.replace(recipe, **decided)


def describe(
    asked: Asked, cls: type[Method], encoder: Any, material: Material, recipe: Recipe, knobs: dict[str, Any], views: Views
) -> Options:
    """run.yaml: all that was asked and resolved."""
    known = {name: default for name, (_, default) in knobs_of(cls).items()}
    return {
        "untaught": untaught.__version__,
        "torch": torch.__version__,
        "data": data_names(asked.data) or material.name,
        "fingerprint": material.source.fingerprint,
        "contents": material.store.contents if material.store else STREAMED,
        "modality": asked.modality,
        "columns": asked.columns,
        "label": asked.label,
        "split": asked.split,
        "method": method_title(asked.chosen),
        "encoder": encoder if isinstance(encoder, str) else f"module:{type(encoder).__name__}",
        "knobs": dict(asked.knobs),
        "resolved": {
            "method": known | knobs["method"],
            "encoder": {key: parse(key, value, Any) for key, value in knobs["encoder"].items() if key != "weights"},
            "loop": dataclasses.asdict(recipe),
            "views": [{"name": name, **options} for name, options in zip(views.names, views.options, strict=True)],
            "whole": cls.whole,
        },
        "layout": material.layout,
        "statistics": material.statistics,
    }


def encoder_config(run: Options) -> Options:
    """encoder/config.json: what it takes to build the encoder again and to show it data as in training."""
    resolved = run["resolved"]
    return {
        "untaught": run["untaught"],
        "method": run["method"],
        "encoder": run["encoder"],
        "encoder_knobs": resolved["encoder"],
        "modality": run["modality"],
        "view": resolved["whole"],
        "layout": run["layout"],
        "statistics": run["statistics"],
    }


def tell(run: Options, material: Material, method: Method, fit: Fit) -> None:
    """What was decided, before the first step."""
    recipe, layout, encoder = fit.recipe, material.layout, method.kept
    stored = f"stored in {size_text(material.store.bytes)}" if material.store else "streamed"
    if getattr(fit.batches, "held", None):
        stored += f", held on {fit.fabric.device}"
    say(f"split     {material.how_split}" if material.how_split else "split     everything is trained on")
    say("layout    " + ", ".join(f"{key} {value}" for key, value in layout.items()) + f"; {stored}")
    if isinstance(fit.batches, Stream):
        say(f"stream    {fit.batches.how}")
    say(
        f"method    {run['method']}: views {', '.join(fit.views.names)}; "
        + " ".join(f"{k}={v}" for k, v in run["resolved"]["method"].items())
    )
    for option, why in fit.views.told.items():
        say(f"views     {option}, {why}")
    weights = sum(p.numel() for p in encoder.parameters())
    say(f"encoder   {run['encoder']}, {weights / 1e6:.1f} M weights, {encoder.width} features")
    if isinstance(method, Hybrid) and method.how_kept:
        say(f"kept      {method.how_kept}")
    length = f"epochs={recipe.epochs}" if recipe.epochs else f"steps={recipe.steps}" if recipe.steps else f"minutes={recipe.minutes:g}"
    precision, device = "bf16" if fit.bf16 else "float32", fit.fabric.device
    threads = f"{torch.get_num_threads()} threads"
    place = f"cpu, {threads}" if device.type == "cpu" else str(device)
    if fit.group.size > 1:
        place = f"{fit.group.size} processes" + (f" of {threads}" if device.type == "cpu" else f", a {device.type} device each")
    say(f"training  {length} batch_size={recipe.batch_size} {recipe.optimizer} lr={recipe.lr:g} {precision} on {place}")


def tell_health(looked: Options) -> None:
    """The verdict of the last look, at the end of a run."""
    if not looked:
        return
    if looked["because"]:
        warn(f"collapsing because {looked['because']}; try {looked['try']}")
        return
    rank, std = (f"{looked[key]:.{digits}f} (untrained {looked[f'{key}_untrained']:.{digits}f})" for key, digits in MEASURES)
    say(f"health    healthy: effective rank {rank}, spread {std}")


def report_loss(held_out: HeldOut, folder: Path, data: str) -> None:
    """The loss on the held-out part: said, and written to evaluation.json."""
    found = {name.removeprefix("held_out_"): value for name, value in held_out().items()}
    say(f"held out  {', '.join(f'{name} {value:.3f} nats' for name, value in found.items())} on {held_out.part}")
    rows = [{"features": "encoder", "probe": "loss", "labels": "none", "metric": name, "mean": round(v, 6)} for name, v in found.items()]
    merge_rows(folder / "evaluation.json", [row | {"data": data} for row in rows])


def report_scores(scorer: Scorer, encoder: Encoder, untrained: Encoder, folder: Path) -> None:
    """kNN of the encoder beside its random initialisation and raw features: said, and written to evaluation.json."""
    networks: list[tuple[str, Encoder | None]] = [("encoder", encoder), ("random_init", untrained), ("raw", None)]
    rows = [row for features, network in networks for row in scorer.knn(features, network)]
    merge_rows(folder / "evaluation.json", rows)
    said = {"encoder": "encoder", "random_init": "same encoder, untrained", "raw": "raw data"}
    for probe in dict.fromkeys(row["probe"] for row in rows):
        scores = {row["features"]: row["mean"] for row in rows if row["probe"] == probe and row["metric"] == "accuracy"}
        shown = ", ".join(f"{said[features]} {100 * score:.1f}%" for features, score in scores.items())
        say(f"kNN k={probe[3:]:<3} {shown}  ({len(scorer.queries)} of {scorer.held_out}, bank of {len(scorer.bank)})")


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


def _check_same_data(folder: Path, material: Material) -> None:
    known = Known.of(folder)
    if not known.same(material.store, material.source.fingerprint):
        changes = known.changes(material.store, material.modality.noun)
        raise UserError(f"the data has changed since the run began ({changes}); start a new run with another --out")


def _free_name(asked: Asked) -> Path:
    """runs/METHOD-DATA, with a number where that is taken."""
    data = asked.data if isinstance(asked.data, str | os.PathLike) else "data"
    stem = str(data).rstrip("/").replace("builtin:", "").split("/")[-1].split(".")[0] or "data"
    title = method_title(asked.chosen)
    method = title.split(":")[-1].split(".")[-1].strip("<>").lower() if from_python(title) else re.sub(r":[^+]*", "", title)
    return free_path(Path("runs") / f"{method}-{stem}")
