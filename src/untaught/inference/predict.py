"""What a fine-tuned model says of new data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from untaught.config.overrides import unknown
from untaught.config.registry import resolve
from untaught.console import say
from untaught.core import Encoder, Options, UserError
from untaught.downstream import TASKS
from untaught.downstream.network import Network
from untaught.inference.embed import Embedder, write_file
from untaught.inference.endings import check_ending
from untaught.pipeline.pretrained import load_network
from untaught.storage.cells import plain_cells
from untaught.storage.safe_load import read_json
from untaught.storage.safe_open import inside

if TYPE_CHECKING:
    import pyarrow


def holds_model(path: Path) -> bool:
    """Whether a folder is that of a fine-tuned model: its config.json names a task."""
    if not (path / "config.json").exists():
        return False
    found = read_json(path / "config.json", path)
    return isinstance(found, dict) and "task" in found


def load_model(path: Path) -> tuple[nn.Module, Options]:
    """The network of a fine-tuned model's folder, or of RUN/finetuned, in eval mode, and its config."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a fine-tuned model (untaught finetune makes one)")
    folder = path / "finetuned" if not holds_model(path) and holds_model(path / "finetuned") else path
    if not holds_model(folder):
        raise UserError(f"{path} holds no fine-tuned model (a config.json that names a task); make one with untaught finetune")
    inside(folder, path)
    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder} has no model.safetensors; copy the whole folder, or fine-tune again")
    return load_network(folder, _with_head, path)


def _with_head(encoder: Encoder, config: Options) -> nn.Module:
    if config["task"] not in TASKS:
        raise unknown("task", str(config["task"]), TASKS)
    return Network(encoder, resolve(TASKS[config["task"]]).outputs(config))


class Predictor:
    """Reads new data as the model's own was read, and gives its predictions, a table a batch, in the source's order."""

    def __init__(
        self, network: nn.Module, config: Options, data: Any, columns: dict[str, str] | None = None, batch_size: int = 256
    ) -> None:
        self.config, self.task = config, resolve(TASKS[config["task"]])
        self.embedder = Embedder(network, config, data, columns, batch_size, verb="predict")

    def __iter__(self) -> Iterator[pyarrow.Table]:
        import pyarrow as pa

        for rows, names, outputs in self.embedder:
            yield pa.table({"row": rows, "name": names, **self.task.columns(outputs, self.config)})


def write_predictions(predictor: Predictor, out: Path) -> int:
    """To .csv or .parquet, batch by batch; written whole or not at all. Returns the number of rows."""
    from pyarrow import csv, parquet

    writers: dict[str, Callable[..., Any]] = {".csv": csv.CSVWriter, ".parquet": parquet.ParquetWriter}
    check_ending(out, tuple(writers))

    def write(partial: Path) -> int:
        tables = map(plain_cells, predictor) if out.suffix == ".csv" else iter(predictor)
        first = next(tables)
        count = len(first)
        with writers[out.suffix](str(partial), first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
                count += len(table)
        return count

    count = write_file(out, write)
    say(f"wrote     {count:,} predictions to {out}")
    return count
