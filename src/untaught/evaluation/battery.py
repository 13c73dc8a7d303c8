"""All probes of one encoder's features (encoded once), by target kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from untaught.evaluation import class_probes, multilabel_probes, number_probes
from untaught.evaluation.interval import Row
from untaught.evaluation.low_label import USUAL, Plan
from untaught.evaluation.spectrum import spectrum_rows


@dataclass
class Encoded:
    """One encoder's features, or sparse counts (see sparse.py). Without targets, only the test part is used."""

    test: Any  # (M,D) float32
    train: Any = None  # (N,D) float32
    test_targets: np.ndarray | None = None  # (M,) class indices from 0, or float64; (M,K) 0 and 1 for several classes a sample
    train_targets: np.ndarray | None = None  # (N,) or (N,K)
    pairs: tuple[np.ndarray, np.ndarray] | None = None  # (P,D) each: two views of the same samples
    kind: str = "classes"  # target kind, a key of PROBES; unused without targets
    plan: Plan = USUAL  # the labels that are learned from


Steps = Iterator[tuple[str, list[Row]]]  # (name of the next step, rows of the previous one); the final rows come with ""


class Probes(NamedTuple):
    """The probes for one target kind. Each takes features (N,D) and targets (N, ...) of the training part, then of the test part."""

    run: Callable[[Any, np.ndarray, Any, np.ndarray, Plan], Steps]  # all probes
    neighbours: Callable[[Any, np.ndarray, Any, np.ndarray], list[Row]]  # kNN only
    watch: Callable[[Any, np.ndarray, Any, np.ndarray], dict[str, float]]  # kNN without intervals, by its name in metrics.jsonl
    inner: Callable[[Any, np.ndarray, Any, np.ndarray], list[Row]]  # the probe with all labels, for the best inner layer
    count: Callable[[np.ndarray, Plan], int]  # number of steps of `run`, given the training targets


PROBES: dict[str, Probes] = {  # by label kind; for tags and maps, commands/frozen.py trains a head
    "classes": Probes(class_probes.probes, class_probes.knn_rows, class_probes.watch, class_probes.inner, class_probes.count),
    "multilabel": Probes(
        multilabel_probes.probes, multilabel_probes.knn_rows, multilabel_probes.watch, multilabel_probes.inner, multilabel_probes.count
    ),
    "numbers": Probes(number_probes.probes, number_probes.knn_rows, number_probes.watch, number_probes.inner, number_probes.count),
}


def battery(encoded: Encoded, label_free: bool = True) -> Steps:
    """Runs the probes for the target kind, if there are targets, then the spectrum (if `label_free`)."""
    rows: list[Row] = []
    if encoded.train is not None and encoded.train_targets is not None and encoded.test_targets is not None:
        probes = PROBES[encoded.kind].run(encoded.train, encoded.train_targets, encoded.test, encoded.test_targets, encoded.plan)
        for coming, found in probes:
            if coming:
                yield coming, found
            rows = found
    if label_free:
        yield "spectrum", rows
        rows = spectrum_rows(encoded.test, encoded.pairs)
    yield "", rows


def steps(encoded: Encoded, label_free: bool = True) -> int:
    """Number of steps of `battery`, for a progress bar."""
    return (0 if encoded.train_targets is None else PROBES[encoded.kind].count(encoded.train_targets, encoded.plan)) + label_free
