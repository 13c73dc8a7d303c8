"""A pretraining run: build, train, conclude."""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import untaught
from untaught.commands.request import LENGTHS, PretrainArguments, Request, free_name, resolve
from untaught.commands.summary import print_decisions, print_health, report_held_out, report_next_item, report_retrieval, report_scores
from untaught.commands.teachers import KNOB, check_same, named, open_teachers
from untaught.config.footprint import check_views, sized
from untaught.config.overrides import knobs_of
from untaught.config.registry import from_python, method_title
from untaught.config.train_config import TrainConfig
from untaught.console import console, say, warn
from untaught.core import Batch, Encoder, Facts, Files, FrozenEncoder, Method, Options, Preprocessor, UserError
from untaught.data.addresses import data_names
from untaught.data.loader import Loader
from untaught.data.stream import Stream
from untaught.distributed.launch import launch, started, to_launch
from untaught.distributed.process_group import ProcessGroup
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.models import random_init_encoder
from untaught.evaluation.next_item import NextItem
from untaught.evaluation.pairs import PairScorer, random_init_heads
from untaught.pipeline.dataset import Dataset, open_dataset, print_skipped
from untaught.pipeline.heads import save_heads, usable
from untaught.pipeline.preprocessor import load, save_files
from untaught.pipeline.pretrained import Pretrained, described, linear, save_encoder, save_encoders, save_hf_model
from untaught.pipeline.seen_rows import STREAMED, SeenRows, keep_rows
from untaught.pipeline.starts import Start, with_statistics
from untaught.pipeline.view_pipeline import Views, used_view, view_options
from untaught.report.samples import save_answers, save_sample, save_views
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
    """A finished run: its folder, and its encoders by role ({} if other processes trained them)."""

    path: Path
    models: dict[str, Pretrained] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> Pretrained | None:
        """Its encoder, if it has exactly one."""
        return next(iter(self.models.values())) if len(self.models) == 1 else None


@dataclasses.dataclass(frozen=True)
class Run:
    """All components of a run, before its first step.

    starts: how the encoders were built, by role. exported: the encoders that are evaluated and exported. random_init: copies made before
    training, for encoders that only the caller can rebuild. hf_model: a transformers model with heads, saved next to the encoder.
    record: content of run.yaml. began: by time.perf_counter().
    """

    request: Request
    folder: Folder
    group: ProcessGroup
    data: Dataset
    starts: dict[str, Start]
    method: Method
    exported: dict[str, Encoder]
    random_init: dict[str, Encoder]
    hf_model: Any
    scorer: Scorer | PairScorer
    next_item: NextItem
    held_out: HeldOut
    trainer: Trainer
    record: Options
    began: float


