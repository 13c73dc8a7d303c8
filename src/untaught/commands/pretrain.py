"""A pretraining run, from top to bottom: build, train, conclude."""

from __future__ import annotations

import copy
import dataclasses
import os
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
from untaught.commands.request import LENGTHS, Asked, Request, free_name, resolve
from untaught.commands.summary import print_decisions, print_health, report_loss, report_scores
from untaught.config.footprint import check_views, sized
from untaught.config.overrides import knobs_of, parse
from untaught.config.registry import build_encoder, check_needs, method_title
from untaught.config.train_config import TrainConfig
from untaught.console import console, say, warn
from untaught.core import Batch, Encoder, Facts, Files, Method, Options, UserError
from untaught.data.addresses import data_names
from untaught.data.loader import Loader
from untaught.data.stream import Stream
from untaught.distributed.launch import launch, started, to_launch
from untaught.distributed.process_group import ProcessGroup
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.models import random_init_encoder
from untaught.pipeline import preprocessor as learned
from untaught.pipeline.dataset import Dataset, look, print_skipped
from untaught.pipeline.pretrained import save_encoder, save_hf_model
from untaught.pipeline.seen_rows import STREAMED, SeenRows, keep_rows
from untaught.pipeline.view_pipeline import Views, view_options
from untaught.report.samples import save_sample, save_views
from untaught.signals import Interrupted
from untaught.storage.run_dir import Folder, write_run
from untaught.training import checkpoint
from untaught.training.collapse import CollapseDetector
from untaught.training.feature_pass import ExtractFeatures
from untaught.training.optim import default_lr
from untaught.training.step import TrainingStep
from untaught.training.trainer import Trainer
from untaught.training.validation import HeldOut, both


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run: its folder, and its encoder with what encoder/config.json holds (None where other processes trained it)."""

    path: Path
    encoder: Encoder | None = None
    config: Options | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run is made of, before its first step.

    kept: the encoder that is evaluated and exported. untrained: the same before training, where only the caller could build it again.
    publisher: a model of a library with heads, saved beside the encoder. record: what run.yaml holds. began: by time.perf_counter().
    """

    request: Request
    folder: Folder
    group: ProcessGroup
    data: Dataset
    encoder: str | nn.Module
    method: Method
    kept: Encoder
    untrained: Encoder | None
    hf_model: Any
    scorer: Scorer
    held_out: HeldOut
    trainer: Trainer
    record: Options
    began: float


def pretrain(asked: Asked, resume: bool = False, finish: Callable[[Trained], None] = lambda trained: None) -> Trained:
    """Runs it. With `resume`, goes on from the newest valid checkpoint of asked.out, if there is one.

    finish: called on rank 0 with the trained run, before its folder is released. More than one process is started here, unless torchrun
    or SLURM did, and waited for. Raises UserError for what the caller can mend, Interrupted after a signal.
    """
    found = started()
    console.quiet = found is not None and found.rank > 0
    request = resolve(asked, resume)
    if processes := to_launch(request.recipe):
        return Trained(_launched(request, processes))
    for change in request.changes:
        say(change)
    group = ProcessGroup(request.recipe, request.cls.find_unused_parameters)
    folder = Folder(request.asked.out or group.broadcast(free_name(request.asked)))
    group.on_rank_zero(lambda: folder.hold(fresh=request.before is None))
    try:
        run = build(request, folder, group)
        train(run)
        trained = conclude(run)
        group.on_rank_zero(lambda: finish(trained))
    except (KeyboardInterrupt, Interrupted) as stop:
        if getattr(stop, "when", "") is None:
            raise
        raise Interrupted(getattr(stop, "number", signal.SIGINT), _when(folder)) from stop
    finally:
        folder.release()
    return trained


# ---------------------------------------------------------------------------------------------------------------- build


