"""Scores encoders on a data set: features are encoded once and turned into rows of evaluation.json."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from untaught.console import progress_bar, say
from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.data.labels import as_numbers, doubts, set_doubts
from untaught.data.parts import held_out_part
from untaught.evaluation import boosting, layers
from untaught.evaluation.battery import PROBES, Encoded, battery, steps
from untaught.evaluation.features import collect, encode
from untaught.evaluation.low_label import USUAL
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.view_pipeline import Views, convolves, used_view
from untaught.storage.atomic import write_text
from untaught.storage.safe_load import read_json

BANK, QUERIES = 100_000, 20_000  # maxima; more rows change a score by less than its interval
WATCHED = 6_000  # samples used for scores during training
PAIRED = 2_000  # samples whose two views measure the alignment
SCHEMA = 1
LARGEST = 1e30  # scores above are discarded


class Scorer:
    """Scores encoders on a store with the probes for its target kind, fitted on the training part and evaluated on the held-out part.

    kind: target kind, "classes", "multilabel" or "numbers"; inferred from the labels if None. `why_not`: the reason why labels can't be
    used, or "". `watch` never uses the test part: its queries are taken from the training part.
    """

    def __init__(
        self,
        dataset: Dataset,
        export_view: str,
        device: torch.device,
        bf16: bool,
        seed: int,
        batch_size: int = 512,
        kind: str | None = None,
    ) -> None:
        self.dataset, self.device, self.bf16, self.batch_size = dataset, device, bf16, batch_size
        self.view = used_view(dataset.prep, export_view)
        self.raw: Callable[[Batch, Preprocessor], Any] = dataset.modality.raw  # features where there is no encoder
        self.pick = np.random.default_rng(seed)
        self.plan = USUAL  # the labels that probes learn from
        self.held_out: str | None = None
        self.shared: np.ndarray | None = None  # sorted rows whose features are encoded once for all choices of bank and queries
        self.found: dict[str, Any] = {}  # their features, by note
        labels = dataset.store.labels if dataset.store else None
        self.kind = kind or _kind_of(labels)
        self.targets = self._targets()  # (N,) class indices, -1 if missing; (N,K) 0 and 1, -1 if missing; or numbers, NaN if missing
        first = self.targets if self.targets.ndim == 1 else self.targets[:, 0]
        self.known = np.isfinite(first) if self.kind == "numbers" else first >= 0  # (N,) bool
        self.why_not = self._choose_rows()
        self.possible = not self.why_not
        if not self.possible:  # the spectrum needs no labels
            parts = dataset.parts
            self.queries = self.some(parts.get(held_out_part(parts) or "train", np.arange(0)), QUERIES)

    def _choose_rows(self) -> str:
        """Chooses bank, queries and watched rows -> the reason why labels can't be used, or ""."""
        store = self.dataset.store
        if store is None:
            return "the data is streamed"
        if store.labels is None:
            return "the data has no labels"
        labelled = {name: rows[self.known[rows]] for name, rows in self.dataset.parts.items()}
        self.held_out = held_out_part(labelled)
        train = labelled["train"]
        if self.held_out is None or not len(train):
            return "no labelled held-out part"
        if len(np.unique(self.labels(train), axis=0)) < 2:
            same = "are of one class" if self.kind == "classes" else "have the same label"
            return f"all {len(train):,} labelled training rows {same}"
        self.bank, self.queries = self.some(train, BANK), self.some(labelled[self.held_out], QUERIES)
        watched = self.pick.permutation(self.some(train, WATCHED))
        cut = max(1, len(watched) // 6)
        self.watched = np.sort(watched[cut:]), np.sort(watched[:cut])
        return ""

    def _targets(self) -> np.ndarray:
        store = self.dataset.store
        if store is None or store.labels is None:
            return np.empty(0)
        if (store.labels.ndim == 2) != (self.kind == "multilabel"):
            has, task = ("several classes", "multilabel") if store.labels.ndim == 2 else ("one label", "classify")
            raise UserError(f"a sample has {has}; omit --task or give --task {task}")
        if self.kind == "multilabel":
            return store.labels
        if self.kind == "classes" and store.labels.dtype.kind == "f":
            raise UserError("the labels are numbers, not classes; omit --task or give --task regress")
        if self.kind == "classes":
            return store.labels
        try:
            return as_numbers(store.labels, store.classes)
        except ValueError as error:
            raise UserError(f"--task regress needs numbers, but found the label {str(error)!r}; use --task classify") from None

    def doubts(self) -> list[str]:
        """Warnings about labels that make scores less meaningful."""
        store = self.dataset.store
        if not self.possible or store is None or store.labels is None or self.held_out is None:
            return []
        noun, missing = self.dataset.modality.noun, int((~self.known).sum())
        found = [f"{missing:,} of {len(store):,} {noun} have no label and are left out of the scores"] if missing else []
        if self.kind == "numbers":
            same = len(np.unique(self.labels(self.queries))) == 1
            return found + [f"all {len(self.queries):,} labelled {noun} of {self.held_out} have the same label: R2 is undefined"] * same
        if self.kind == "multilabel":
            return found + set_doubts(self.labels(self.bank), self.labels(self.queries), store.classes, f"{noun} of {self.held_out}")
        return found + doubts(self.labels(self.bank), self.labels(self.queries), store.classes, f"{noun} of {self.held_out}")

    def some(self, rows: np.ndarray, most: int) -> np.ndarray:
        """At most so many of the rows, drawn by the seed, in order."""
        return rows if len(rows) <= most else np.sort(self.pick.choice(rows, most, replace=False))

    def training_rows(self, most: int) -> Batch:
        """A batch of at most so many rows of the training part, drawn by a fixed seed."""
        rows = self.dataset.parts["train"]
        rows = rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        return next(iter(self.dataset.in_order(rows, len(rows)).batches(0)))

    # ------------------------------------------------------------------------------------------------------- scores

    def watch(self, encoder: nn.Module) -> dict[str, float]:
        """kNN during training, within the training part."""
        bank, queries = self.watched
        return PROBES[self.kind].watch(*self._both(encoder, bank, queries))

    def knn(self, features: str, encoder: nn.Module | None) -> list[Options]:
        """kNN rows on the held-out part, named `features`; raw features if there is no encoder."""
        return self.named(features, PROBES[self.kind].neighbours(*self._both(encoder, self.bank, self.queries)))

    def _both(self, encoder: nn.Module | None, bank: np.ndarray, queries: np.ndarray) -> tuple[Any, np.ndarray, Any, np.ndarray]:
        """Features and targets of the bank, then of the queries."""
        return self.features(encoder, bank), self.labels(bank), self.features(encoder, queries), self.labels(queries)

    def battery(
        self, features: str, encoder: nn.Module | None, views: tuple[Views, Views | None] | None = None, label_free: bool = True
    ) -> list[Options]:
        """Rows of all probes, named `features`; raw features (without a spectrum) if there is no encoder.

        label_free: whether to measure the spectrum. views: the view that this encoder reads, if not the scorer's own, and two views of a
        sample for the alignment.
        """
        view, paired = views or (self.view, None)
        queries = self.queries
        if self.possible and encoder is not None and getattr(encoder, "layered", False):
            encoder = self._mixed(encoder, view, features)
        encoded = Encoded(self.features(encoder, queries, view, features), kind=self.kind, plan=self.plan)
        if self.possible:
            encoded.train, encoded.train_targets = self.features(encoder, self.bank, view, features), self.labels(self.bank)
            encoded.test_targets = self.labels(queries)
        label_free = label_free and encoder is not None
        if encoder is not None and label_free and paired is not None:
            encoded.pairs = self._pairs(encoder, queries[:: -(-len(queries) // PAIRED)], paired)
        rows: list[Options] = []
        with progress_bar(f"measuring {features}") as bar:
            task = bar.add_task("", total=steps(encoded, label_free), note="")
            for done, (coming, found) in enumerate(battery(encoded, label_free)):
                rows += found
                bar.update(task, completed=done, note=coming)
        if encoder is not None and self.possible and not isinstance(encoder, layers.Mixed):
            rows += self._inner(encoder, view, features)
        return self.named(features, rows)

    def boosted(self, encoder: nn.Module, view: Views) -> list[Options]:
        """Rows of gradient boosting on raw features, the encoder's and both, and of the linear probe on both with wrong labels; [] if raw
        features are sparse."""
        labels = self.labels(self.bank), self.labels(self.queries)
        raw, own = (
            [self.features(network, rows, view, name) for rows in (self.bank, self.queries)]
            for network, name in ((None, "raw"), (encoder, "encoder"))
        )
        if not isinstance(raw[0], np.ndarray):
            say(f"boosting not measured: raw {self.dataset.modality.noun} are sparse counts")
            return []
        both = [np.hstack(pair) for pair in zip(raw, own, strict=True)]
        found: list[Options] = []
        with progress_bar("boosting") as bar:
            task = bar.add_task("", total=3, note="")
            for name, (train, test) in {"raw": raw, "encoder": own, "encoder+raw": both}.items():
                rows = boosting.boosting_rows(train, labels[0], test, labels[1], self.kind, self.plan)
                if self.kind == "classes" and self.plan.noise and name == "encoder+raw":
                    rows += boosting.noisy_linear_rows(train, labels[0], test, labels[1], self.plan.noise)
                found += self.named(name, rows)
                bar.update(task, advance=1)
        return found

    def _inner(self, encoder: Any, view: Views, name: str) -> list[dict[str, Any]]:
        """The probe on the best inner layer, chosen on some training rows; [] if the pooled vectors are better, or it has no layers."""
        if not {"layers", "maps"} & getattr(encoder, "offers", frozenset()):
            return []
        rows, every = self.some(self.bank, layers.ROWS), layers.InnerAndPooled(encoder)
        found = self.features(every, rows, view, f"layers of {name}")
        candidates = np.split(found, np.cumsum(every.widths)[:-1], axis=1)
        best, count = layers.best_inner(candidates, self.labels(rows), seed=0), len(candidates) - 1
        if best == count:
            say(f"layers    {name}: the pooled vectors have a better probe than each of {count} inner layers")
            return []
        say(f"layers    {name}: layer {best + 1} of {count} has a better probe than the pooled vectors")
        chosen = layers.Inner(encoder, best)
        train, test = (self.features(chosen, each, view, f"layer {best + 1} of {name}") for each in (self.bank, self.queries))
        return PROBES[self.kind].inner(train, self.labels(self.bank), test, self.labels(self.queries))

    def named(self, features: str, rows: list[dict[str, Any]]) -> list[Options]:
        """Rows as in evaluation.json, with the names of the features and of the data."""
        data = self.dataset.name
        return [{"features": features, **{key: _short(value) for key, value in row.items()}, "data": data} for row in rows]

    # ----------------------------------------------------------------------------------------------------- features

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Targets (n,), or (n,K) for several classes a sample, of these store rows."""
        return np.asarray(self.targets[rows])

    def features(self, encoder: nn.Module | None, rows: np.ndarray, view: Views | None = None, note: str = "") -> np.ndarray:
        """Features (n,D) float32 of these store rows; with a `note`, a progress bar is shown under that name."""
        if self.shared is not None and note and not isinstance(encoder, layers.Mixed):
            if note not in self.found:
                self.found[note] = self._encoded(encoder, self.shared, view, note)
            return self.found[note][np.searchsorted(self.shared, rows)]
        return self._encoded(encoder, rows, view, note)

    def _encoded(self, encoder: nn.Module | None, rows: np.ndarray, view: Views | None, note: str) -> Any:
        if encoder is None:
            parts = ((batch["index"].numpy(), self.raw(batch, self.dataset.prep)) for batch in self._batches(rows, note))
            return collect(parts, len(rows))
        shown = view or self.view
        shown.channels_last = convolves(encoder)
        take = lambda batch: shown(batch, 0)[0]  # noqa: E731
        return collect(encode(encoder, self._batches(rows, note), take, self.device, self.bf16, self.dataset.names), len(rows))

    def _mixed(self, encoder: Any, view: Views, name: str) -> nn.Module:
        """The encoder as a sum of its layers, with weights learned on some training rows."""
        rows = self.some(self.bank, layers.ROWS)
        found = self.features(layers.Averaged(encoder), rows, view, f"layers of {name}")
        weights, scales = layers.choose(found.reshape(len(rows), -1, encoder.width), self.labels(rows), seed=0)
        say(f"layers    {name}: " + " + ".join(f"{weight:.2f} x {i}" for i, weight in enumerate(weights.tolist(), 1) if weight))
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


def _kind_of(labels: np.ndarray | None) -> str:
    """The target kind of a store's labels."""
    if labels is None or labels.dtype.kind != "f":
        return "classes" if labels is None or labels.ndim == 1 else "multilabel"
    return "numbers"


def merge_rows(path: Path, rows: list[Options]) -> None:
    """Writes evaluation.json atomically: rows that were measured again are replaced, the others stay.

    Rows are identified by features, probe, labels, metric and data (and seed, where training was repeated).
    Raises UserError if the existing file can't be read or a score is not finite.
    """
    for row in rows:
        if not all(np.isfinite(row[key]) for key in ("mean", "low", "high") if row.get(key) is not None):
            what = " ".join(str(row[key]) for key in ("features", "probe", "metric"))
            raise UserError(f"the score {what} is not finite ({row['mean']}): {path} was not written; training may have diverged")
    identity = lambda row: tuple(row.get(key) for key in ("features", "probe", "labels", "metric", "data", "seed"))  # noqa: E731
    new = {identity(row) for row in rows}
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # evaluation and fine-tuning of one run may finish at the same time
        unchanged = [row for row in read_rows(path) if identity(row) not in new]
        write_text(path, json.dumps({"schema": SCHEMA, "rows": unchanged + rows}, indent=1))
    finally:
        os.close(folder)


def read_rows(path: Path) -> list[Options]:
    """The rows of an evaluation.json; [] if there is no file. Raises UserError if it can't be read."""
    if not os.path.lexists(path):
        return []
    found = read_json(path, path.parent)
    if isinstance(found, dict) and found.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{path} has schema {str(found['schema'])[:20]}, this version reads {SCHEMA}; remove it, or choose another --out")
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(map(is_row, rows)):
        raise UserError(f"{path} can't be read as an evaluation; remove it, or choose another --out")
    return [row for row in rows if all(abs(number) < LARGEST for number in _numbers(row))]  # drops rows that are not finite


def is_row(row: Any) -> bool:
    """Whether a parsed value is a row of an evaluation."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("features", "probe", "labels", "metric")):
        return False
    if not isinstance(row.get("data"), str | None) or not isinstance(row.get("group"), str | None):
        return False
    return isinstance(row.get("seed", 0), int) and all(type(number) in (int, float) for number in _numbers(row))


def _numbers(row: Options) -> list[Any]:
    return [row.get("mean"), *(row[key] for key in ("low", "high") if row.get(key) is not None)]


def _short(value: Any) -> Any:
    return round(float(value), 6) if isinstance(value, float | np.floating) else value