def pretrain(
    arguments: PretrainArguments,
    resume: bool = False,
    finish: Callable[[Trained], None] = lambda trained: None,
    ending: Callable[[Run], Trained] | None = None,
) -> Trained:
    """Runs pretraining. With `resume`, continues from the newest valid checkpoint of arguments.out, if there is one.

    finish: called on rank 0 with the trained run, before its folder is released. ending: in place of `conclude`. Starts several processes
    and waits for them, unless torchrun or SLURM started them. Raises UserError for faults that the caller can fix, Interrupted after a
    signal.
    """
    found = started()
    console.quiet = console.quiet or (found is not None and found.rank > 0)  # what the caller has silenced stays silent
    request = resolve(arguments, resume)
    if processes := to_launch(request.train_config):
        return Trained(_launched(request, processes))
    for change in request.changes:
        say(change)
    group = ProcessGroup(request.train_config, request.cls.find_unused_parameters)
    folder = Folder(request.arguments.out or group.broadcast(free_name(request.arguments)))
    group.on_rank_zero(lambda: folder.hold(fresh=request.before is None))
    try:
        run = build(request, folder, group)
        train(run)
        trained = (ending or conclude)(run)
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
    """Builds the run. All checks that can be made before the data are packed come first, the others before the first step."""
    began = time.perf_counter()
    cls, knobs = request.cls, request.knobs
    data = open_data(request, folder, group)
    starts = {role: start.named(data.prep) for role, start in request.starts.items()}
    torch.manual_seed(request.train_config.seed)
    encoders = {role: start.build(data.prep, cls, partial(data.example, start.role.export_view)) for role, start in starts.items()}
    options = view_options(request.views, data.prep, knobs["view"], cls)
    pack(data, request, options, group)
    data.prep = with_statistics(data.prep, starts)
    train_config = decide(request.train_config, data, group)

    views = Views(request.views, data.prep, options, train_config.seed)
    for role, encoder in encoders.items():
        views.fit_encoder(encoder, cls.roles()[role])
    batches = data.training(train_config.batch_size or 1, train_config.seed, group.rank, group.size, group.fabric.device)
    example = batches.first_batch()
    teachers = teachers_of(request, data, encoders, views, example, group)
    method = build_method(request, train_config, data, encoders, views, example, group, teachers)
    found = method.exported()
    random_init = {role: copy.deepcopy(found[role]) for role, start in starts.items() if isinstance(start.encoder, nn.Module)}
    exported = copy.deepcopy(found) if group.sharded and group.is_rank_zero else found
    record = describe(request, starts, data, train_config, views, teachers)

    step = TrainingStep(method, train_config, group)
    used_as = {name: role.export_view for name, role in cls.roles().items()}
    scorer = scorer_for(used_as, data, step, train_config)
    next_item = NextItem(data, next(iter(exported.values())), step.device, step.bf16, train_config.seed)
    with group.unsharded(step.wrapped):
        used = {role: used_view(data.prep, name) for role, name in used_as.items()}
        health = CollapseDetector(method, views, used, example, request.changed_knobs, step.bf16)
    hf_model = method.hf_model()
    held_out = HeldOut(method, views, data, step.device, step.bf16, train_config.batch_size or 1)
    watched = held_out if measured_held_out(method, hf_model) else None
    trainer = build_trainer(step, views, batches, folder.path, data, health, scorer, next_item, watched)
    run = Run(
        request, folder, group, data, starts, method, exported, random_init, hf_model, scorer, next_item, held_out, trainer, record, began
    )
    begin_or_restore(run)
    if not group.broadcast((folder.path / "views.png").exists()):
        group.on_rank_zero(lambda: save_views(folder.path, views, tuple(used_as.values()), example, data))
    return run


def scorer_for(used_as: dict[str, str], data: Dataset, step: TrainingStep, train_config: TrainConfig) -> Scorer | PairScorer:
    """The scorer of an encoder, or of retrieval between several. used_as: role -> the view in which its encoder is used."""
    if len(used_as) > 1:
        return PairScorer(data, used_as, step.device, step.bf16)
    return Scorer(data, next(iter(used_as.values())), step.device, step.bf16, train_config.seed)


def open_data(request: Request, folder: Folder, group: ProcessGroup) -> Dataset:
    """The source and its preprocessor, planned on rank 0 and broadcast: a tokenizer trained twice may differ."""
    arguments, modality, how = request.arguments, request.modality, request.how
    overrides = {key: value for start in request.starts.values() for key, value in start.overrides(modality).items()}
    overrides |= request.knobs["layout"]
    opened: list[Dataset] = []

    def first() -> tuple[Options, Files]:
        before = request.before
        reading = load(modality, before["layout"], before["statistics"], folder.path) if before else modality
        opened.append(open_dataset(arguments.data, reading, **how, overrides=overrides))
        return opened[0].prep.settings, opened[0].prep.files

    settings, files = group.on_rank_zero(first)
    prep = Preprocessor(modality, settings, files=files)
    return group.on_all_ranks(lambda: opened[0] if opened else open_dataset(arguments.data, prep, **how))


