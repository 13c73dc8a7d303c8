"""Which pretext task suits the data: several methods by successive halving, each resumed where the last round left it."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import untaught
from untaught.commands.halving import Round, rounds_for, schedule, survivors
from untaught.commands.pretrain import Run, Trained, build, conclude, pretrain, save_all
from untaught.commands.request import LENGTHS, PretrainArguments, data_stem, resolve
from untaught.config.overrides import parse
from untaught.config.registry import MethodLike, method_class, method_table, method_title
from untaught.config.train_config import Minutes, Steps
from untaught.console import hushed, say, warn
from untaught.core import Encoder, Options, UserError
from untaught.data.addresses import data_names
from untaught.distributed.launch import started
from untaught.distributed.process_group import ProcessGroup
from untaught.downstream.label_sampling import Trial
from untaught.evaluation.evaluator import Scorer, merge_rows
from untaught.evaluation.models import EvaluatedModel, open_model, random_init_encoder
from untaught.evaluation.next_item import VALIDATION
from untaught.evaluation.selection import DECISIVE, NextItemSelection, Selection, label_free_order
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.infer import chosen_modality
from untaught.pipeline.view_pipeline import Views
from untaught.report import comparison
from untaught.report.run_summary import gather
from untaught.signals import Interrupted
from untaught.storage.atomic import write_text
from untaught.storage.run_dir import Folder, free_path

CANDIDATES = (  # without --methods: one or two well-tried methods of each family, those whose views the data offer
    *("simclr", "vicreg", "byol", "swav"),
    *("mae", "mlm", "clm"),
    "rotation",
)
EACH = 5.0  # default minutes for each method, over all rounds
QUIET: Options = {"evaluate_every": 0}  # the rounds are scored here; kNN during training would take its share of the minutes
RANDOM = "random_init"


@dataclasses.dataclass
class CompareArguments:
    """The arguments of a comparison as given.

    methods: names, combinations (a+b:0.5), with knobs of their own as name:knob=value:knob=value; classes or functions; None: CANDIDATES.
    minutes, steps: the budget of training, over all methods and rounds; neither: EACH minutes a method. labels: all, 10/class or 1% of the
    training part. knobs: of every method's run.
    """

    data: Any
    methods: Sequence[MethodLike] | None = None
    minutes: float | None = None
    steps: int | None = None
    labels: str | None = None
    against: Sequence[Any] = ()
    encoder: Any = None
    out: Path | None = None
    modality: str | None = None
    columns: dict[str, str] | None = None
    label: str | None = None
    split: str | None = None
    knobs: Options = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.minutes = None if self.minutes is None else parse("minutes", self.minutes, Minutes)
        self.steps = None if self.steps is None else parse("steps", self.steps, Steps)


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A method in the comparison. title: as given, with its knobs; folder: of its run, inside the comparison's."""

    title: str
    method: MethodLike
    knobs: Options

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.+=-]", "-", self.title).strip(".-") or "method"


class NotTheMethod(UserError):
    """A fault in the labels or in an encoder to compare with: no method is left out for it."""


def compare(arguments: CompareArguments, resume: bool = False, finish: Callable[[Trained], None] = lambda trained: None) -> Path:
    """Compares methods -> the folder: compare.json, compare.html, and a run folder for each method.

    With `resume`, continues the comparison in arguments.out. finish: called with the winner's trained run. Raises UserError for faults that
    the caller can fix, Interrupted after a signal.
    """
    if started() is not None:
        raise UserError("compare trains in one process; start it without torchrun or srun")
    if resume and arguments.out is None:
        raise UserError("--resume requires --out, the comparison to resume")
    out = arguments.out or free_path(Path("runs") / f"compare-{data_stem(arguments.data)}")
    before = comparison.read(out) if resume and comparison.found(out) else None
    if resume and before is None and arguments.data is None:
        raise UserError(f"{out} has no comparison to resume; give data to start one")
    if before is not None:
        arguments = _as_before(arguments, before)
    elif comparison.found(out):
        raise UserError(f"{out} already contains a comparison; continue it with --resume, or choose another --out")
    if Folder(out).begun:
        raise UserError(f"{out} is a run folder; choose another --out for the comparison")
    folder = Folder(out)
    folder.hold(fresh=False)
    try:
        race = Race(dataclasses.replace(arguments, out=out), before)
        race.run(finish)
    except (KeyboardInterrupt, Interrupted) as stop:
        again = f"; continue with: untaught compare --out {out} --resume" if comparison.found(out) else "; nothing was saved"
        raise Interrupted(getattr(stop, "number", signal.SIGINT), again) from stop
    finally:
        folder.release()
    return out