def build(request: Request, folder: Folder, group: ProcessGroup) -> Run:
    """Everything that can be refused is refused before the data are packed, and everything else before the first step."""
    began = time.perf_counter()
    asked, cls, modality, knobs = request.asked, request.cls, request.modality, request.knobs
    data = open_data(request, folder, group)
    encoder_name = asked.encoder if asked.encoder is not None else modality.encoder_for(data.layout, cls.needs)
    torch.manual_seed(request.recipe.seed)
    encoder = build_encoder(encoder_name, modality.input(data.layout), knobs["encoder"])
    check_needs(cls, encoder)
    options = view_options(request.views, modality, data.layout, knobs["view"])
    pack(data, request, options, group)
    recipe = decide(request.recipe, data, group)

    views = Views(request.views, modality, options, data.statistics, recipe.seed)
    views.fit_encoder(encoder)
    batches = data.training(recipe.batch_size or 1, recipe.seed, group.rank, group.size, group.fabric.device)
    example = batches.first_batch()
    method = build_method(request, recipe, data, encoder, views, example, group)
    untrained = copy.deepcopy(method.kept) if isinstance(encoder_name, nn.Module) else None
    kept = copy.deepcopy(method.kept) if group.sharded and group.is_rank_zero else method.kept
    record = describe(request, encoder_name, data, recipe, views)

    step = TrainingStep(method, recipe, group)
    scorer = Scorer(data, cls.whole, step.device, step.bf16, recipe.seed)
    with group.unsharded(step.wrapped):
        health = CollapseDetector(method, views, scorer.view, example, request.changed_knobs, step.bf16)
    hf_model = method.hf_model()
    held_out = HeldOut(method, views, data, step.device, step.bf16, recipe.batch_size or 1)
    trainer = build_trainer(step, views, batches, folder.path, data, health, scorer, held_out if hf_model is not None else None)
    run = Run(request, folder, group, data, encoder_name, method, kept, untrained, hf_model, scorer, held_out, trainer, record, began)
    begin_or_restore(run)
    if not group.broadcast((folder.path / "views.png").exists()):
        group.on_rank_zero(lambda: save_views(folder.path, views, cls.whole, example, data))
    return run


def open_data(request: Request, folder: Folder, group: ProcessGroup) -> Dataset:
    """The source and its layout, on every rank as rank 0 has found it: a tokenizer that is trained twice may differ."""
    asked, modality, how = request.asked, request.modality, request.how
    layout = request.before["layout"] if request.before else None
    if layout is not None:
        learned.adopt(modality, layout, folder.path)
    overrides = (modality.expects(asked.encoder) if isinstance(asked.encoder, str) else {}) | request.knobs["layout"]
    opened: list[Dataset] = []

    def first() -> tuple[Options, Files]:
        opened.append(look(asked.data, modality, **how, overrides=overrides, layout=layout))
        return opened[0].layout, modality.kept(opened[0].layout)

    planned, files = group.on_rank_zero(first)
    if not opened and files:
        modality.adopt(planned, files)
    return group.on_all_ranks(lambda: opened[0] if opened else look(asked.data, modality, **how, layout=planned))


def pack(data: Dataset, request: Request, options: list[Options], group: ProcessGroup) -> None:
    """Rank 0 packs the store, which may take an hour; the others open it. Or all stream."""
    recipe, noun = request.recipe, data.modality.noun
    streams = group.on_rank_zero(lambda: data.open(recipe.stream, recipe.seed))
    group.on_all_ranks(lambda: group.is_rank_zero or data.open(streams, recipe.seed))
    data.runs = data.modality.runs(options)
    if data.runs and data.store is None:
        raise UserError(f"the {noun} are read as one stream of tokens, which needs them packed; give stream=false")
    if request.cls.before_epoch is not Method.before_epoch and data.store is None:
        cls = request.cls.__name__
        raise UserError(f"{cls} looks at all samples before each epoch, and a stream has no end in sight; give stream=false")