def pack(data: Dataset, request: Request, options: list[Options], group: ProcessGroup) -> None:
    """Rank 0 packs the store, which may take an hour, and the other ranks open it; or all ranks stream."""
    train_config, noun = request.train_config, data.modality.noun
    streams = group.on_rank_zero(lambda: data.open(train_config.stream, train_config.seed))
    group.on_all_ranks(lambda: group.is_rank_zero or data.open(streams, train_config.seed))
    data.runs = data.modality.runs(options)
    if data.runs and data.store is None:
        raise UserError(f"the {noun} are read as one stream of tokens, which requires packed data; give stream=false")
    if request.cls.wants_features(request.views) and data.store is None:
        cls, views = request.cls, ",".join(request.cls.views)
        other = "" if cls.wants_features(cls.views) else f" or views={views}"
        why = f"{cls.__name__} needs features of all samples before each epoch, and streamed data has no fixed length"
        raise UserError(f"{why}; give stream=false{other}")


def teachers_of(
    request: Request, data: Dataset, encoders: dict[str, Encoder], views: Views, example: Batch, group: ProcessGroup
) -> tuple[FrozenEncoder, ...]:
    """The frozen encoders that the method's knob `teachers` names; () for a method without. Raises UserError, also if one has changed since
    the run that is resumed."""
    if not request.cls.taught:
        return ()
    names, modules = named(request.knobs["method"]), request.arguments.modules
    view = views.one({key: value[:2] for key, value in example.items()}, 0, 0)
    teachers = group.on_all_ranks(lambda: open_teachers(names, modules, data, encoders.values(), view))
    check_same(teachers, request.before or {})
    return teachers