class Race:
    """One comparison. state: the content of compare.json, written after every result."""

    def __init__(self, arguments: CompareArguments, before: Options | None) -> None:
        assert arguments.out is not None
        self.arguments, self.out = arguments, arguments.out
        self.labels = Trial(labels=arguments.labels or "all").labels  # refuses what can't be read
        self.began, self.warned = time.perf_counter(), set[str]()
        self.peers = _peers(arguments.against)
        if before is not None:
            self.state = before
            self.entrants = self._entrants_before()
            self.spent = before["seconds"]
            return
        self.spent = 0.0
        modality = chosen_modality(arguments.modality, arguments.data, arguments.columns, ())
        self.arguments = arguments = dataclasses.replace(arguments, modality=modality.name)
        refused = [key for key in ("devices", "nodes", "strategy", "epochs") if key in arguments.knobs]
        if refused:
            raise UserError(f"{refused[0]}: compare trains in one process, for minutes or steps; leave it out")
        named = arguments.methods is not None
        asked = entrants_of(arguments.methods) if named else entrants_of(_candidates(modality.method))
        self.left_out: dict[str, str] = {}
        self.baselines: dict[str, Options] = {}
        self.entrants = self._able(self._able(asked, named, self._resolved), named, self._tried)
        if not self.entrants:
            why = "; ".join(f"{title}: {reason}" for title, reason in self.left_out.items())
            raise UserError(f"no method can be compared on {modality.noun} ({why}); name some with --methods")
        budget = _budget(arguments, len(self.entrants))
        self.state = self._fresh(named, budget)
        self._save()

    # ------------------------------------------------------------------------------------------------------ before training

    def _able(self, entrants: list[Entrant], named: bool, check: Callable[[Entrant], None]) -> list[Entrant]:
        """Those that pass the check. One that was named stops the comparison; one of the default list is left out, and said."""
        able = []
        for one in entrants:
            try:
                check(one)
            except NotTheMethod:
                raise
            except UserError as error:
                if named:
                    raise UserError(f"{one.title}: {error}") from error
                self.left_out[one.title] = str(error)
                say(f"left out  {one.title}: {error}")
            else:
                able.append(one)
        return able

    def _resolved(self, one: Entrant) -> None:
        """Names, views and knobs. Raises UserError."""
        request = resolve(self._pretraining(one, {}), False)
        if len(roles := request.cls.roles()) > 1:
            raise UserError(f"it has the encoders {' and '.join(roles)}; compare scores methods with one")

    def _tried(self, one: Entrant) -> None:
        """Builds the run in a folder that is thrown away, and scores what needs no training: random init, and with the first method raw
        data and other encoders. Raises UserError if the encoder or the data don't suit the method, or memory is short."""
        with tempfile.TemporaryDirectory() as scratch:
            arguments = dataclasses.replace(self._pretraining(one, {}), out=Path(scratch) / "run")
            with hushed(self.warned, saying=not self.baselines):
                request = resolve(arguments, False)
                folder = Folder(Path(scratch) / "run")
                folder.hold(fresh=True)
                try:
                    run = build(request, folder, ProcessGroup(request.train_config, request.cls.find_unused_parameters))
                    self._score_baselines(run)
                finally:
                    folder.release()

    def _score_baselines(self, run: Run) -> None:
        try:
            selection = self._selection(run)
            if not self.baselines:
                say(f"scores    {selection.about}")
                self.about = selection.about
                self.baselines |= selection.baselines()
                for name, peer in self.peers.items():
                    network, view = _peer(name, peer, run.data)
                    self.baselines[name] = selection.score(network.to(_device(run)), view)
        except UserError as error:
            raise NotTheMethod(*error.args) from error
        name, knobs = _architecture(run)
        title = f"{RANDOM}: {name}" + "".join(f" {key}={value}" for key, value in knobs.items())
        if title not in self.baselines and not name.startswith("module:"):
            self.baselines[title] = selection.score(_random_init(run).to(_device(run)))

    def _selection(self, run: Run) -> Selection | NextItemSelection:
        assert isinstance(run.scorer, Scorer)
        found = Selection(run.scorer, self.labels, run.trainer.train_config.seed)
        ranked = found.why_not and run.next_item.possible and len(run.next_item.of(VALIDATION).rows)
        return NextItemSelection(run.next_item, found) if ranked else found

    def _pretraining(self, one: Entrant, length: Options) -> PretrainArguments:
        own = self.arguments
        how: Options = {"columns": own.columns, "label": own.label, "split": own.split, "modality": own.modality}
        return PretrainArguments(
            own.data, one.method, own.encoder, self.out / one.folder, knobs={**QUIET, **own.knobs, **one.knobs, **length}, **how
        )

    def _fresh(self, named: bool, budget: Options) -> Options:
        own = self.arguments
        each = [{"title": one.title, "method": method_title(one.method), "knobs": one.knobs, "folder": one.folder} for one in self.entrants]
        return {
            "schema": comparison.SCHEMA,
            "untaught": untaught.__version__,
            "data": data_names(own.data) or comparison.MEMORY,
            "modality": own.modality,
            "methods": each,
            "named": named,
            "left_out": self.left_out,
            "encoder": own.encoder if isinstance(own.encoder, str | None) else f"module:{type(own.encoder).__name__}",
            "columns": own.columns,
            "label": own.label,
            "split": own.split,
            "knobs": {key: value if isinstance(value, int | float | bool | None) else str(value) for key, value in own.knobs.items()},
            "labels": self.labels,
            "against": list(self.peers),
            **budget,
            "scored_on": self.about,
            "baselines": self.baselines,
            "rounds": [],
            "winner": None,
            "test": [],
            "seconds": 0.0,
        }

    def _entrants_before(self) -> list[Entrant]:
        given = {method_title(one): one for one in self.arguments.methods or () if not isinstance(one, str)}
        found = []
        for one in self.state["methods"]:
            method: MethodLike = given.get(one["method"]) or one["method"]
            method_class(method)  # a function or class from Python has to be passed again
            found.append(Entrant(one["title"], method, one["knobs"]))
        return found

    # -------------------------------------------------------------------------------------------------------------- rounds

    def run(self, finish: Callable[[Trained], None]) -> None:
        """The rounds that are left, then the winner's score on the test part."""
        state = self.state
        if state["winner"] is None:
            self._print_plan()
        while state["winner"] is None:
            alive = self._alive()
            number = len(state["rounds"]) - (1 if state["rounds"] and state["rounds"][-1]["kept"] is None else 0)
            if number == len(state["rounds"]):
                state["rounds"].append({"each": self._next(number, len(alive)).each, "results": {}, "dropped": {}, "kept": None})
                self._save()
            self._round(number, alive)
        if not state["test"] and not state.get("ended"):
            self._end(finish)
        say(f"wrote     {comparison.write(self.out)}")

    def _next(self, number: int, alive: int) -> Round:
        """The coming round: what is left of the budget, over the rounds that are left."""
        unit, total = self.state["unit"], self.state["budget"]
        spent = sum(one["each"] * len(one["results"] | one["dropped"]) for one in self.state["rounds"][:number])
        coming = schedule(alive, total - spent, max(rounds_for(len(self.state["methods"])) - number, 1))[0]
        if coming.each <= 0:
            raise UserError(f"{unit}={total} is too small a budget for {alive} methods; give at least {self.least()}")
        return coming

    def least(self) -> int:
        """The steps with which every method gets one in every round."""
        methods = len(self.state["methods"])
        return methods * rounds_for(methods)

    def _alive(self) -> list[str]:
        """Titles of the methods in the current round, those that are done with it included."""
        done = [one["kept"] for one in self.state["rounds"] if one["kept"] is not None]
        return done[-1] if done else [one.title for one in self.entrants]

    def _round(self, number: int, alive: list[str]) -> None:
        state, current = self.state, self.state["rounds"][number]
        for title in alive:
            if title not in current["results"] and title not in current["dropped"]:
                self._advance(number, next(one for one in self.entrants if one.title == title))
                self._save()
        results = current["results"]
        if not results:
            causes = "; ".join(f"{title}: {why}" for one in state["rounds"] for title, why in one["dropped"].items())
            raise UserError(f"every method failed or collapsed ({causes}); see {self.out}")
        order, agreement = self._order(results)
        last = number + 1 >= rounds_for(len(state["methods"])) or len(results) == 1
        decisive = agreement is None or agreement >= DECISIVE
        current |= {"order": order, "agreement": agreement}
        current["kept"] = [title for title in alive if title in order[: survivors(len(order)) if decisive else len(order)]]
        if not decisive and len(order) > 1:
            said = f"the criteria disagree (rank correlation {agreement:.2f}): not decisive"
            say(f"round {number + 1}   {said}" + ("" if last else f", all {len(order)} go on"))
        elif not last:
            say(f"round {number + 1}   going on: {', '.join(current['kept'])}")
        if last:
            state["winner"] = order[0]
        self._save()

    def _order(self, results: Options) -> tuple[list[str], float | None]:
        """Titles, best first, and without labels the agreement of the criteria."""
        if all("score" in one for one in results.values()):
            return sorted(results, key=lambda title: -results[title]["score"]), None
        return label_free_order(results)

    def _advance(self, number: int, one: Entrant) -> None:
        """Trains a method by the round's share, and scores it; or records why it is dropped."""
        current, unit = self.state["rounds"][number], self.state["unit"]
        total = sum(done["each"] for done in self.state["rounds"][: number + 1])
        arguments = self._pretraining(one, {unit: total})
        begun = Folder(self.out / one.folder).begun
        if begun:  # the knobs are those of its run.yaml
            arguments.knobs = {unit: total}
        found: list[Options] = []

        def ending(run: Run) -> Trained:
            save_all(run, {})
            before = time.perf_counter()
            score = self._selection(run).score(_exported(run).to(_device(run)))
            trainer = run.trainer
            about = {"encoder": run.starts[_role(run)].title, "steps": trainer.step, "seconds": trainer.seconds}
            found.append(score | about | {"scoring_seconds": time.perf_counter() - before})
            return Trained(run.folder.path)

        try:
            with hushed(self.warned):
                pretrain(arguments, begun, ending=ending)
            result = found[0] | _losses(self.out / one.folder)
            cause = _collapse(self.out / one.folder)
        except Exception as error:
            if isinstance(error, OSError) or "no space left" in str(error) or "is in use by process" in str(error):
                raise
            lines = str(error).strip().splitlines()
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0] if lines else ''}"
            result, cause = None, f"failed: {reason}"
        if cause:
            current["dropped"][one.title] = cause
            warn(f"{one.title} is dropped in round {number + 1}: {cause}")
        else:
            assert result is not None
            current["results"][one.title] = result
            say(f"round {number + 1}   {comparison.line(one.title, result)}")

    # ------------------------------------------------------------------------------------------------------------- the end

    def _end(self, finish: Callable[[Trained], None]) -> None:
        """Concludes the winner's run, and scores it and its baselines on the test part."""
        winner = next(one for one in self.entrants if one.title == self.state["winner"])
        say(f"winner    {winner.title}")

        def ending(run: Run) -> Trained:
            with hushed(self.warned):
                trained = conclude(run)
            selection = self._selection(run)
            if selection.testable:
                networks: list[tuple[str, Encoder, Views | None]] = [("encoder", _exported(run), None)]
                if not _architecture(run)[0].startswith("module:"):
                    networks.append((RANDOM, _random_init(run), None))
                networks += [(name, *_peer(name, peer, run.data)) for name, peer in self.peers.items()]
                rows: list[Options] = []
                for features, network, view in networks:
                    rows += selection.test(features, network.to(_device(run)), view)
                rows += selection.test_baselines()
                merge_rows(run.folder.path / "evaluation.json", rows)
                self.state["test"] = rows
            return trained

        again = self._pretraining(winner, {})
        again.knobs = {}  # its length is that of the checkpoint: it is not trained any further
        with hushed(self.warned):
            pretrain(again, True, finish, ending)
        self.state["ended"] = True
        self._save()

    def _print_plan(self) -> None:
        plan = schedule(len(self.entrants), self.state["budget"])
        unit = self.state["unit"]
        said = ", ".join(f"{one.candidates} x {one.each:.3g}" for one in plan)
        say(f"budget    {unit}={self.state['budget']:g} of training over {len(plan)} rounds (methods x {unit}): {said}")
        say(f"methods   {', '.join(one.title for one in self.entrants)}")
        if min(one.each for one in plan) <= 0:
            raise UserError(f"{unit}={self.state['budget']} is too small a budget; give at least {self.least()}")
        for title, found in self.state["baselines"].items():
            say(f"baseline  {comparison.line(title, found)}")

    def _save(self) -> None:
        self.state["seconds"] = round(self.spent + time.perf_counter() - self.began, 1)
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / comparison.FILE, json.dumps(comparison.plain_numbers(self.state), indent=1))


