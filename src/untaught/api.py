"""What a person calls from Python, and the command line in their place: thin over the packages below, which are imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
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

    from untaught.commands.pretrain import Trained
    from untaught.config.registry import MethodLike
    from untaught.export.formats import Exported
    from untaught.inference.embed import Vectors
    from untaught.pipeline.batch_views import BatchViews

PathArgument = str | PathLike[str]
VECTORS, PREDICTIONS = (".parquet", ".npy"), (".csv", ".parquet")


class Run:
    """A finished run's folder, or an encoder folder.

    `path` is the folder; `encoder` and `config` are loaded on first use, and raise UserError where the folder holds no encoder.
    """

    def __init__(self, path: PathArgument, encoder: Encoder | None = None, config: Options | None = None) -> None:
        self.path = Path(path)
        if encoder is not None and config is not None:
            self._loaded = encoder, config

    @cached_property
    def _loaded(self) -> tuple[Encoder, Options]:
        from untaught.pipeline.pretrained import load_encoder

        return load_encoder(self.path)

    @property
    def encoder(self) -> Encoder:
        """The encoder that was trained, in eval mode: encoder(view) -> (B, width)."""
        return self._loaded[0]

    @property
    def config(self) -> Options:
        """The config.json of the encoder: method, modality, layout, view, statistics ..."""
        return self._loaded[1]

    @property
    def scores(self) -> list[Options]:
        """The rows of evaluation.json; empty where nothing could be measured."""
        from untaught.evaluation.evaluator import read_rows

        return read_rows(self.path / "evaluation.json")

    def evaluate(self, data: Any = None, against: Sequence[PathArgument | nn.Module | Run] = (), **options: Any) -> list[Options]:
        """As `untaught.evaluate` of this run; without data, on its own."""
        return evaluate(self, data, against, **options)

    @overload
    def embed(self, data: Any, out: None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> Vectors: ...

    @overload
    def embed(self, data: Any, out: PathArgument, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> Path: ...

    def embed(
        self, data: Any, out: PathArgument | None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256
    ) -> Vectors | Path:
        """As `untaught.embed` of this run."""
        place = _place(out)
        if place is not None:
            check_ending(place, VECTORS)
        from untaught.inference.embed import Embedder, vectors_of, write_vectors

        embedder = Embedder(self.encoder, self.config, data, columns, batch_size)
        if place is not None:
            write_vectors(embedder, place)
            return place
        return vectors_of(embedder)

    def finetune(
        self,
        data: Any,
        task: str = "classify",
        *,
        out: PathArgument | None = None,
        columns: dict[str, str] | None = None,
        label: str | None = None,
        split: str | None = None,
        **knobs: Any,
    ) -> Model:
        """As `untaught.finetune` of this run."""
        from untaught.commands import finetune as commands

        chosen: Any = {"task": task, "out": _place(out), "columns": columns, "label": label, "split": split, "knobs": _dotted(knobs)}
        model = Model(*commands.finetune(self.encoder, self.config, self.path, data, **chosen))
        refresh(self.path)
        return model

    def predict(self, text: str, **options: Any) -> list[Options]:
        """What the run's language model makes of a text.

        One that fills masks gives a row {"mask", "word", "probability"} for each of the `best` words (5) of each mask. One that
        continues or restores gives one row {"text"}: `tokens` (60) more at most, `temperature` (0.8; 0 takes the likeliest), `top_p`
        (0.95), `seed` (0). Raises UserError: no language model, no mask, more tokens than the model reads.
        """
        from untaught.inference.generate import generate

        return generate(self.path, text, **options)

    def export(self, to: str | None = None, data: Any = None, columns: dict[str, str] | None = None) -> Exported:
        """Writes the encoder for use without this library, checked on real samples: where it lies, how it is loaded, how far it deviates.

        to: "timm", "transformers", "torch" or "onnx"; the first of them that can hold the encoder if none. data: what to check it on; what
        the run kept of its own data if none. Raises UserError where the format can't hold the encoder or differs from it.
        """
        from untaught.export.formats import export

        return export(self.path, to, data, columns)

    def report(self) -> Path:
        """Writes report.html from what the run folder holds, finished or not, and returns its path."""
        from untaught.report import write

        return write(self.path)


class Model:
    """A fine-tuned model's folder: `path`, `network` (in eval mode), `config`."""

    def __init__(self, path: PathArgument, network: nn.Module | None = None, config: Options | None = None) -> None:
        self.path = Path(path)
        if network is None or config is None:
            from untaught.inference.predict import load_model

            network, config = load_model(self.path)
        self.network, self.config = network, config

    @property
    def scores(self) -> list[Options]:
        """What it reached on samples that it was not trained on, in rows as those of evaluation.json."""
        return self.config["scores"]

    @overload
    def predict(self, data: Any, out: None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> pandas.DataFrame: ...

    @overload
    def predict(self, data: Any, out: PathArgument, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> Path: ...

    def predict(
        self, data: Any, out: PathArgument | None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256
    ) -> pandas.DataFrame | Path:
        """A table of new data, in its order: row, name, label, probability and p_CLASS for every class; or row, name and value.

        With `out` (.csv or .parquet) written there in bounded memory, and its path returned.
        """
        place = _place(out)
        from untaught.inference.predict import Predictor, write_predictions

        predictor = Predictor(self.network, self.config, data, columns, batch_size)
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
    encoder: str | nn.Module | Encoder | None = None,
    out: PathArgument | None = None,
    modality: str = "image",
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    resume: bool = False,
    again: PathArgument | None = None,
    **knobs: Any,
) -> Run:
    """Trains an encoder on unlabelled data.

    data: a path, a name, arrays or a table (see `untaught.data.sources.open_source`). method: a name, several joined as
    "simclr+mae:0.5", a Method class, or a function (views, encoder, *, knobs) -> terms, see docs/methods.md; simclr if none is
    given, of text mlm. knobs: those of the loop, the method, the encoder and the views, as on the command line; a dot is written as two
    underscores (`encoder__width=64`). resume: continue from the newest checkpoint of `out`. again: a run's folder or run.yaml to repeat,
    with what else is given in the place of its own.
    Raises UserError, one line, for everything that the caller can mend.
    """
    from untaught.commands import pretrain as commands

    asked = _asked(data, method, encoder, out, modality, columns, label, split, again, knobs)
    trained = commands.pretrain(asked, resume, finish)
    if trained.encoder is None or trained.config is None:
        return Run(trained.path)
    from untaught.pipeline.pretrained import for_inference

    return Run(trained.path, for_inference(trained.encoder), trained.config)


def pretrain_seeds(
    data: Any = None,
    method: MethodLike | None = None,
    *,
    seeds: int,
    encoder: str | None = None,
    out: PathArgument | None = None,
    modality: str = "image",
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    resume: bool = False,
    again: PathArgument | None = None,
    **knobs: Any,
) -> list[Run]:
    """`pretrain` with several training seeds, as out/seed-S; out/evaluation.json has the rows of all, with their "seed".

    Arguments as those of `pretrain`; seeds: how many, from the knob `seed` (0) on. Raises UserError.
    """
    from untaught.commands.seeds import pretrain_seeds as run

    asked = _asked(data, method, encoder, out, modality, columns, label, split, again, knobs)
    return [Run(place) for place in run(asked, seeds, resume, finish)]


def evaluate(
    encoder: PathArgument | nn.Module | Run,
    data: Any = None,
    against: Sequence[PathArgument | nn.Module | Run] = (),
    *,
    modality: str = "image",
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    batch_size: int = 256,
    out: PathArgument | None = None,
) -> list[Options]:
    """The battery on frozen features: kNN, linear probe, label curves, clustering, spectrum -> rows as evaluation.json holds them.

    encoder, against: a run, a run or encoder folder, "timm/NAME", "timm/NAME=WEIGHTS", "transformers/NAME", or a module that
    takes images (B,C,H,W) to (B,D). data: labelled, as for `pretrain`; the run's own if none is given. Beside the encoder
    are always the same at random init ("random_init") and the "raw" data. Labels are read for the scores alone.
    Raises UserError, one line, for everything that the caller can mend.
    """
    from untaught.evaluation.evaluate import evaluate as measure

    plain = [(one.encoder, one.config, one.path) if isinstance(one, Run) else one for one in (encoder, *against)]
    place = _place(out)
    how: dict[str, Any] = {"modality": modality, "columns": columns, "label": label, "split": split, "batch_size": batch_size}
    rows = measure(plain[0], data, against=plain[1:], out=place, **how)
    if place is None and isinstance(encoder, Run | str | PathLike):
        refresh(encoder.path if isinstance(encoder, Run) else Path(encoder))
    return rows


def finetune(run: PathArgument | Run, data: Any, task: str = "classify", **options: Any) -> Model:
    """Trains an encoder and a head on labelled data, beside the same network from scratch -> the model.

    run: a Run, or its folder or encoder folder. data: labelled, as for `pretrain`. task: "classify", or "regress" for a number. options:
    out (the model's folder; RUN/finetuned if none), columns, label, split, and knobs as on the command line (`labels="1%"`); a dot is
    written as two underscores. Raises UserError, one line, for everything that the caller can mend.
    """
    return _run(run).finetune(data, task, **options)


@overload
def embed(
    run: PathArgument | Run, data: Any, out: None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256
) -> Vectors: ...


@overload
def embed(
    run: PathArgument | Run, data: Any, out: PathArgument, *, columns: dict[str, str] | None = None, batch_size: int = 256
) -> Path: ...


def embed(
    run: PathArgument | Run,
    data: Any,
    out: PathArgument | None = None,
    *,
    columns: dict[str, str] | None = None,
    batch_size: int = 256,
) -> Vectors | Path:
    """Vectors (N, width) float32 of new data, in its order; with `out` (.parquet or .npy) written there in bounded memory.

    run: a Run, or its folder or encoder folder. What can't be read is left out, with a warning: `rows` (N,) of the vectors are the
    numbers of the records that are there, `names` their names. Raises UserError where none can be read.
    """
    return _run(run).embed(data, out, columns=columns, batch_size=batch_size)  # type: ignore[call-overload]


def predict(
    model: PathArgument | Model | Run,
    data: Any,
    out: PathArgument | None = None,
    *,
    columns: dict[str, str] | None = None,
    batch_size: int = 256,
    **options: Any,
) -> pandas.DataFrame | Path | list[Options]:
    """What a fine-tuned model predicts for new data (see `Model.predict`), or what a language model makes of a text (see `Run.predict`).

    model: a Model, its folder or the folder of its run; for a text, a run of mlm, clm or seq2seq_denoising. out: a .csv or .parquet, whose
    path is returned. options: those of `Run.predict`, of a text. Raises UserError.
    """
    from untaught.inference.generate import can_generate, names_data

    place = model if isinstance(model, str | PathLike) else model.path
    if not isinstance(model, Model) and isinstance(data, str) and can_generate(Path(place)) and not names_data(data):
        return Run(place).predict(data, **options)
    target = _place(out)
    if target is not None and target.suffix:  # without one it is a folder, of masks
        check_ending(target, PREDICTIONS)
    found = model if isinstance(model, Model) else Model(place)
    return found.predict(data, target, columns=columns, batch_size=batch_size)  # type: ignore[call-overload]


def load(path: PathArgument) -> Any:
    """The Run of a run folder or of its encoder folder, or the Model of a fine-tuned model's. Raises UserError for any other folder."""
    from untaught.inference.predict import holds_model

    if holds_model(Path(path)):
        return Model(path)
    run = Run(path)
    run.encoder  # noqa: B018  # a folder without one is refused now
    return run


def export(run: PathArgument | Run, to: str | None = None, data: Any = None, columns: dict[str, str] | None = None) -> Exported:
    """As `Run.export` of a run, or of its folder or encoder folder."""
    return _run(run).export(to, data, columns)


def report(run: PathArgument | Run) -> Path:
    """As `Run.report` of a run, or of its folder."""
    return _run(run).report()


def preview(
    data: Any,
    method: MethodLike = "simclr",
    out: PathArgument = "preview.png",
    *,
    modality: str = "image",
    columns: dict[str, str] | None = None,
    encoder: str | None = None,
    rows: int = 8,
    **knobs: Any,
) -> Path:
    """Writes a PNG of the views of `rows` samples, a row each, and returns its path. Arguments as those of `pretrain`; raises UserError."""
    from untaught.commands.preview import preview as draw

    place = _place(out) or Path("preview.png")
    return draw(data, method, place, modality=modality, columns=columns, encoder=encoder, knobs=_dotted(knobs), rows=rows)


# ------------------------------------------------------------------------------------------------------ parts for other loops


def views(modality: str, sample: Any = None, *, method: MethodLike | None = None, seed: int = 0, **knobs: Any) -> BatchViews:
    """A callable that makes a method's views of raw samples, in any loop: see `BatchViews`.

    `views("image", images, method="moco", size=32)(images[:256], epoch=3)` is the list of views that `methods.MoCo` reads.
    """
    from untaught.pipeline.batch_views import BatchViews

    return BatchViews(modality, sample, method=method, seed=seed, **knobs)


def wrap(encoder: str | nn.Module, views: BatchViews | None = None, *, channels: int = 3, size: int = 224, **knobs: Any) -> Encoder:
    """A module as an Encoder, which methods train.

    encoder: a module that takes images (B,C,H,W) to (B,D), or to maps (B,D,h,w), which are averaged over places; or a name, as
    "conv_small", "timm/resnet18" or "bert", with its knobs. views: what the input is (channels and size, or the vocabulary ...) is taken
    from them; of images it may be given as channels and size (pixels) instead. Raises UserError where the module can't take the input.
    """
    from untaught.config.registry import build_encoder

    return build_encoder(encoder, {"channels": channels, "size": size} if views is None else views.input, knobs)


# ------------------------------------------------------------------------------------------------------ for the command line


def method_cards(name: str | None = None) -> list[Options]:
    """A card a method, or one in full: paper, views, knobs with their meanings, cost and score. Raises UserError for an unknown name."""
    from untaught.report.method_cards import method_cards as cards

    return cards(name)


def encoder_cards(name: str | None = None) -> list[Options]:
    """A card an encoder, or one with its knobs. Raises UserError for an unknown name."""
    from untaught.report.method_cards import encoder_cards as cards

    return cards(name)


def write_method_pages(folder: PathArgument) -> int:
    """Writes a page a method of untaught's, and a README.md that lists them, into a folder -> how many methods."""
    from untaught.report.method_cards import write_pages

    return write_pages(Path(folder))


def doctor() -> Options:
    """What this machine has, and what untaught uses of it."""
    from untaught.commands.doctor import examine

    return examine()


def demo(out: PathArgument | None = None) -> tuple[Run, list[str]]:
    """Pretrains on handwritten digits for half a minute and measures -> the run, and what came of it in three sentences."""
    from untaught.commands.demo import demo as show

    trained, said = show(_place(out))
    finish(trained)
    return Run(trained.path), said


def reproduce(recipe: PathArgument, data: str | None = None, out: PathArgument | None = None) -> Run:
    """Runs a recipe (.yaml) and measures it; data: where its data lies here. Raises UserError where a score lies outside its interval."""
    from untaught.commands.reproduce import reproduce as run

    return Run(run(Path(recipe), data, _place(out), finish))


def scores_as_text(rows: list[Options], width: int) -> str:
    """Rows of an evaluation as a table of at most `width` characters a line."""
    from untaught.evaluation.evaluate import as_text

    return as_text(rows, width)


def finish(trained: Trained) -> None:
    """What every training ends with: an encoder that loads without this library, and the report of the run."""
    from untaught.export.formats import export as write

    loaded = (trained.encoder, trained.config) if trained.encoder is not None and trained.config is not None else None
    try:
        say(f"export    {write(trained.path, loaded=loaded)}")
    except UserError as error:  # the encoder itself is kept all the same
        warn(f"no export: {error}")
    say(f"report    {report(trained.path)}")


def refresh(place: Path) -> None:
    """Brings the report of a run up to date, if the place is a run."""
    if (place / "run.yaml").exists():
        say(f"report    {Run(place).report()}")


# ------------------------------------------------------------------------------------------------------ arguments


def _run(run: PathArgument | Run) -> Run:
    return run if isinstance(run, Run) else Run(run)


def _place(out: PathArgument | None) -> Path | None:
    """Raises UserError for an empty name, which would be the working directory."""
    if out is not None and not str(out).strip():
        raise UserError("out is empty; name a file or folder, or leave it out")
    return None if out is None else Path(out)


def _dotted(knobs: Options) -> Options:
    return {key.replace("__", "."): value for key, value in knobs.items()}


def _asked(
    data: Any,
    method: Any,
    encoder: Any,
    out: PathArgument | None,
    modality: str,
    columns: dict[str, str] | None,
    label: str | None,
    split: str | None,
    again: PathArgument | None,
    knobs: Options,
) -> Any:
    from untaught.commands.request import Asked
    from untaught.storage.run_dir import read_run

    chosen = {"data": data, "method": method, "encoder": encoder, "columns": columns, "label": label, "split": split}
    if again is None:
        return Asked(**chosen, out=_place(out), modality=modality, knobs=_dotted(knobs))
    place = Path(again)
    before = read_run(place / "run.yaml") if place.is_dir() else read_run(place, named=True)
    repeated = {key: before[key] for key in (*chosen, "modality")}
    given = {key: value for key, value in chosen.items() if value is not None}
    return Asked(**(repeated | given), out=_place(out), knobs=before["knobs"] | _dotted(knobs))
