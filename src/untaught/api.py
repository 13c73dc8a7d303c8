"""The Python API, which the command line also calls: thin functions over packages that are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from untaught.console import say, warn
from untaught.core import Encoder, Options
from untaught.core import UserError as UserError
from untaught.inference.endings import check_ending

if TYPE_CHECKING:
    import pandas

    from untaught.commands.anomaly import Detected
    from untaught.commands.pretrain import Trained
    from untaught.config.registry import MethodLike
    from untaught.export.formats import Exported
    from untaught.inference.embed import Vectors
    from untaught.pipeline.batch_views import BatchViews
    from untaught.pipeline.pretrained import Pretrained

PathArgument = str | PathLike[str]
VECTORS, PREDICTIONS = (".parquet", ".npy"), (".csv", ".parquet")


class Run:
    """A finished run's folder, or an encoder folder.

    `path` is the folder; `encoder` and `config` are loaded on first use and raise UserError if the folder has no encoder.
    """

    def __init__(self, path: PathArgument, model: Pretrained | None = None) -> None:
        self.path = Path(path)
        if model is not None:
            self.model = model

    @cached_property
    def model(self) -> Pretrained:
        """The encoder with its config and preprocessor."""
        from untaught.pipeline.pretrained import load_encoder

        return load_encoder(self.path)

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of its encoders if it has several; each can be opened as `Run(run.path / "encoder" / role)`."""
        from untaught.pipeline.pretrained import roles_in

        return roles_in(self.path) if self.path.exists() else ()

    @property
    def encoder(self) -> Encoder:
        """The trained encoder, in eval mode: encoder(view) -> (B, width)."""
        return self.model.network

    @property
    def config(self) -> Options:
        """The encoder's config.json: method, modality, layout, view, statistics ..."""
        return self.model.config

    @property
    def scores(self) -> list[Options]:
        """The rows of evaluation.json; [] if nothing was measured."""
        from untaught.evaluation.evaluator import read_rows

        return read_rows(self.path / "evaluation.json")

    def evaluate(self, data: Any = None, against: Sequence[PathArgument | nn.Module | Run] = (), **options: Any) -> list[Options]:
        """`untaught.evaluate` for this run; without data, on the run's own."""
        return evaluate(self, data, against, **options)

    @overload
    def embed(
        self,
        data: Any = None,
        out: None = None,
        *,
        columns: dict[str, str] | None = None,
        batch_size: int = 256,
        tokens: bool = False,
        items: bool = False,
    ) -> Vectors: ...

    @overload
    def embed(
        self,
        data: Any,
        out: PathArgument,
        *,
        columns: dict[str, str] | None = None,
        batch_size: int = 256,
        tokens: bool = False,
        items: bool = False,
    ) -> Path: ...

    def embed(
        self,
        data: Any = None,
        out: PathArgument | None = None,
        *,
        columns: dict[str, str] | None = None,
        batch_size: int = 256,
        tokens: bool = False,
        items: bool = False,
    ) -> Vectors | Path:
        """`untaught.embed` for this run."""
        place = _place(out)
        if place is not None:
            check_ending(place, VECTORS)
        from untaught.inference.embed import Embedder, joined, vectors_of, write_vectors

        if items:
            from untaught.inference.item_vectors import ItemVectors

            if data is not None or tokens:
                raise UserError(f"the vectors of all items need no {'data' if data is not None else 'tokens'}; leave it out, or items")
            vocabulary = ItemVectors(self.model)
            if place is None:
                return joined(list(vocabulary))
            write_vectors(vocabulary, place)
            return place
        if data is None:
            raise UserError("no data given; pass some, or items (--items) for the vectors of all items that the encoder knows")
        if tokens:
            from untaught.inference.tokens import TokenEmbedder, tokens_of, write_tokens

            dense = TokenEmbedder(self.model, data, columns, batch_size)
            if place is None:
                return tokens_of(dense)
            write_tokens(dense, place)
            return place
        embedder = Embedder(self.model, data, columns, batch_size)
        if place is not None:
            write_vectors(embedder, place)
            return place
        return vectors_of(embedder)

    def finetune(
        self,
        data: Any = None,
        task: str = "classify",
        *,
        out: PathArgument | None = None,
        columns: dict[str, str] | None = None,
        label: str | None = None,
        split: str | None = None,
        **knobs: Any,
    ) -> Model:
        """`untaught.finetune` for this run."""
        from untaught.commands import finetune as commands

        chosen: Any = {"task": task, "out": _place(out), "columns": columns, "label": label, "split": split, "knobs": _dotted(knobs)}
        start = commands.relearning(self.path) or self.model
        model = Model(*commands.finetune(start, self.path, data, **chosen))
        refresh(self.path)
        return model

    def predict(self, text: str, **options: Any) -> list[Options]:
        """Applies the run's language model to a text.

        A masked language model returns a row {"mask", "word", "probability"} for each of the `best` words (5) per mask. A causal or
        denoising one returns one row {"text"}; options: `tokens` (maximum number of new tokens, 60), `temperature` (0.8; 0 is greedy),
        `top_p` (0.95), `seed` (0). Raises UserError: no language model, no mask in the text, more tokens than the model's context.
        """
        from untaught.inference.generate import generate

        return generate(self.path, text, **options)

    def solve(
        self,
        data: Any,
        out: PathArgument | None = None,
        *,
        columns: dict[str, str] | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> pandas.DataFrame | Path:
        """What the run's method makes of new data: its answers to the pretext task, prototypes; attention maps of a ViT; next items.

        For events: the ten items that a user has not had and is likeliest to have next: row, name, rank, item, probability.

        Returns row, name, the measures of each answer, "prototype", and as arrays (H,W,3) uint8 what the method sees ("input"), its
        "answer", and the "attention" map. With `out`, a folder is written instead, or for .csv or .parquet a table (see
        `untaught.inference.pretext.write_answers`), and its path returned. seed: of what is drawn, such as masks.
        Raises UserError if the run makes nothing that can be shown, with the methods that do.
        """
        from untaught.inference.pretext import Pretext, frame_of, write_answers

        place = _place(out)
        if place is not None and place.suffix:
            check_ending(place, PREDICTIONS)
        from untaught.inference.next_items import offers_next_items

        if offers_next_items(self.path):
            return self._next_items(data, place, columns, batch_size)
        pretext = Pretext(self.path, data, columns, batch_size, seed)
        if place is None:
            return frame_of(pretext)
        write_answers(pretext, place, seed)
        return place

    def _next_items(self, data: Any, place: Path | None, columns: dict[str, str] | None, batch_size: int) -> pandas.DataFrame | Path:
        import pyarrow as pa

        from untaught.inference.next_items import NextItems
        from untaught.inference.predict import write_tables

        found = NextItems(self.model, data, columns, batch_size)
        if place is None:
            return pa.concat_tables(found.tables()).to_pandas()
        check_ending(place, PREDICTIONS)
        say(f"wrote     {write_tables(found.tables(), place):,} next items to {place}")
        return place

    def export(self, to: str | None = None, data: Any = None, columns: dict[str, str] | None = None) -> Exported:
        """Exports the encoder for use without this library and checks it on real samples -> its path, how to load it, its maximum error.

        to: "timm", "transformers", "torch" or "onnx"; by default the first that supports the encoder. data: samples for the check; by
        default those saved with the run. Raises UserError if the format does not support the encoder or its outputs differ.
        """
        from untaught.export.formats import export

        return export(self.path, to, data, columns)

    def report(self) -> Path:
        """Writes report.html from the run folder, finished or not, and returns its path."""
        from untaught.report import write

        return write(self.path)


class Model:
    """A fine-tuned model's folder: `path`, `network` (in eval mode), `config`."""

    def __init__(self, path: PathArgument, model: Pretrained | None = None) -> None:
        self.path = Path(path)
        if model is None:
            from untaught.inference.predict import load_model

            model = load_model(self.path)
        self.model = model

    @property
    def network(self) -> nn.Module:
        """The encoder with its head, in eval mode."""
        return self.model.network

    @property
    def config(self) -> Options:
        """The model's config.json: task, classes, encoder, scores ..."""
        return self.model.config

    @property
    def scores(self) -> list[Options]:
        """Its scores on held-out samples, as rows of evaluation.json."""
        return self.config["scores"]

    @overload
    def predict(self, data: Any, out: None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> pandas.DataFrame: ...

    @overload
    def predict(self, data: Any, out: PathArgument, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> Path: ...

    def predict(
        self, data: Any, out: PathArgument | None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256
    ) -> pandas.DataFrame | Path:
        """Predictions for new data, in its order: row, name, label, probability and p_CLASS for every class; or row, name and value; of a
        forecast row, name, step, time, channel and value.

        With `out` (.csv or .parquet), they are written there in bounded memory and the path is returned.
        """
        place = _place(out)
        from untaught.inference.predict import Predictor, write_predictions

        predictor = Predictor(self.model, data, columns, batch_size)
        if place is not None:
            write_predictions(predictor, place)
            return place
        import pyarrow as pa

        return pa.concat_tables(predictor).to_pandas()


# ------------------------------------------------------------------------------------------------------ train and measure


def pretrain(
    data: Any = None,
    method: MethodLike | None = None,
    *,
    encoder: str | nn.Module | Mapping[str, str | nn.Module] | None = None,
    out: PathArgument | None = None,
    modality: str | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    resume: bool = False,
    again: PathArgument | None = None,
    **knobs: Any,
) -> Run:
    """Trains an encoder on unlabelled data.

    data: a path, a name, arrays or a table (see `untaught.data.sources.open_source`). modality: "image", "text" ...; inferred from the
    data if unambiguous. method: a name, a combination such as "simclr+mae:0.5", a Method class, or a function
    (views, encoder, *, knobs) -> terms, see docs/methods.md; by default simclr, for text mlm. encoder: a name, a module, or the encoder
    folder of an earlier run; for a method with several encoders (clip), a dictionary by role. knobs: of the loop, the method, the encoder
    and the views, as on the command line, with a dot written as two underscores (`encoder__width=64`). resume: continue from the newest
    checkpoint of `out`. again: a run folder or run.yaml to repeat; other arguments override its own.
    Raises UserError, one line, for every fault that the caller can fix.
    """
    from untaught.commands import pretrain as commands

    arguments = _pretrain_arguments(data, method, encoder, out, modality, columns, label, split, again, knobs)
    trained = commands.pretrain(arguments, resume, finish)
    if trained.model is None:
        return Run(trained.path)
    from untaught.pipeline.pretrained import for_inference

    return Run(trained.path, trained.model._replace(network=for_inference(trained.model.network)))


def pretrain_seeds(
    data: Any = None,
    method: MethodLike | None = None,
    *,
    seeds: int,
    encoder: str | Mapping[str, str] | None = None,
    out: PathArgument | None = None,
    modality: str | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    resume: bool = False,
    again: PathArgument | None = None,
    **knobs: Any,
) -> list[Run]:
    """`pretrain` with several training seeds, as out/seed-S; out/evaluation.json has the rows of all runs, with their "seed".

    Arguments as for `pretrain`; seeds: their number, counting up from the knob `seed` (0). Raises UserError.
    """
    from untaught.commands.seeds import pretrain_seeds as run

    arguments = _pretrain_arguments(data, method, encoder, out, modality, columns, label, split, again, knobs)
    return [Run(place) for place in run(arguments, seeds, resume, finish)]


class Comparison:
    """The folder of a comparison: `path`, and `result`, the content of compare.json."""

    def __init__(self, path: PathArgument) -> None:
        from untaught.report import comparison

        self.path = Path(path)
        self.result: Options = comparison.read(self.path)

    @property
    def winner(self) -> Run:
        """The run of the chosen method. Raises UserError if there is none yet."""
        chosen = self.result["winner"]
        if chosen is None:
            raise UserError(f"{self.path} is not finished; continue it with resume=True")
        return Run(self.path / next(one["folder"] for one in self.result["methods"] if one["title"] == chosen))

    @property
    def sentences(self) -> list[str]:
        """What was found, in words."""
        from untaught.report import comparison

        return comparison.sentences(self.result)


def compare(
    data: Any = None,
    methods: Sequence[MethodLike] | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    labels: str | None = None,
    against: Sequence[PathArgument | nn.Module | Run] = (),
    encoder: str | nn.Module | None = None,
    out: PathArgument | None = None,
    modality: str | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    resume: bool = False,
    **knobs: Any,
) -> Comparison:
    """Which pretext task suits the data: trains several methods by successive halving, and measures the best on the test part.

    In each round every method left gets an equal share of the round's budget, is resumed where it was, and is scored by a probe on a
    validation part taken from the labelled training samples; the better half goes on. Without labels, RankMe, alpha-ReQ and the pretext
    loss decide if they agree. Random init, raw data and `against` (see `evaluate`) are scored alike. The folder `out` gets compare.json,
    compare.html and a run folder for each method.

    data, encoder, modality, columns, label, split: as for `pretrain`. methods: names, with knobs of their own as
    "simclr:temperature=0.2", combinations, classes, functions; by default some of those that can read the data. minutes, steps: the budget
    of training, over all methods and rounds; by default five minutes a method; scoring comes on top. labels: "all", "10/class" or "1%" of
    the training samples: the labels that the comparison may use. resume: continue the comparison in `out`. knobs: of all runs. Raises
    UserError, one line, for every fault that the caller can fix.
    """
    from untaught.commands import compare as commands

    chosen: Options = {"minutes": minutes, "steps": steps, "labels": labels, "against": against, "encoder": encoder, "out": _place(out)}
    chosen |= {"modality": modality, "columns": columns, "label": label, "split": split, "knobs": _dotted(knobs)}
    return Comparison(commands.compare(commands.CompareArguments(data, methods, **chosen), resume, finish))


def runs(folder: PathArgument = "runs", sort: str | None = None, out: PathArgument | None = None) -> list[Options]:
    """The runs in a folder and its subfolders, one row each: run, data, method, encoder, steps, minutes (of training), score with its probe
    and metric, the same of random init and raw data, health, state ("finished", or what is wrong).

    sort: the name of a column: text from a to z, numbers from the largest; by default the path. out: a .csv, or an .html page with sortable
    columns. Raises UserError: no such folder, no run in it, no such column, another ending.
    """
    from untaught.report.runs import list_runs, write

    rows = list_runs(Path(folder), sort)
    if (place := _place(out)) is not None:
        write(rows, Path(folder), place)
    return rows


def evaluate(
    encoder: PathArgument | nn.Module | Run,
    data: Any = None,
    against: Sequence[PathArgument | nn.Module | Run] = (),
    *,
    modality: str | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    group: str | None = None,
    batch_size: int = 256,
    out: PathArgument | None = None,
    task: str | None = None,
    **knobs: Any,
) -> list[Options]:
    """Runs the probes for the kind of labels on frozen features -> rows of evaluation.json.

    Classes: kNN, linear probe, few labels, clustering. Several classes per sample: kNN, one-vs-rest probe, few labels. Numbers: kNN and
    ridge regression, few labels. Always, also without labels: the spectrum.

    encoder, against: a run, a run or encoder folder, "timm/NAME", "timm/NAME=WEIGHTS", "transformers/NAME", or a module that maps images
    (B,C,H,W) to (B,D). data: labelled, as for `pretrain`; by default the run's own. The encoder at random init ("random_init") and the
    "raw" data are always evaluated as baselines. Labels are used only for scores. group: a column (speaker, patient, run) whose values are
    left out one by one: probes are fitted on all others and scored on it; rows of the mean have "groups", those of one group "group".
    task: "classify", "multilabel" or "regress", for a class, several classes or a number per sample; by default as the labels are read;
    "tag", "segment", "transcribe" or "forecast": a linear head on the frozen encoder, with random init as the baseline; for masks also
    pixel colours, and k-means without labels; for forecasts also those without an encoder; "verify": whether two samples have one label,
    by the cosines of pairs: equal error rate; "propagate": of videos (a folder or .zip of their frames), the masks of the first frame
    carried to the others; J and F of DAVIS, beside the first mask, unchanged. knobs: labels="1%,25%,10/class", the amounts of labels that
    probes learn from beside all; noise=0.3, all labels with a share of wrong ones (classes); boosting=True, gradient boosting on raw data,
    vectors and both (the default for tables); preprocessing of an encoder that was not trained here, e.g. length=64 (tokens of a text); of
    the task, e.g. binary=True, trials="pairs.csv", horizon=24. Raises UserError, one line, for every fault that the caller can fix.
    """
    from untaught.downstream import TASKS
    from untaught.evaluation.evaluate import KINDS
    from untaught.evaluation.evaluate import evaluate as measure

    if group and task is not None and task not in KINDS:
        raise UserError(f"--group leaves groups out of the probes of {', '.join(KINDS)}; --task {task} has none, leave it out")
    if task == "propagate":
        given = {"columns": columns, "label": label, "split": split}
        return _propagate(encoder, data, against, modality, _place(out), given, _dotted(knobs))
    if task in TASKS and task not in KINDS:
        return _frozen(encoder, data, against, task, _place(out), columns=columns, label=label, split=split, knobs=_dotted(knobs))
    plain = [(one.model, one.path) if isinstance(one, Run) and not one.roles else getattr(one, "path", one) for one in (encoder, *against)]
    place = _place(out)
    how: dict[str, Any] = {
        "modality": modality,
        "columns": columns,
        "label": label,
        "split": split,
        "group": group,
        "batch_size": batch_size,
    }
    rows = measure(plain[0], data, against=plain[1:], out=place, task=task, knobs=knobs, **how)
    if place is None and isinstance(encoder, Run | str | PathLike):
        refresh(encoder.path if isinstance(encoder, Run) else Path(encoder))
    return rows


def _frozen(encoder: Any, data: Any, against: Sequence[Any], task: str, out: Path | None, **how: Any) -> list[Options]:
    from untaught.commands.frozen import frozen_probe

    if data is None:
        raise UserError(f"no data given; pass some with targets for --task {task}")
    for one in (encoder, *against):
        if isinstance(one, nn.Module):
            raise UserError(f"--task {task} requires a run or an encoder folder, not a {type(one).__name__}")
    runs = [_run(one) for one in (encoder, *against)]
    loaded = [(str(run.path), (run.model, run.path)) for run in runs]
    rows = frozen_probe(loaded[0][1], data, task, against=loaded[1:], out=out, **how)
    if out is None:
        refresh(runs[0].path)
    return rows


def _propagate(
    encoder: Any, data: Any, against: Sequence[Any], modality: str | None, out: Path | None, unused: Options, knobs: Options
) -> list[Options]:
    from untaught.commands.propagate import propagation_probe
    from untaught.config.overrides import parse

    if data is None:
        raise UserError("no data given; pass --data, a folder or .zip of videos with masks")
    if modality not in (None, "image"):
        raise UserError(f"--task propagate is for images, not modality {modality}; leave out --modality")
    if useless := [name for name, value in unused.items() if value is not None]:
        raise UserError(f"--task propagate reads videos by their folders, without --{useless[0]}; leave it out")
    if wrong := sorted(set(knobs) - {"binary"}):
        raise UserError(f"--task propagate has no knob {wrong[0]}; allowed: binary=yes")
    binary = parse("binary", knobs.get("binary", False), bool)
    targets = [(one.model, one.path) if isinstance(one, Run) else one for one in (encoder, *against)]
    names = [str(getattr(one, "path", one)) if not isinstance(one, nn.Module) else type(one).__name__ for one in against]
    rows = propagation_probe(targets[0], data, against=list(zip(names, targets[1:], strict=True)), out=out, binary=binary)
    if out is None and isinstance(encoder, Run | str | PathLike):
        refresh(encoder.path if isinstance(encoder, Run) else Path(encoder))
    return rows


def finetune(run: PathArgument | Run, data: Any = None, task: str = "classify", **options: Any) -> Model:
    """Trains an encoder and a head on labelled data, with the same network trained from scratch as the baseline -> the model.

    run: a Run, or its folder or encoder folder. data: labelled, as for `pretrain`; None for those of the run. task: "classify",
    "multilabel" for several classes per sample, "regress" for a number, "segment", "tag", "transcribe", or "forecast" for the next values
    of series. options: out (the model's folder; default RUN/finetuned), columns, label, split, and knobs as on the command line
    (`labels="1%"`), with a dot written as two underscores. Raises UserError, one line, for every fault that the caller can fix.
    """
    return _run(run).finetune(data, task, **options)


@overload
def embed(
    run: PathArgument | Run,
    data: Any = None,
    out: None = None,
    *,
    columns: dict[str, str] | None = None,
    batch_size: int = 256,
    tokens: bool = False,
    items: bool = False,
) -> Vectors: ...


@overload
def embed(
    run: PathArgument | Run,
    data: Any,
    out: PathArgument,
    *,
    columns: dict[str, str] | None = None,
    batch_size: int = 256,
    tokens: bool = False,
    items: bool = False,
) -> Path: ...


def embed(
    run: PathArgument | Run,
    data: Any = None,
    out: PathArgument | None = None,
    *,
    columns: dict[str, str] | None = None,
    batch_size: int = 256,
    tokens: bool = False,
    items: bool = False,
) -> Vectors | Path:
    """Vectors (N, width) float32 of new data, in its order; with `out` (.parquet or .npy), written there in bounded memory.

    tokens: (N, h*w, width), the vectors of the encoder's tokens, or else of its last map, in row-major order, with `grid` (h, w); for
    samples of different lengths only with `out` .parquet, as lists. items: instead of data, the vectors of all items (of events) or words
    that the encoder knows, with their `names`. run: a Run, or its folder or encoder folder. Unreadable records are
    skipped with a warning: `rows` (N,) of the vectors are the indices of the others, `names` their names. Raises UserError if no record
    can be read.
    """
    return _run(run).embed(data, out, columns=columns, batch_size=batch_size, tokens=tokens, items=items)  # type: ignore[call-overload]


def predict(
    model: PathArgument | Model | Run,
    data: Any,
    out: PathArgument | None = None,
    *,
    columns: dict[str, str] | None = None,
    batch_size: int = 256,
    **options: Any,
) -> pandas.DataFrame | Path | list[Options]:
    """Predictions of a fine-tuned model for new data (see `Model.predict`), of a language model for a text (see `Run.predict`), or
    of a pretext task's head for new data (see `Run.solve`).

    model: a Model, its folder or the folder of its run; for a text, a run of mlm, clm or seq2seq_denoising; a run without a fine-tuned
    model for its pretext task. out: a .csv or .parquet file, or a folder of images; its path is returned. options: for a text, those of
    `Run.predict`; for a pretext task, `seed`. Raises UserError.
    """
    from untaught.inference.generate import can_generate, names_data
    from untaught.inference.predict import holds_model

    place = model if isinstance(model, str | PathLike) else model.path
    if not isinstance(model, Model) and isinstance(data, str) and can_generate(Path(place)) and not names_data(data):
        return Run(place).predict(data, **options)
    tuned = isinstance(model, Model) or holds_model(Path(place)) or holds_model(Path(place) / "finetuned")
    if isinstance(model, Run) or (not tuned and Path(place).exists()):
        return Run(place).solve(data, out, columns=columns, batch_size=batch_size, seed=options.get("seed", 0))
    target = _place(out)
    if target is not None and target.suffix:  # without a suffix, it is a folder of masks
        check_ending(target, PREDICTIONS)
    found = model if isinstance(model, Model) else Model(place)
    return found.predict(data, target, columns=columns, batch_size=batch_size)  # type: ignore[call-overload]


class Anomalies:
    """Scores of time steps: `table`, `scores` (rows of the measures, [] without labels), `sentences`; `path`, of the folder, or None."""

    def __init__(self, detected: Detected, path: Path | None) -> None:
        self.detected, self.path = detected, path
        self.scores: list[Options] = detected.rows

    @cached_property
    def table(self) -> pandas.DataFrame:
        """series, step, time, one column a detector, and anomaly where it is labelled; a row for each time step with a value."""
        import pandas as pd

        from untaught.report.anomaly import table_of

        own = self.detected
        return pd.concat([one.to_pandas() for one in table_of(own.recordings, own.observed, own.scores)], ignore_index=True)

    @property
    def sentences(self) -> list[str]:
        """What was found, in words."""
        from untaught.commands.anomaly import sentences

        return sentences(self.detected)


def anomaly(
    run: PathArgument | Run,
    data: Any,
    out: PathArgument | None = None,
    *,
    ranges: PathArgument | None = None,
    label: str | None = None,
    reference: Any = None,
    columns: dict[str, str] | None = None,
    batch_size: int = 256,
    **knobs: Any,
) -> Anomalies:
    """Scores every time step of long series, higher where more anomalous, and compares with classical detectors.

    The encoder's scores are the distance of a window's features to the nearest ones ("knn") and the error of its method's answer to its
    pretext task (mae, denoising, autoencoder, vae: "reconstruction"; forecasting: "forecast"); beside them are the same encoder at random
    init, and nearest neighbours, sub-PCA and an isolation forest on raw windows.
    data: tables with one row per time step (a file, a folder, a pattern, a frame), or as for `pretrain`. ranges: a .json or .csv of the
    labels; label: a column of 0 and 1. With either, VUS-PR and AUC-PR of each series are measured, without point adjustment. reference:
    normal data to compare with; by default `data` itself, without labels. out: a new folder for scores.csv, pictures and report.html.
    knobs: window (time steps; by default as in training), neighbours (10). Raises UserError, one line, for every fault that the caller can
    fix.
    """
    from untaught.commands.anomaly import KNOBS, detect, write
    from untaught.config.overrides import parse, unknown

    if wrong := sorted(knobs.keys() - KNOBS.keys()):
        raise unknown("knob", wrong[0], KNOBS)
    given = {name: parse(name, value, KNOBS[name]) for name, value in knobs.items()}
    opened, place = _run(run), _place(out)
    how: dict[str, Any] = {"ranges": _place(ranges), "label": label, "reference": reference, "columns": columns, "batch_size": batch_size}
    detected = detect(opened.model, opened.path, data, out=place, **how, **given)
    if place is not None:
        write(detected, opened.path, data, place)
    return Anomalies(detected, place)


def anomalies_as_text(found: Anomalies) -> str:
    """The measures of every detector as tables; "" if nothing is labelled."""
    from untaught.commands.anomaly import TITLES
    from untaught.report.anomaly import as_text

    return as_text(found.scores, TITLES) if found.scores else ""


def load(path: PathArgument) -> Any:
    """Opens a run or encoder folder as a Run, or the folder of a fine-tuned model as a Model. Raises UserError for any other folder."""
    from untaught.inference.predict import holds_model

    if holds_model(Path(path)):
        return Model(path)
    run = Run(path)
    if not run.roles:
        run.encoder  # noqa: B018  # raises UserError if the folder has no encoder
    return run


def export(run: PathArgument | Run, to: str | None = None, data: Any = None, columns: dict[str, str] | None = None) -> Exported:
    """`Run.export` for a run, or its folder or encoder folder."""
    return _run(run).export(to, data, columns)


def report(run: PathArgument | Run) -> Path:
    """`Run.report` for a run or its folder."""
    return _run(run).report()


def preview(
    data: Any,
    method: MethodLike = "simclr",
    out: PathArgument = "preview.png",
    *,
    modality: str | None = None,
    columns: dict[str, str] | None = None,
    encoder: str | None = None,
    rows: int = 8,
    **knobs: Any,
) -> Path:
    """Writes a PNG of the views of `rows` samples, one row each, and returns its path. Arguments as for `pretrain`. Raises UserError."""
    from untaught.commands.preview import preview as draw

    place = _place(out) or Path("preview.png")
    return draw(data, method, place, modality=modality, columns=columns, encoder=encoder, knobs=_dotted(knobs), rows=rows)


# ------------------------------------------------------------------------------------------------------ parts for other loops


def views(modality: str, sample: Any = None, *, method: MethodLike | None = None, seed: int = 0, **knobs: Any) -> BatchViews:
    """A callable that creates a method's views of raw samples, for any training loop: see `BatchViews`.

    `views("image", images, method="moco", size=32)(images[:256], epoch=3)` returns the list of views that `methods.MoCo` reads.
    """
    from untaught.pipeline.batch_views import BatchViews

    return BatchViews(modality, sample, method=method, seed=seed, **knobs)


def wrap(encoder: str | nn.Module, views: BatchViews | None = None, *, channels: int = 3, size: int = 224, **knobs: Any) -> Encoder:
    """Wraps a module as an Encoder, for use in methods.

    encoder: a module that maps images (B,C,H,W) to (B,D), or to maps (B,D,h,w), which are average-pooled; or a name such as
    "conv_small", "timm/resnet18" or "bert", with its knobs. views: they define the input (channels and size, or the vocabulary ...); for
    images, channels and size (pixels) can be given instead. Raises UserError if the module does not accept the input.
    """
    import torch

    from untaught.config.registry import build_encoder
    from untaught.core import View

    if views is not None:
        return build_encoder(encoder, views.input, knobs, views.example)
    example = View(torch.zeros(2, channels, size, size))
    return build_encoder(encoder, {"channels": channels, "size": size}, knobs, lambda: example)


# ------------------------------------------------------------------------------------------------------ for the command line


def method_cards(name: str | None = None) -> list[Options]:
    """One card per method, or one in full: paper, views, documented knobs, cost and score. Raises UserError for an unknown name."""
    from untaught.report.method_cards import method_cards as cards

    return cards(name)


def encoder_cards(name: str | None = None) -> list[Options]:
    """One card per encoder, or one with its knobs. Raises UserError for an unknown name."""
    from untaught.report.method_cards import encoder_cards as cards

    return cards(name)


def write_method_pages(folder: PathArgument) -> int:
    """Writes one page per method of untaught, and a README.md that lists them, to a folder -> number of methods."""
    from untaught.report.method_cards import write_pages

    return write_pages(Path(folder))


def doctor() -> Options:
    """The hardware and software of this machine, and what untaught uses of it."""
    from untaught.commands.doctor import examine

    return examine()


def demo(out: PathArgument | None = None, modality: str = "image") -> tuple[Run, list[str]]:
    """Pretrains on data that are at hand offline for a minute at most and evaluates -> the run, and the result in three sentences.

    modality: image (handwritten digits, half a minute), audio (computed tones), series (computed waves), events (synthetic visits), tables.
    """
    from untaught.commands.demo import demo as show

    trained, sentences = show(modality, _place(out))
    finish(trained)
    return Run(trained.path), sentences


def reproduce(recipe: PathArgument, data: str | None = None, out: PathArgument | None = None) -> Run:
    """Runs a recipe (.yaml) and evaluates it; data: local path to its data. Raises UserError if a score is outside its interval."""
    from untaught.commands.reproduce import reproduce as run

    return Run(run(Path(recipe), data, _place(out), finish))


def scores_as_text(rows: list[Options], width: int) -> str:
    """Rows of an evaluation as a table with lines of at most `width` characters."""
    from untaught.evaluation.evaluate import as_text

    return as_text(rows, width)


def runs_as_text(rows: list[Options], width: int | None) -> str:
    """Rows of `runs` as a table, or as paragraphs if its lines were longer than `width`."""
    from untaught.report.runs import as_text

    return as_text(rows, width)


def finish(trained: Trained) -> None:
    """The end of every training run: exports the encoders for use without this library, and writes the report."""
    from untaught.export.formats import export as write

    for role, model in trained.models.items():
        place = trained.path if len(trained.models) == 1 else trained.path / "encoder" / role
        try:
            say(f"export    {write(place, loaded=model)}")
        except UserError as error:  # the encoder folder itself is not affected
            warn(f"no export: {error}")
    say(f"report    {report(trained.path)}")


def refresh(place: Path) -> None:
    """Updates the report if the path is a run folder."""
    if (place / "run.yaml").exists():
        say(f"report    {Run(place).report()}")


# ------------------------------------------------------------------------------------------------------ arguments


def _run(run: PathArgument | Run) -> Run:
    return run if isinstance(run, Run) else Run(run)


def _place(out: PathArgument | None) -> Path | None:
    """Raises UserError for an empty path, which would mean the working directory."""
    if out is not None and not str(out).strip():
        raise UserError("out is empty; give a file or folder, or omit it")
    return None if out is None else Path(out)


def _dotted(knobs: Options) -> Options:
    return {key.replace("__", "."): value for key, value in knobs.items()}


def _pretrain_arguments(
    data: Any,
    method: Any,
    encoder: Any,
    out: PathArgument | None,
    modality: str | None,
    columns: dict[str, str] | None,
    label: str | None,
    split: str | None,
    again: PathArgument | None,
    knobs: Options,
) -> Any:
    from untaught.commands.request import PretrainArguments
    from untaught.storage.run_dir import read_run

    chosen = {"data": data, "method": method, "encoder": encoder, "columns": columns, "label": label, "split": split}
    if again is None:
        return PretrainArguments(**chosen, out=_place(out), modality=modality, knobs=_dotted(knobs))
    place = Path(again)
    before = read_run(place / "run.yaml") if place.is_dir() else read_run(place, named=True)
    repeated = {key: before[key] for key in (*chosen, "modality")}
    given = {key: value for key, value in chosen.items() if value is not None}
    if method is None:  # runs from before there was a choice had the settings of short runs
        repeated["defaults"] = before.get("defaults", "short")
    return PretrainArguments(**(repeated | given), out=_place(out), knobs=before["knobs"] | _dotted(knobs))