# ------------------------------------------------------------------------------------------------------------- arguments


def entrants_of(methods: Sequence[MethodLike] | None) -> list[Entrant]:
    """`name:knob=value` -> its entrant. Raises UserError for an unknown name, and for one that is given twice."""
    found: list[Entrant] = []
    for one in methods or ():
        if isinstance(one, str):
            parts = one.strip().split(":")
            first = next((i for i, part in enumerate(parts) if "=" in part), len(parts))
            if wrong := [part for part in parts[first:] if "=" not in part]:
                raise UserError(f"{one}: {wrong[0]} is not a knob; write METHOD:KNOB=VALUE, e.g. simclr:temperature=0.2")
            method, knobs = ":".join(parts[:first]), dict(part.split("=", 1) for part in parts[first:])
            if taken := [key for key in knobs if key in LENGTHS]:
                raise UserError(f"{one}: {taken[0]} is the same for all methods; give it once, as --minutes or steps=")
            method_class(method)
            title = ":".join([method_title(method), *parts[first:]])
        else:
            method, knobs, title = one, {}, method_title(one).split(":")[-1]
        found.append(Entrant(title, method, knobs))
    folders = [one.folder for one in found]
    if twice := [one.title for one in found if folders.count(one.folder) > 1]:
        raise UserError(f"--methods has {twice[0]} twice; give each once")
    if methods is not None and not found:
        raise UserError("--methods is empty; give names, as simclr,mae, or leave it out")
    return found


