"""What a pretrained method makes of new data: answers to its pretext task, prototypes, generated samples, attention maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from untaught.config.registry import method_class, method_table
from untaught.console import say
from untaught.core import Method, UserError
from untaught.evaluation.features import check_finite
from untaught.evaluation.pretext import Answers, answer, has_prototypes
from untaught.inference.embed import Embedder, Reading
from untaught.inference.predict import plain_stem, with_files, write_tables
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.heads import FOLDER, Heads, holds_heads, load_heads, usable
from untaught.pipeline.pretrained import Pretrained, load_encoder
from untaught.report.answers import NAMES, Sheets
from untaught.storage.atomic import make_room, replacing
from untaught.storage.cells import plain_cells

if TYPE_CHECKING:
    import pandas
    import pyarrow

BATCH = 64  # samples at once, at most
UNKNOWN = ("ab_rmse", "ciede2000")  # measures that are NaN where there is no truth


class Pretext(Embedder):
    """Reads new data with a run's preprocessing and yields what its method and its encoder make of them, batch by batch."""

    def __init__(self, run: Path, data: Any, columns: dict[str, str] | None = None, batch_size: int = BATCH, seed: int = 0) -> None:
        self.heads = load_heads(run) if holds_heads(run) else None
        encoder = self.heads.encoder if self.heads else load_encoder(run)
        check_possible(run, self.heads, encoder)
        super().__init__(encoder, data, columns, min(batch_size, BATCH), "predict")
        self.views = self.heads.views(encoder.prep, seed) if self.heads else None
        self.method: Method | None = None
        self.draw = True

    def _encoded(self, reading: Reading) -> Iterator[tuple[np.ndarray, Answers]]:
        bf16 = has_bfloat16(self.device.type)
        for batch in reading.batches:
            index = batch["index"].numpy()
            batch = {key: value.to(self.device) for key, value in batch.items()}
            if self.heads and self.views and self.method is None:
                self.method = self.heads.build(batch, self.views).to(self.device)
            answers = answer(self.method, self.encoder, self.views, self.view, batch, bf16, self.draw)
            for name, values in answers.columns.items():
                if values.dtype.kind == "f" and name not in UNKNOWN:
                    perfect = name == "psnr" and np.isposinf(values)
                    check_finite(index, np.where(perfect, 0.0, values), reading.names)
            yield index, answers

    def tables(self) -> Iterator[pyarrow.Table]:
        """Row, name and measures of every sample, one table per batch."""
        return (_table(*found) for found in self)


def frame_of(pretext: Pretext) -> pandas.DataFrame:
    """All answers, in memory: the table, with the images of each sample as arrays, the sample itself excepted."""
    import pandas as pd

    parts = []
    for rows, names, (columns, images) in pretext:
        drawn = {name: list(pixels) for name, pixels in images.items() if name != "sample"}
        parts.append(pd.DataFrame({"row": rows, "name": names, **columns, **drawn}))
    return pd.concat(parts, ignore_index=True)


def _table(rows: np.ndarray, names: list[str], answers: Answers) -> pyarrow.Table:
    import pyarrow as pa

    return pa.table({"row": rows, "name": names, **answers.columns})


def check_possible(run: Path, heads: Heads | None, encoder: Pretrained) -> None:
    """Raises UserError if neither the method nor the encoder of the run makes anything that can be shown."""
    if "attention" in encoder.network.offers and encoder.prep.modality.overlay is not None:
        return
    if heads:
        drawn = heads.cls.answers and heads.config["views"][0]["name"] in encoder.prep.modality.pretexts
        if drawn or heads.cls.generates or has_prototypes(heads.cls):
            return
        raise UserError(f"the {heads.cls.answers} of {run} can't be drawn: modality {encoder.prep.modality.name} does not offer it")
    if run.name == "encoder" and holds_heads(run.parent):
        raise UserError(f"{run} is the encoder alone; the head of its pretext task is in the run folder: give {run.parent}")
    name, table = encoder.config.get("method", "its method"), method_table()
    if name in table and usable(method_class(name)):
        raise UserError(f"{run} has no {FOLDER}/, as runs of earlier versions; add it with: untaught pretrain --out {run} --resume")
    classes = {method: method_class(method) for method in table}
    able = [f"{method} ({cls.answers or cls.generates or 'prototypes'})" for method, cls in classes.items() if usable(cls)]
    raise UserError(
        f"{run} holds no fine-tuned model, and its method {name} makes nothing that can be shown; fine-tune it first (untaught finetune), "
        f"or pretrain with {', '.join(able)}, or any method with a ViT (attention maps)"
    )


def write_answers(pretext: Pretext, out: Path, seed: int = 0) -> int:
    """Writes a folder, atomically: NAME.png of each sample, predictions.csv, overview.png, and prototypes.png and samples.png if the
    method has prototypes or generates; or only the table, if `out` ends in .csv or .parquet -> number of samples."""
    if out.suffix:
        pretext.draw = False
        count = write_tables(pretext.tables(), out)
        say(f"wrote     {count:,} rows to {out}")
        return count
    from PIL import Image
    from pyarrow import csv

    make_room(out)
    if os.path.lexists(out):
        raise UserError(f"{out} already exists; choose another --out")
    used, sheets, count, images = set(NAMES), Sheets(), 0, 0
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        writer = None
        for rows, names, answers in pretext:
            own = answers.images.get("answer", answers.images.get("attention", ()))
            written = [f"{plain_stem(name, used)}.png" for name, _ in zip(names, own, strict=False)]
            for file, pixels in zip(written, own, strict=True):
                Image.fromarray(pixels).save(partial / file)
            table = _table(rows, names, answers)
            table = plain_cells(with_files(table, written) if written else table)
            writer = writer or csv.CSVWriter(str(partial / "predictions.csv"), table.schema)
            writer.write_table(table)
            sheets.add(answers)
            count, images = count + len(rows), images + len(own)
        assert writer is not None
        writer.close()
        drawn = sheets.drawn(pretext.method, pretext.views, seed)
        for name, image in drawn.items():
            image.save(partial / f"{name}.png")
    for name, mean in sheets.means().items():
        say(f"{name:<9} {mean:.4g}, mean of {sheets.counts[name]:,} {pretext.modality.noun}")
    files = [*[f"{images:,} images"] * bool(images), "predictions.csv", *(f"{name}.png" for name in drawn)]
    say(f"wrote     {', '.join(files)} to {out}")
    return count
