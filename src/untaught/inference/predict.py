"""Predictions of a fine-tuned model for new data."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from untaught.config.overrides import unknown
from untaught.config.registry import resolve
from untaught.console import say
from untaught.core import Encoder, Options, UserError
from untaught.downstream import TASKS
from untaught.downstream.predicting import predict
from untaught.downstream.task import Predictions, Task
from untaught.inference.embed import Embedder, Reading, write_file
from untaught.inference.endings import check_ending
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.pretrained import Pretrained, load_network
from untaught.pipeline.view_pipeline import convolves
from untaught.storage.atomic import make_room, replacing
from untaught.storage.cells import plain_cells
from untaught.storage.safe_load import read_json
from untaught.storage.safe_open import inside

if TYPE_CHECKING:
    import pyarrow


DENSE = 64  # maximum batch size of tasks with dense predictions
LONGEST = 150  # bytes of the name of a written file


def holds_model(path: Path) -> bool:
    """Whether a folder holds a fine-tuned model: its config.json names a task."""
    if not (path / "config.json").exists():
        return False
    found = read_json(path / "config.json", path)
    return isinstance(found, dict) and "task" in found


def load_model(path: Path) -> Pretrained:
    """The network of a fine-tuned model's folder, or of RUN/finetuned, in eval mode."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a fine-tuned model (written by untaught finetune), or a run folder")
    folder = path / "finetuned" if not holds_model(path) and holds_model(path / "finetuned") else path
    if not holds_model(folder):
        raise UserError(f"{path} has no fine-tuned model (a config.json with a task); create one with untaught finetune")
    inside(folder, path)
    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder} has no model.safetensors; copy the whole folder, or fine-tune again")
    return load_network(folder, _with_head, path)


def _with_head(encoder: Encoder, config: Options) -> nn.Module:
    return _task_of(config).built(encoder, config).network


def _task_of(config: Options) -> type[Task]:
    if config["task"] not in TASKS:
        raise unknown("task", str(config["task"]), TASKS)
    return resolve(TASKS[config["task"]])


class Predictor(Embedder):
    """Reads new data with the model's preprocessing and yields its predictions, one table per batch, in the source's order."""

    def __init__(self, model: Pretrained, data: Any, columns: dict[str, str] | None = None, batch_size: int = 256) -> None:
        network, config = model.network, model.config
        cls = _task_of(config)
        self.task = cls.built(network.encoder, config)  # type: ignore[arg-type]
        self.task.network = network  # type: ignore[assignment]
        target = cls.target_of(model.prep.modality)
        batch_size = batch_size if target is None else min(batch_size, DENSE)
        super().__init__(
            model._replace(prep=self.task.reading_new(cls.reading(model.prep, labelled=False))), data, columns, batch_size, "predict"
        )
        self.task.name_channels(self.prep.settings)
        self.view = cls.used_view(model.prep, config["view"])
        self.view.channels_last = convolves(network)
        self.follow = target.follow if target else lambda batch, view: view

    def _encoded(self, reading: Reading) -> Iterator[tuple[np.ndarray, Any]]:
        view = lambda batch: self.view(batch, 0)[0]  # noqa: E731
        bf16 = has_bfloat16(self.device.type)
        found = predict(self.task.to(self.device), reading.batches, view, self.follow, self.device, bf16, reading.names)
        return ((index, predictions) for index, predictions, _ in found)

    def predictions(self) -> Iterator[Predictions]:
        """Yields predictions batch by batch, with "row" and "name" of the samples."""
        for rows, names, predictions in super().__iter__():
            yield {**predictions, "row": rows, "name": np.array(names, object)}

    def __iter__(self) -> Iterator[pyarrow.Table]:  # type: ignore[override]
        return map(self.task.table, self.predictions())


def write_predictions(predictor: Predictor, out: Path) -> int:
    """Writes .csv or .parquet batch by batch, or a folder for a task that predicts files, atomically -> number of rows or files."""
    if predictor.task.files and not out.suffix:
        return _write_files(predictor, out)
    count = write_tables(iter(predictor), out)
    say(f"wrote     {count:,} predictions to {out}")
    return count


def write_tables(tables: Iterator[pyarrow.Table], out: Path) -> int:
    """Writes tables to one .csv or .parquet file, atomically -> number of rows."""
    from pyarrow import csv, parquet

    writers: dict[str, Callable[..., Any]] = {".csv": csv.CSVWriter, ".parquet": parquet.ParquetWriter}
    check_ending(out, tuple(writers))

    def write(partial: Path) -> int:
        plain = map(plain_cells, tables) if out.suffix == ".csv" else tables
        first = next(plain)
        count = len(first)
        with writers[out.suffix](str(partial), first.schema) as writer:
            writer.write_table(first)
            for table in plain:
                writer.write_table(table)
                count += len(table)
        return count

    return write_file(out, write)


def _write_files(predictor: Predictor, out: Path) -> int:
    """Writes NAME.png per sample and predictions.csv to the folder `out`, which must not exist."""
    from pyarrow import csv

    files = predictor.task.files
    assert files is not None
    make_room(out)
    if os.path.lexists(out):
        raise UserError(f"{out} already exists; choose another --out")
    used: set[str] = set()
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        writer = None
        for predictions in predictor.predictions():
            written = []
            for name, image in files(predictions):
                written.append(f"{plain_stem(name, used)}.png")
                image.save(partial / written[-1])
            table = predictor.task.table(predictions)
            table = plain_cells(with_files(table, written) if len(table) == len(written) else table)
            writer = writer or csv.CSVWriter(str(partial / "predictions.csv"), table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
    say(f"wrote     {len(used):,} {'masks' if predictor.task.target == 'masks' else 'pictures'} to {out}")
    return len(used)


def with_files(table: pyarrow.Table, files: list[str]) -> pyarrow.Table:
    """A table of one row per sample with a column "file" after "name": two samples may have one stem."""
    import pyarrow as pa

    return table.add_column(table.column_names.index("name") + 1, "file", pa.array(files, pa.string()))


def plain_stem(name: str, used: set[str]) -> str:
    """train/a.jpg -> train_a: a file name without folders or suffix, unique in lower case too, of at most 255 bytes with its suffix."""
    stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(name)[0].strip("/"))
    stem = stem.encode()[-LONGEST:].decode(errors="ignore").lstrip("._-") or "sample"
    number, first = 1, stem
    while stem.casefold() in used:
        number += 1
        stem = f"{first}-{number}"
    used.add(stem.casefold())
    return stem