def _candidates(first: str) -> list[str]:
    """The default methods: the modality's own first, then CANDIDATES that are known."""
    return [name for name in dict.fromkeys((first, *CANDIDATES)) if name in method_table()]


def _budget(arguments: CompareArguments, methods: int) -> Options:
    """ "unit" and "budget"."""
    given = {"minutes": arguments.minutes, "steps": arguments.steps}
    chosen = {key: value for key, value in given.items() if value is not None}
    if len(chosen) > 1:
        raise UserError("minutes and steps are mutually exclusive; give one of them, for all methods together")
    if not chosen:
        return {"unit": "minutes", "budget": EACH * methods}
    unit, budget = next(iter(chosen.items()))
    least = methods * rounds_for(methods)
    if unit == "steps" and budget < least:
        raise UserError(f"steps={budget} is too small a budget for {methods} methods; give at least {least}, one for each in each round")
    return {"unit": unit, "budget": budget}


def _as_before(given: CompareArguments, before: Options) -> CompareArguments:
    """The arguments of the comparison that is resumed. Raises UserError for one that would change it, and for data, an encoder or a method
    from Python that was not passed again."""
    had = {key: before[key] for key in ("columns", "label", "split", "labels", "modality")}
    had |= {"minutes": None, "steps": None, before["unit"]: before["budget"]}
    for key, value in had.items():
        if (own := getattr(given, key)) is not None and own != value:
            raise UserError(f"{key} {own}: the comparison in {given.out} has {value or 'none'}; leave it out, or choose another --out")
    if given.knobs or isinstance(given.encoder, str):
        name = next(iter(given.knobs), "encoder")
        raise UserError(f"{name}: a comparison is resumed as it was started; leave it out, or choose another --out")
    again = {"data": given.data if given.data is not None else before["data"]}
    again["encoder"] = given.encoder if given.encoder is not None else before["encoder"]
    if again["data"] == comparison.MEMORY or str(again["encoder"]).startswith("module:"):
        raise UserError(f"{given.out} was compared on data, or with an encoder, passed from Python; pass them again from Python")
    if given.data is not None and (data_names(given.data) or comparison.MEMORY) != before["data"]:
        raise UserError(f"the comparison in {given.out} is of {before['data']}; resume it without data, or choose another --out")
    return dataclasses.replace(given, **had, **again, knobs=before["knobs"], against=given.against or before["against"])


