"""What a person calls from Python: thin over the engine."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from untaught.commands import finetune as engine_finetune
from untaught.commands import pretrain as engine
from untaught.commands.pretrain import Trained
from untaught.commands.preview import preview as make_preview
from untaught.config.registry import MethodLike
from untaught.console import say, warn
from untaught.core import Encoder, Options, UserError
from untaught.evaluation.evaluate import evaluate as measure
from untaught.evaluation.evaluator import read_rows
from untaught.export.formats import export as write_export
from untaught.inference.embed import Embedder, Vectors, vectors_of, write_vectors
from untaught.inference.predict import Predictor, holds_model, load_model, write_predictions
from untaught.pipeline.pretrained import for_inference, load_encoder
from untaught.report import write as write_report

if TYPE_CHECKING:
    import pandas


class Run:
    """A finished run, or an encoder folder: `encoder`, `config`, `scores`, `embed`, `finetune`."""

    def __init__(self, path: str | PathLike[str], encoder: Encoder | None = None, config: Options | None = None) -> None:
        self.path = Path(path)
        self.encoder, self.config = (encoder, config) if encoder is not None and config is not None else load_encoder(self.path)

    @property
    def scores(self) -> list[Options]:
        """The rows of evaluation.json; empty where nothing could be measured."""
        return read_rows(self.path / "evaluation.json")

    def evaluate(self, data: Any = None, **options: Any) -> list[Options]:
        """As `untaught.evaluate` of this run; without data, on its own."""
        return evaluate(self, data, **options)

    @overload
    def embed(self, data: Any, out: None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> Vectors: ...

    @overload
    def embed(self, data: Any, out: str | PathLike[str], *, columns: dict[str, str] | None = None, batch_size: int = 256) -> Path: ...

    def embed(
        self, data: Any, out: str | PathLike[str] | None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256
    ) -> Vectors | Path:
        """Vectors (N, width) float32 of new data, in its order; with `out` (.parquet or .npy) written there in bounded memory.

        What can't be read is left out, which is said; `rows` (N,) of the vectors says which records are there, `names` how they are called.
        """
        place = _place(out)
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
        out: str | PathLike[str] | None = None,
        columns: dict[str, str] | None = None,
        label: str | None = None,
        split: str | None = None,
        **knobs: Any,
    ) -> Model:
        """A model for a task with labels: `classify`, or `regress` for a number. Saved in the run's folder, or in `out`.

        knobs: as on the command line; a dot is written as two underscores. Raises UserError for what the caller can mend.
        """
        place = _place(out)
        chosen: Any = {"task": task, "out": place, "columns": columns, "label": label, "split": split, "knobs": _dotted(knobs)}
        model = Model(*engine_finetune.finetune(self.encoder, self.config, self.path, data, **chosen))
        refresh(self.path)
        return model

    def predict(self, text: str, **how: Any) -> list[Options]:
        """What a language model says: words for masks, or a text gone on with or restored; see `untaught.inference.generate.speak`."""
        from untaught.inference.generate import speak

        return speak(self.path, text, **how)

    def export(self, to: str | None = None, data: Any = None) -> str:
        """Writes encoder/ for use without this library: "timm", "torch" or "onnx". Checked on real samples; says how to load it."""
        return write_export(self.path, to, data)

    def report(self) -> Path:
        """Writes report.html from what the run folder holds."""
        return write_report(self.path)


class Model:
    """A fine-tuned model's folder: `network`, `config`, `scores`, `predict`."""

    def __init__(self, path: str | PathLike[str], network: nn.Module | None = None, config: Options | None = None) -> None:
        self.path = Path(path)
        self.network, self.config = (network, config) if network and config else load_model(self.path)

    @property
    def scores(self) -> list[Options]:
        """What it reached on samples not learned from, in rows as those of evaluation.json."""
        return self.config["scores"]

    @overload
    def predict(self, data: Any, out: None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256) -> pandas.DataFrame: ...

    @overload
    def predict(self, data: Any, out: str | PathLike[str], *, columns: dict[str, str] | None = None, batch_size: int = 256) -> Path: ...

    def predict(
        self, data: Any, out: str | PathLike[str] | None = None, *, columns: dict[str, str] | None = None, batch_size: int = 256
    ) -> pandas.DataFrame | Path:
        """A table of new data, in its order: row, name, label, probability and p_CLASS for every class; or row, name and value.

        With `out` (.csv or .parquet) written there in bounded memory, and its path returned.
        """
        place = _place(out)
        predictor = Predictor(self.network, self.config, data, columns, batch_size)
        if place is not None:
            write_predictions(predictor, place)
            return place
        import pyarrow as pa

        return pa.concat_tables(predictor).to_pandas()