def build_method(
    request: Request,
    train_config: TrainConfig,
    data: Dataset,
    encoders: dict[str, Encoder],
    views: Views,
    example: Batch,
    group: ProcessGroup,
    teachers: tuple[FrozenEncoder, ...] = (),
) -> Method:
    """Builds the method with its encoders. example: a batch of the training part."""
    cls, knobs = request.cls, request.knobs["method"]
    few = {key: value[:2] for key, value in example.items()}
    two = views(few, 0)
    for name, role in cls.roles().items():
        views.check_encoder(encoders[name], two, used_view(data.prep, role.export_view)(few, 0)[0], role)
    check_views(two, (train_config.batch_size or 1) // train_config.accumulate // group.size)
    if train_config.cache_gradients and not hasattr(cls, "project"):
        raise UserError(f"cache_gradients: {cls.__name__} does not define project and objective")
    facts = Facts(data.rows, dict(zip(views.names, two, strict=True)), data.prep.statistics, group.size, teachers, train_config.seed)
    construct: Any = cls  # constructor signatures differ between methods
    make: Callable[[], Method] = lambda: construct(*encoders.values(), facts, **knobs)  # noqa: E731
    return sized(make, f"the method {method_title(request.arguments.chosen)}", bool(knobs), group.size if group.sharded else 1)


def build_trainer(
    step: TrainingStep,
    views: Views,
    batches: Loader | Stream,
    folder: Path,
    data: Dataset,
    health: CollapseDetector,
    scorer: Scorer | PairScorer,
    next_item: NextItem,
    held_out: HeldOut | None,
) -> Trainer:
    """held_out: for a method whose held-out loss is a quality metric."""
    method, extract_features, evaluate = step.method, None, None
    if type(method).wants_features(views.names):
        in_order = data.in_order(np.sort(data.parts["train"]), 512)
        extract_features = ExtractFeatures(in_order, views, method, step.call, step.device, folder)
    if scorer.possible:
        evaluate = lambda: watch(scorer, method)  # noqa: E731
    if next_item.possible:
        evaluate = both(evaluate, lambda: next_item.watch(next(iter(method.exported().values()))))
    if held_out is not None and held_out.possible:
        evaluate = both(evaluate, held_out)
    names = lambda index: data.names(index.cpu().numpy())  # noqa: E731
    return Trainer(step, views, batches, folder, names, evaluate=evaluate, health=health, extract_features=extract_features)


def watch(scorer: Scorer | PairScorer, method: Method) -> dict[str, float]:
    """Scores during training."""
    encoders = method.exported()
    return scorer.watch(next(iter(encoders.values()))) if isinstance(scorer, Scorer) else scorer.watch(encoders, method.shared_space())


def measured_held_out(method: Method, hf_model: Any) -> bool:
    """Whether the method's terms on held-out samples are reported: the loss of a language model or density, the accuracy of a pretext
    task."""
    return hf_model is not None or method.held_out or method.chance > 0


def begin_or_restore(run: Run) -> None:
    """A new run writes run.yaml and the files next to it; a resumed one loads the state of its newest checkpoint."""
    before, group, folder, trainer = run.request.before, run.group, run.folder, run.trainer
    if before is None:
        group.on_rank_zero(lambda: save_layout(folder, run.data, run.record))
        return
    _check_same_data(folder.path, run.data)
    if state := group.on_all_ranks(lambda: checkpoint.load(folder.path / "checkpoints", warn)):
        trainer.restore(state)
        known = before["resolved"].get("loop", {})
        if any(getattr(trainer.train_config, name) != known.get(name) for name in LENGTHS):
            trainer.lengthen()
        place = f"{'after' if trainer.finished else 'from'} step {trainer.step}" + (f" of {trainer.total}" if trainer.total else "")
        say(f"resuming  {place}" + ("; training is complete" if trainer.finished else ""))
    if run.request.arguments.knobs != before["knobs"]:
        group.on_rank_zero(lambda: folder.write(run.record))  # so that the next --resume uses them too


# ---------------------------------------------------------------------------------------------------- train, conclude


def train(run: Run) -> None:
    """Trains to the end, unless already done. Raises Interrupted after the run has been saved."""
    group, folder = run.group, run.folder
    print_decisions(run.record, run.data, run.method, run.trainer, run.request.defaults)
    for doubt in run.scorer.doubts() if isinstance(run.scorer, Scorer) else ():
        warn(doubt)
    if run.trainer.finished:
        return
    group.on_rank_zero(lambda: (folder.path / "evaluation.json").unlink(missing_ok=True))  # of an earlier encoder
    try:
        run.trainer.run()
    except Interrupted as stop:
        say(f"stopped   {Interrupted(stop.number, _when(folder))}")
        group.broadcast(None)  # waits, since exiting processes would stop the message
        raise Interrupted(stop.number, None) from stop


def conclude(run: Run) -> Trained:
    """Saves the encoders and scores them and their baselines."""
    sharded = run.group.sharded
    exported, shared = run.method.exported(), run.method.shared_space()
    weights = {role: run.group.full_state(encoder) for role, encoder in exported.items()} if sharded else {}
    heads = {role: run.group.full_state(head) for role, head in shared.items()} if sharded else {}
    keeps_heads = usable(run.request.cls) and not from_python(run.record["method"])
    method_state = run.group.full_state(run.method) if sharded and keeps_heads else {}

    def save() -> dict[str, Options]:
        path, step, trainer = run.folder.path, run.trainer.train_step, run.trainer
        for role, state in weights.items():
            run.exported[role].load_state_dict(state)
            run.exported[role].to(step.device)
        print_health(trainer.last_health)
        space = {role: linear(heads[role]) if sharded else head for role, head in shared.items()}
        configs = save_all(run, space)
        if keeps_heads:
            save_heads(run.method, method_state or run.method.state_dict(), path, heads_config(run))
        if measured_held_out(run.method, run.hf_model) and run.held_out.possible:
            report_held_out(run.held_out, path, run.data.name)
        if run.hf_model is not None:
            save_hf_model(run.hf_model, path / "method", run.data.prep.files)
        print_skipped([*getattr(trainer.batches, "skipped", {}).items()], run.data.modality.noun)  # for a stream, known only now
        say(f"trained   {trainer.step} steps in {trainer.seconds:.0f} s; encoder in {path / 'encoder'}")
        role = next(iter(run.request.cls.roles().values()))
        save_sample(path, run.data, run.exported[role.name], role.export_view, step.device, step.bf16, trainer.train_config.seed)
        if not sharded and len(run.exported) == 1:
            save_answers(path, run.data, run.method, trainer.views, role.export_view, step.device, step.bf16, trainer.train_config.seed)
        score(run, space)
        say(f"run       {path} ({time.perf_counter() - run.began:.0f} s in total)")
        return configs

    configs = run.group.on_rank_zero(save)
    if sharded and not run.group.is_rank_zero:
        return Trained(run.folder.path)
    prep = run.data.prep
    return Trained(
        run.folder.path, {role: Pretrained(run.exported[role].cpu().eval(), configs[role], prep.part(role)) for role in run.exported}
    )


def save_all(run: Run, heads: dict[str, nn.Module]) -> dict[str, Options]:
    """Writes encoder/, for one encoder or several -> config.json of each, by role."""
    folder, prep = run.folder.path / "encoder", run.data.prep
    configs = {role: encoder_config(run, role) for role in run.exported}
    if len(configs) > 1:
        return save_encoders(run.exported, heads, folder, configs, prep)
    return {role: save_encoder(run.exported[role], folder, config, prep) for role, config in configs.items()}


def score(run: Run, heads: dict[str, nn.Module]) -> None:
    """kNN with random init and raw data as baselines, if there are labels; for several encoders, retrieval between them; and next-item
    ranking of events."""
    scorer, next_item, seed, device = run.scorer, run.next_item, run.trainer.train_config.seed, run.trainer.train_step.device
    if not scorer.possible and run.data.store is not None:
        say(f"{'kNN      ' if isinstance(scorer, Scorer) else 'retrieval'} not measured: {scorer.why_not}")
    if not (next_item.announce() or scorer.possible):
        return
    random_init = dict(run.random_init)
    for role in run.exported.keys() - random_init.keys():
        name, knobs = run.starts[role].architecture
        random_init[role] = random_init_encoder(name, run.data.prep.part(role).encoder_arguments, knobs, seed)
    role = next(iter(run.exported))
    if next_item.possible:
        report_next_item(next_item, run.exported[role], random_init[role].to(device), run.folder.path)
    if not scorer.possible:
        return
    if isinstance(scorer, Scorer):
        report_scores(scorer, run.exported[role], random_init[role].to(device), run.folder.path)
    else:
        report_retrieval(scorer, run.exported, heads, random_init, random_init_heads(heads, seed), run.folder.path)


# ------------------------------------------------------------------------------------------------------------- records


def decide(train_config: TrainConfig, dataset: Dataset, group: ProcessGroup) -> TrainConfig:
    """Fills in unset options from the number of rows and the hardware."""
    shares = train_config.accumulate * group.size
    rows = dataset.train_rows
    if dataset.runs and not rows:
        raise UserError(
            f"the {dataset.modality.noun} have fewer values in total than one sample of length {dataset.runs[1]}; choose a smaller length"
        )
    if rows == 1:
        raise UserError(f"1 sample ({dataset.modality.noun}) to train on; at least 2 are required, and hundreds for useful features")
    batch_size = train_config.batch_size
    if batch_size is None:
        batch_size = 1 << max(1, min(dataset.modality.batch, rows // 4 if rows else 256).bit_length() - 1)
        if rows:
            batch_size = min(batch_size, rows)
        batch_size = max(batch_size // shares, 1) * shares
    if rows and batch_size > rows:
        raise UserError(
            f"batch_size={batch_size} is larger than the training part of {rows} {dataset.modality.noun}; choose at most {rows}"
        )
    if batch_size // train_config.accumulate < 2:
        raise UserError(
            f"batch_size={batch_size} leaves {batch_size // train_config.accumulate} sample per micro-batch; at least 2 are required"
        )
    if batch_size % shares:
        parts = f" in {train_config.accumulate} micro-batches" if train_config.accumulate > 1 else ""
        raise UserError(f"batch_size={batch_size} can't be split over {group.size} processes{parts}; choose a multiple of {shares}")
    decided: Options = {"batch_size": batch_size, "devices": group.devices, "nodes": group.nodes}
    if train_config.lr is None:
        scaled = train_config.base_lr and train_config.base_lr * batch_size / 256
        decided["lr"] = scaled or default_lr(train_config.optimizer, batch_size)
    if train_config.epochs is train_config.steps is train_config.minutes is None:
        decided["minutes"] = 10.0
    return dataclasses.replace(train_config, **decided)


def describe(
    request: Request,
    starts: dict[str, Start],
    dataset: Dataset,
    train_config: TrainConfig,
    views: Views,
    teachers: tuple[FrozenEncoder, ...] = (),
) -> Options:
    """Content of run.yaml: the arguments as given and as resolved."""
    arguments, cls, knobs = request.arguments, request.cls, request.knobs
    each = lambda found: found if len(found) > 1 else next(iter(found.values()))  # noqa: E731  # without its role if there is one encoder
    known = {name: default for name, (_, default) in knobs_of(cls).items()}
    return {
        "untaught": untaught.__version__,
        "torch": torch.__version__,
        "data": data_names(arguments.data) or dataset.name,
        "fingerprint": dataset.source.fingerprint,
        "contents": dataset.store.contents if dataset.store else STREAMED,
        "columns": arguments.columns,
        "label": arguments.label,
        "split": arguments.split,
        "method": method_title(arguments.chosen),
        "encoder": each({role: start.title for role, start in starts.items()}),
        "knobs": dict(arguments.knobs),
        "defaults": request.defaults[0],
        "resolved": {
            "method": known | knobs["method"],
            "encoder": each({role: start.architecture[1] for role, start in starts.items()}),
            "loop": dataclasses.asdict(train_config),
            "views": [{"name": name, **options} for name, options in zip(views.names, views.options, strict=True)],
            "export_view": each({name: role.export_view for name, role in cls.roles().items()}),
        },
        **({KNOB: {one.name: one.digest for one in teachers}} if teachers else {}),
        **described(dataset.prep),
    }


def encoder_config(run: Run, role: str) -> Options:
    """Content of an encoder's config.json: all that is needed to rebuild it and its preprocessing."""
    name, knobs = run.starts[role].architecture
    view = run.request.cls.roles()[role].export_view.removeprefix(f"{role}." if role in run.data.modality.parts else "")
    return {"untaught": run.record["untaught"], "method": run.record["method"], "encoder": name, "encoder_knobs": knobs, "view": view}


def heads_config(run: Run) -> Options:
    """Content of heads/config.json: all that is needed to rebuild the method."""
    return {
        "untaught": run.record["untaught"],
        "method": run.record["method"],
        "knobs": run.request.knobs["method"],
        "rows": run.data.rows,
        "views": run.record["resolved"]["views"],
    }


def save_layout(folder: Folder, dataset: Dataset, run: Options) -> None:
    """Writes run.yaml and the files of the preprocessor and the data."""
    save_files(dataset.prep.files, folder.path)
    if dataset.store:
        keep_rows(folder.path, dataset.store, dataset.parts)
    folder.write(run)


def _check_same_data(folder: Path, dataset: Dataset) -> None:
    known = SeenRows.of(folder)
    if not known.same(dataset.store, dataset.source.fingerprint):
        changes = known.changes(dataset.store, dataset.modality.noun)
        raise UserError(f"the data has changed since the run started ({changes}); start a new run with another --out")


def _launched(request: Request, processes: int) -> Path:
    """Runs the command in `processes` processes -> the run folder."""
    arguments, merged = request.given, request.arguments
    for what, value in (("data", merged.data), ("method", merged.chosen), ("encoder", merged.encoder), (KNOB, merged.modules)):
        if any(not isinstance(one, str | os.PathLike | None) for one in (value.values() if isinstance(value, dict) else [value])):
            advice = "save it as .npz and give its path" if what == "data" else "use a registered name"
            raise UserError(f"devices={processes}: a Python object as {what} can't be sent to other processes; {advice}, or use torchrun")
    out = arguments.out or free_name(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "run.yaml"
        given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
        write_run(file, given | {"data": merged.data, "method": merged.chosen, "layout": {}, "resolved": {}})
        command = ["-m", "untaught.cli", "pretrain", "--from", str(file), "--out", str(out), *["--resume"] * request.resume]
        launch(command, processes)
    return out


def _when(folder: Folder) -> str:
    """When a run was interrupted, and how to resume it."""
    if not folder.begun:
        return " before training started; nothing was saved"
    saved = checkpoint.steps(folder.path / "checkpoints")
    place = f"at step {saved[-1]}, saved" if saved else "before the first checkpoint"
    return f" {place}; resume with: untaught pretrain --out {folder.path} --resume"