def _peers(against: Sequence[Any]) -> dict[str, Any]:
    """Encoders to compare with, by name."""
    names = [str(getattr(one, "path", one)) if not isinstance(one, torch.nn.Module) else type(one).__name__ for one in against]
    if len(set(names)) < len(names):
        raise UserError("--against contains an encoder twice; give each once")
    return {f"against:{name.removeprefix('against:')}": getattr(one, "path", one) for name, one in zip(names, against, strict=True)}


def _peer(name: str, target: Any, data: Dataset) -> tuple[Encoder, Views]:
    """The network of --against and the view that it reads. Raises UserError if it can't read the data."""
    if isinstance(target, str):
        target = target.removeprefix("against:")
    peer: EvaluatedModel = open_model(target, lambda: data.modality)
    if peer.prep and (
        peer.modality is not data.modality or data.modality.kind(peer.prep.settings) != data.modality.kind(data.prep.settings)
    ):
        raise UserError(f"{name[8:]} takes other data, or preprocesses them differently; leave it out of --against")
    return peer.build(data), peer.views(data.prep, (peer.view,))


# ------------------------------------------------------------------------------------------------------------------ runs


def _role(run: Run) -> str:
    return next(iter(run.exported))


def _exported(run: Run) -> Encoder:
    return run.method.exported()[_role(run)]


def _architecture(run: Run) -> tuple[str, Options]:
    return run.starts[_role(run)].architecture


def _random_init(run: Run) -> Encoder:
    name, knobs = _architecture(run)
    return random_init_encoder(name, run.data.prep.part(_role(run)).encoder_arguments, knobs, run.trainer.train_config.seed)


def _device(run: Run) -> torch.device:
    return run.trainer.train_step.device


def _losses(folder: Path) -> Options:
    """The first and the last logged loss."""
    losses = gather(folder, drawn=False).series("loss")
    return {"first_loss": losses[0][1], "loss": losses[-1][1]} if losses else {}


def _collapse(folder: Path) -> str:
    """The cause of a collapse at the run's last health check, else ""."""
    health = gather(folder, drawn=False).health
    last = health[-1][1] if health else {}
    return f"collapsing because {last['because']}" if last.get("because") else ""