def pretrain(
    data: Any = None,
    method: MethodLike | None = None,
    *,
    encoder: str | nn.Module | Encoder | None = None,
    out: str | PathLike[str] | None = None,
    modality: str = "image",
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    resume: bool = False,
    **knobs: Any,
) -> Run:
    """Trains an encoder on data that nobody labelled.

    data: a path, a name, arrays or a table (see `untaught.data.sources.open_source`). method: a name, several joined as
    "simclr+mae:0.5", a Method class, or a function (views, encoder, *, knobs) -> terms, see docs/methods.md; simclr if none is
    given, of text mlm. knobs: those of the loop, the method, the encoder and the views, as on the command line; a dot is written as two
    underscores (`encoder__width=64`).
    Raises UserError, one line, for everything that the caller can mend.
    """
    place = _place(out)
    asked = engine.Asked(data, method, encoder, place, modality, columns, label, split, _dotted(knobs))
    trained = engine.pretrain(asked, resume, finish)
    if trained.encoder is None or trained.config is None:
        return Run(trained.path)
    return Run(trained.path, for_inference(trained.encoder), trained.config)


def _place(out: str | PathLike[str] | None) -> Path | None:
    """Raises UserError for an empty name, which would be the working directory."""
    if out is not None and not str(out).strip():
        raise UserError("out is empty; name a file or folder, or leave it out")
    return None if out is None else Path(out)


def _dotted(knobs: Options) -> Options:
    return {key.replace("__", "."): value for key, value in knobs.items()}


def finish(trained: Trained) -> None:
    """What every training ends with: an encoder that loads without this library, and the page of the run."""
    loaded = (trained.encoder, trained.config) if trained.encoder is not None and trained.config is not None else None
    try:
        say(f"export    {write_export(trained.path, loaded=loaded)}")
    except UserError as error:  # the encoder itself is kept all the same
        warn(f"no export: {error}")
    say(f"report    {write_report(trained.path)}")


def refresh(place: Path) -> None:
    """Brings the page of a run up to date, if the place is a run."""
    if (place / "run.yaml").exists():
        say(f"report    {write_report(place)}")


def evaluate(
    encoder: str | PathLike[str] | nn.Module | Run,
    data: Any = None,
    against: Sequence[str | PathLike[str] | nn.Module | Run] = (),
    *,
    modality: str = "image",
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    batch_size: int = 256,
    out: str | PathLike[str] | None = None,
) -> list[Options]:
    """The battery on frozen features: kNN, linear probe, label curves, clustering, spectrum -> rows as evaluation.json holds them.

    encoder, against: a run, a run or encoder folder, "timm/NAME", "timm/NAME=WEIGHTS", "transformers/NAME", or a module that
    takes pictures (B,C,H,W) to (B,D). data: labelled, as for `pretrain`; the run's own if none is given. Beside the encoder
    stand always itself untrained ("random_init") and "raw" data. Labels are read for the scores alone.
    Raises UserError, one line, for everything that the caller can mend.
    """
    plain = [(one.encoder, one.config, one.path) if isinstance(one, Run) else one for one in (encoder, *against)]
    place = _place(out)
    how: dict[str, Any] = {"modality": modality, "columns": columns, "label": label, "split": split, "batch_size": batch_size}
    rows = measure(plain[0], data, against=plain[1:], out=place, **how)
    if place is None and isinstance(encoder, Run | str | PathLike):
        refresh(encoder.path if isinstance(encoder, Run) else Path(encoder))
    return rows


def load(path: str | PathLike[str]) -> Any:
    """The Run of a run folder or of its encoder folder, or the Model of a fine-tuned model's."""
    return Model(path) if holds_model(Path(path)) else Run(path)


def preview(
    data: Any,
    method: MethodLike = "simclr",
    out: str | PathLike[str] = "preview.png",
    *,
    modality: str = "image",
    columns: dict[str, str] | None = None,
    encoder: str | None = None,
    rows: int = 8,
    **knobs: Any,
) -> Path:
    """Writes a PNG of what the network will be shown."""
    place = _place(out) or Path("preview.png")
    return make_preview(data, method, place, modality=modality, columns=columns, encoder=encoder, knobs=_dotted(knobs), rows=rows)