def build_method(
    request: Request, recipe: TrainConfig, data: Dataset, encoder: Encoder, views: Views, example: Batch, group: ProcessGroup
) -> Method:
    """The method around the encoder. example: a batch of the training part."""
    cls, knobs = request.cls, request.knobs["method"]
    two = views({key: value[:2] for key, value in example.items()}, 0)
    views.check_encoder(encoder, two, request.modality.presets(data.layout)[cls.whole])
    check_views(two, (recipe.batch_size or 1) // recipe.accumulate // group.size)
    if recipe.cache_gradients and not hasattr(cls, "project"):
        raise UserError(f"cache_gradients: {cls.__name__} has no project and objective to cache between")
    facts = Facts(data.rows, dict(zip(views.names, two, strict=True)), data.statistics, group.size)
    construct: Any = cls  # each method has a constructor of its own
    make: Callable[[], Method] = lambda: construct(encoder, facts, **knobs)  # noqa: E731
    return sized(make, f"the method {method_title(request.asked.chosen)}", bool(knobs), group.size if group.sharded else 1)


def build_trainer(
    step: TrainingStep,
    views: Views,
    batches: Loader | Stream,
    folder: Path,
    data: Dataset,
    health: CollapseDetector,
    scorer: Scorer,
    held_out: HeldOut | None,
) -> Trainer:
    """held_out: of a method whose loss on the held-out part says what it is worth."""
    method, extract_features, evaluate = step.method, None, None
    if type(method).before_epoch is not Method.before_epoch:
        in_order = data.in_order(np.sort(data.parts["train"]), 512)
        extract_features = ExtractFeatures(in_order, views, method, step.call, step.device, folder)
    if scorer.possible:
        evaluate = lambda: scorer.watch(method.kept)  # noqa: E731
    if held_out is not None and held_out.possible:
        evaluate = both(evaluate, held_out)
    names = lambda index: data.names(index.cpu().numpy())  # noqa: E731
    return Trainer(step, views, batches, folder, names, evaluate=evaluate, health=health, extract_features=extract_features)


def begin_or_restore(run: Run) -> None:
    """A new run writes run.yaml and what lies beside it; one that is gone on with takes the state of its newest checkpoint."""
    before, group, folder, trainer = run.request.before, run.group, run.folder, run.trainer
    if before is None:
        group.on_rank_zero(lambda: save_layout(folder, run.data, run.record))
        return
    _check_same_data(folder.path, run.data)
    if state := group.on_all_ranks(lambda: checkpoint.load(folder.path / "checkpoints", warn)):
        trainer.restore(state)
        known = before["resolved"].get("loop", {})
        if any(getattr(trainer.recipe, name) != known.get(name) for name in LENGTHS):
            trainer.lengthen()
        place = f"{'after' if trainer.finished else 'from'} step {trainer.step}" + (f" of {trainer.total}" if trainer.total else "")
        say(f"resuming  {place}" + ("; nothing is left to train" if trainer.finished else ""))
    if run.request.asked.knobs != before["knobs"]:
        group.on_rank_zero(lambda: folder.write(run.record))  # or the next --resume would go back to the old ones


# ---------------------------------------------------------------------------------------------------- train, conclude


def train(run: Run) -> None:
    """To the end, unless it is reached already. Raises Interrupted, when the run has been saved."""
    group, folder = run.group, run.folder
    print_decisions(run.record, run.data, run.method, run.trainer)
    for doubt in run.scorer.doubts():
        warn(doubt)
    if run.trainer.finished:
        return
    group.on_rank_zero(lambda: (folder.path / "evaluation.json").unlink(missing_ok=True))  # of the encoder before
    try:
        run.trainer.run()
    except Interrupted as stop:
        say(f"stopped   {Interrupted(stop.number, _when(folder))}")
        group.broadcast(None)  # or the others' end would cut that short
        raise Interrupted(stop.number, None) from stop


def conclude(run: Run) -> Trained:
    """Saves the encoder, and scores it beside its baselines."""
    weights = run.group.full_state(run.method.kept) if run.group.sharded else {}

    def save() -> Options:
        path, step, trainer = run.folder.path, run.trainer.train_step, run.trainer
        if weights:
            run.kept.load_state_dict(weights)
            run.kept.to(step.device)
        print_health(trainer.looked)
        config = save_encoder(run.kept, path / "encoder", encoder_config(run.record))
        if run.hf_model is not None:
            if run.held_out.possible:
                report_loss(run.held_out, path, run.data.name)
            save_hf_model(run.hf_model, path / "method", run.data.modality, path)
        print_skipped([*getattr(trainer.batches, "skipped", {}).items()], run.data.modality.noun)  # of a stream they are known only now
        say(f"trained   {trainer.step} steps in {trainer.seconds:.0f} s; encoder in {path / 'encoder'}")
        save_sample(path, run.data, run.kept, run.request.cls.whole, step.device, step.bf16, trainer.recipe.seed)
        score(run)
        say(f"run       {path} ({time.perf_counter() - run.began:.0f} s in all)")
        return config

    config = run.group.on_rank_zero(save)
    if run.group.sharded and not run.group.is_rank_zero:
        return Trained(run.folder.path)
    return Trained(run.folder.path, run.kept.cpu().eval(), config)


def score(run: Run) -> None:
    """kNN beside random init and raw data, where there are labels to score by."""
    scorer, untrained = run.scorer, run.untrained
    if not scorer.possible:
        if run.data.store is not None:
            say(f"kNN       not measured: {scorer.why_not}")
        return
    if untrained is None:
        assert isinstance(run.encoder, str)
        given, knobs = run.data.modality.input(run.data.layout), run.request.knobs["encoder"]
        untrained = random_init_encoder(run.encoder, given, knobs, run.trainer.recipe.seed)
    report_scores(scorer, run.kept, untrained.to(run.trainer.train_step.device), run.folder.path)


# ------------------------------------------------------------------------------------------------------------- records


def decide(recipe: TrainConfig, dataset: Dataset, group: ProcessGroup) -> TrainConfig:
    """Fills in what was left open, from the number of rows and the machine."""
    shares = recipe.accumulate * group.size
    rows = dataset.train_rows
    if dataset.runs and not rows:
        raise UserError(f"the {dataset.modality.noun} hold fewer values than one sample of {dataset.runs[1]}; choose a smaller length")
    if rows == 1:
        raise UserError(f"1 sample ({dataset.modality.noun}) to train on; at least 2 are needed, and hundreds to learn anything")
    batch_size = recipe.batch_size
    if batch_size is None:
        batch_size = 1 << max(1, min(dataset.modality.batch, rows // 4 if rows else 256).bit_length() - 1)
        if rows:
            batch_size = min(batch_size, rows)
        batch_size = max(batch_size // shares, 1) * shares
    if rows and batch_size > rows:
        raise UserError(
            f"batch_size={batch_size} is larger than the data, {rows} {dataset.modality.noun} to train on; choose at most {rows}"
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


def describe(request: Request, encoder: str | nn.Module, dataset: Dataset, recipe: TrainConfig, views: Views) -> Options:
    """run.yaml: all that was asked and resolved."""
    asked, cls, knobs = request.asked, request.cls, request.knobs
    known = {name: default for name, (_, default) in knobs_of(cls).items()}
    return {
        "untaught": untaught.__version__,
        "torch": torch.__version__,
        "data": data_names(asked.data) or dataset.name,
        "fingerprint": dataset.source.fingerprint,
        "contents": dataset.store.contents if dataset.store else STREAMED,
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
        "layout": dataset.layout,
        "statistics": dataset.statistics,
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


def save_layout(folder: Folder, dataset: Dataset, run: Options) -> None:
    """run.yaml, and what belongs to the layout and the data beside it."""
    learned.write_files(dataset.modality.kept(dataset.layout), folder.path)
    if dataset.store:
        keep_rows(folder.path, dataset.store, dataset.parts)
    folder.write(run)


def _check_same_data(folder: Path, dataset: Dataset) -> None:
    known = SeenRows.of(folder)
    if not known.same(dataset.store, dataset.source.fingerprint):
        changes = known.changes(dataset.store, dataset.modality.noun)
        raise UserError(f"the data has changed since the run began ({changes}); start a new run with another --out")


def _launched(request: Request, processes: int) -> Path:
    """The run, as so many processes of our own command."""
    asked, whole = request.given, request.asked
    for what, given in (("data", whole.data), ("method", whole.chosen), ("encoder", whole.encoder)):
        if given is not None and not isinstance(given, str | os.PathLike):
            advice = "save it as .npz and name the file" if what == "data" else "name one that is known"
            raise UserError(f"devices={processes}: the {what} from Python can't be sent to other processes; {advice}, or use torchrun")
    out = asked.out or free_name(asked)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "run.yaml"
        said = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)}
        write_run(file, said | {"data": whole.data, "method": whole.chosen, "layout": {}, "resolved": {}})
        command = ["-m", "untaught.cli", "pretrain", "--from", str(file), "--out", str(out), *["--resume"] * request.resume]
        launch(command, processes)
    return out


def _when(folder: Folder) -> str:
    """When a run was interrupted, and how to go on."""
    if not folder.begun:
        return " before training began; nothing is kept"
    saved = checkpoint.steps(folder.path / "checkpoints")
    place = f"at step {saved[-1]}, saved" if saved else "before the first checkpoint"
    return f" {place}; go on with: untaught pretrain --out {folder.path} --resume"
