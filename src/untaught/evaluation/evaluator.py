"""What an encoder is worth on given material: features encoded once, rows of evaluation.json out of them."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from untaught.console import progress_bar, say
from untaught.core import Batch, Options, UserError, View
from untaught.data.labels import doubts
from untaught.data.parts import held_out_part
from untaught.evaluation import layers
from untaught.evaluation.battery import Encoded, battery, knn_rows, steps
from untaught.evaluation.features import collect, encode
from untaught.evaluation.knn import knn_accuracy
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.view_pipeline import Views, convolves, used_view
from untaught.storage.atomic import write_text
from untaught.storage.safe_load import read_json

BANK, QUERIES = 100_000, 20_000  # at most; more change a score by less than its interval
WATCHED = 6_000  # samples that are scored on the way
PAIRED = 2_000  # samples whose two views make the alignment
SCHEMA = 1
LARGEST = 1e30  # of a score: more is none


class Scorer:
    """Scores encoders on a store: the training part is the bank and teaches the probes, the held-out part asks.

    `watch` never looks at the test part: its queries are taken out of the training part.
    """

    def __init__(self, dataset: Dataset, whole: str, device: torch.device, bf16: bool, seed: int, batch_size: int = 512) -> None:
        self.dataset, self.device, self.bf16, self.batch_size = dataset, device, bf16, batch_size
        self.view = used_view(dataset.modality, dataset.layout, whole, dataset.statistics)
        self.pick = np.random.default_rng(seed)
        self.held_out: str | None = None
        self.why_not = self._choose_rows()
        self.possible = not self.why_not
        if not self.possible:  # of rows without labels there is still a spectrum
            parts = dataset.parts
            self.queries = self._some(parts.get(held_out_part(parts) or "train", np.arange(0)), QUERIES)

    def _choose_rows(self) -> str:
        """Which rows are for what -> why labels can't be used, or ""."""
        store = self.dataset.store
        if store is None:
            return "the data is streamed"
        if store.labels is None:
            return "the data has no labels"
        if store.labels.dtype.kind == "f":
            return "the labels are measured numbers, and these probes tell classes apart"
        labelled = {name: rows[store.labels[rows] >= 0] for name, rows in self.dataset.parts.items()}
        self.held_out = held_out_part(labelled)
        train = labelled["train"]
        if self.held_out is None or not len(train):
            return "no labelled held-out part"
        if len(np.unique(store.labels[train])) < 2:
            return f"all {len(train):,} labelled training rows are of one class"
        self.bank, self.queries = self._some(train, BANK), self._some(labelled[self.held_out], QUERIES)
        watched = self.pick.permutation(self._some(train, WATCHED))
        cut = max(1, len(watched) // 6)
        self.watched = np.sort(watched[cut:]), np.sort(watched[:cut])
        return ""

    def doubts(self) -> list[str]:
        """What of the labels makes the scores say less than they seem to."""
        store = self.dataset.store
        if not self.possible or store is None or store.labels is None or self.held_out is None:
            return []
        noun, missing = self.dataset.modality.noun, int((store.labels < 0).sum())
        found = [f"{missing:,} of {len(store):,} {noun} have no label and are left out"] if missing else []
        return found + doubts(self.labels(self.bank), self.labels(self.queries), store.classes, f"{noun} of {self.held_out}")

    def _some(self, rows: np.ndarray, most: int) -> np.ndarray:
        return rows if len(rows) <= most else np.sort(self.pick.choice(rows, most, replace=False))

    # ------------------------------------------------------------------------------------------------------- scores

    def watch(self, encoder: nn.Module) -> dict[str, float]:
        """kNN on the way, inside the training part."""
        bank, queries = self.watched
        scores = knn_accuracy(self.features(encoder, bank), self.labels(bank), self.features(encoder, queries), self.labels(queries))
        return {f"knn{k}": accuracy for k, accuracy in scores.items()}

    def knn(self, features: str, encoder: nn.Module | None) -> list[Options]:
        """Rows of kNN on the held-out part, named `features`; without an encoder, of raw features."""
        bank, queries = self.features(encoder, self.bank), self.features(encoder, self.queries)
        return self._named(features, knn_rows(bank, self.labels(self.bank), queries, self.labels(self.queries)))

    def battery(self, features: str, encoder: nn.Module | None, views: tuple[Views, Views | None] | None = None) -> list[Options]:
        """Rows of the whole battery, named `features`; without an encoder, of raw features, which have no spectrum.

        views: how this encoder is shown samples if not as the scorer's own, and two views of a sample for the alignment.
        """
        view, paired = views or (self.view, None)
        queries = self.queries
        if self.possible and encoder is not None and getattr(encoder, "layered", False):
            encoder = self._mixed(encoder, view, features)
        encoded = Encoded(self.features(encoder, queries, view, features))
        if self.possible:
            encoded.train, encoded.train_labels = self.features(encoder, self.bank, view, features), self.labels(self.bank)
            encoded.test_labels = self.labels(queries)
        if encoder is not None and paired is not None:
            encoded.pairs = self._pairs(encoder, queries[:: -(-len(queries) // PAIRED)], paired)
        rows: list[Options] = []
        with progress_bar(f"measuring {features}") as bar:
            task = bar.add_task("", total=steps(self.possible, encoded.train_labels, encoder is not None), note="")
            for done, (coming, found) in enumerate(battery(encoded, label_free=encoder is not None)):
                rows += found
                bar.update(task, completed=done, note=coming)
        return self._named(features, rows)

    def _named(self, features: str, rows: list[dict[str, Any]]) -> list[Options]:
        data = self.dataset.name
        return [{"features": features, **{key: _short(value) for key, value in row.items()}, "data": data} for row in rows]

    # ----------------------------------------------------------------------------------------------------- features

    def labels(self, rows: np.ndarray) -> np.ndarray:
        assert self.dataset.store is not None
        assert self.dataset.store.labels is not None
        return np.asarray(self.dataset.store.labels[rows])

    def features(self, encoder: nn.Module | None, rows: np.ndarray, view: Views | None = None, note: str = "") -> np.ndarray:
        """(n,D) float32 of these rows of the store; a bar is shown where a `note` names what is encoded."""
        if encoder is None:
            raw = self.dataset.modality.raw
            parts = ((batch["index"].numpy(), raw(batch, self.dataset.layout)) for batch in self._batches(rows, note))
            return collect(parts, len(rows))
        shown = view or self.view
        shown.channels_last = convolves(encoder)
        take = lambda batch: shown(batch, 0)[0]  # noqa: E731
        return collect(encode(encoder, self._batches(rows, note), take, self.device, self.bf16, self.dataset.names), len(rows))

    def _mixed(self, encoder: Any, view: Views, name: str) -> nn.Module:
        """The encoder read as a sum of its layers, weighted by what some training rows say."""
        rows = self._some(self.bank, layers.ROWS)
        found = self.features(layers.Averaged(encoder), rows, view, f"layers of {name}")
        weights, scales = layers.choose(found.reshape(len(rows), -1, encoder.width), self.labels(rows), seed=0)
        say(f"layers    {name} is read as " + " + ".join(f"{weight:.2f} x {i}" for i, weight in enumerate(weights.tolist(), 1) if weight))
        return layers.Mixed(encoder, weights, scales)

    def _pairs(self, encoder: nn.Module, rows: np.ndarray, views: Views) -> tuple[np.ndarray, np.ndarray]:
        views.channels_last = convolves(encoder)

        def both(batch: Batch) -> View:
            return View.cat(views(batch, 0))

        parts = [vectors for _, vectors in encode(encoder, self._batches(rows, ""), both, self.device, self.bf16)]
        first, second = zip(*(np.split(vectors, 2) for vectors in parts), strict=True)
        return np.concatenate(first), np.concatenate(second)

    def _batches(self, rows: np.ndarray, note: str) -> Iterator[Batch]:
        with progress_bar(f"encoding {note}") if note else progress_bar("") as bar:
            task = bar.add_task("", total=len(rows), note="", visible=bool(note))
            for batch in self.dataset.in_order(rows, self.batch_size).batches(0):
                yield batch
                bar.update(task, advance=len(batch["index"]))


def merge_rows(path: Path, rows: list[Options]) -> None:
    """Writes evaluation.json whole: rows that are measured again are replaced, the others stay.

    A row is the same as another if features, probe, labels, metric and data are (and seed, where training was repeated).
    Raises UserError where what is there can't be read, and where a score is not finite.
    """
    for row in rows:
        if not all(np.isfinite(row[key]) for key in ("mean", "low", "high") if row.get(key) is not None):
            what = " ".join(str(row[key]) for key in ("features", "probe", "metric"))
            raise UserError(f"the score {what} is not finite ({row['mean']}): nothing is written to {path}; the training may have diverged")
    identity = lambda row: tuple(row.get(key) for key in ("features", "probe", "labels", "metric", "data", "seed"))  # noqa: E731
    new = {identity(row) for row in rows}
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # an evaluation and a fine-tuning of one run may end at once
        kept = [row for row in read_rows(path) if identity(row) not in new]
        write_text(path, json.dumps({"schema": SCHEMA, "rows": kept + rows}, indent=1))
    finally:
        os.close(folder)


def read_rows(path: Path) -> list[Options]:
    """The rows of an evaluation.json; none where there is no file. Raises UserError where it can't be read."""
    if not os.path.lexists(path):
        return []
    found = read_json(path, path.parent)
    if isinstance(found, dict) and found.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{path} is of schema {str(found['schema'])[:20]}, this version reads {SCHEMA}; remove it, or choose another --out")
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(map(is_row, rows)):
        raise UserError(f"{path} can't be read as an evaluation; remove it, or choose another --out")
    return [row for row in rows if all(abs(number) < LARGEST for number in _numbers(row))]  # what is no finite number says nothing


def is_row(row: Any) -> bool:
    """Whether something that was read is a row of an evaluation."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("features", "probe", "labels", "metric")):
        return False
    if not isinstance(row.get("data"), str | None):
        return False
    return isinstance(row.get("seed", 0), int) and all(type(number) in (int, float) for number in _numbers(row))


def _numbers(row: Options) -> list[Any]:
    return [row.get("mean"), *(row[key] for key in ("low", "high") if row.get(key) is not None)]


def _short(value: Any) -> Any:
    return round(float(value), 6) if isinstance(value, float | np.floating) else value
