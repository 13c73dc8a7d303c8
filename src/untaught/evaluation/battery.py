"""The battery: every probe of one encoder's features, which were encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from untaught.evaluation import low_label, sparse
from untaught.evaluation.clustering import kmeans_rows
from untaught.evaluation.interval import Row, accuracy_rows
from untaught.evaluation.knn import knn_right
from untaught.evaluation.linear import LinearProbe
from untaught.evaluation.spectrum import spectrum_rows


@dataclass
class Encoded:
    """One encoder's features, or sparse counts (see sparse.py). Without labels the test part alone counts."""

    test: Any  # (M,D) float32
    train: Any = None  # (N,D) float32
    test_labels: np.ndarray | None = None  # (M,) int from 0
    train_labels: np.ndarray | None = None  # (N,) int from 0
    pairs: tuple[np.ndarray, np.ndarray] | None = None  # (P,D) each: two views of the same samples

    @property
    def labelled(self) -> bool:
        return self.train is not None and self.train_labels is not None and self.test_labels is not None


def battery(encoded: Encoded, label_free: bool = True) -> Iterator[tuple[str, list[Row]]]:
    """(what comes next, the rows that the last step gave); the last step's come with "". `label_free`: the spectrum, too."""
    rows: list[Row] = []
    if encoded.labelled:
        assert encoded.train is not None
        assert encoded.train_labels is not None
        assert encoded.test_labels is not None
        yield "kNN", rows
        rows = knn_rows(encoded.train, encoded.train_labels, encoded.test, encoded.test_labels)
        yield "linear", rows
        probe = linear_probe(encoded.train, encoded.test)
        everything = np.arange(len(encoded.train_labels))
        guess, _ = probe.predict(everything, encoded.train_labels)
        rows = accuracy_rows("linear", "all", (guess == encoded.test_labels)[None], encoded.test_labels)
        for setting, against in low_label.settings(encoded.train_labels):
            if against:
                continue
            yield f"linear {setting}", rows
            drawn = [low_label.draw(setting, encoded.train_labels, seed) for seed in range(low_label.DRAWS)]
            right, c = [], None  # chosen on the first draw
            for seed, rows_ in enumerate(drawn):
                guess, c = probe.predict(rows_, encoded.train_labels[rows_], seed, c)
                right.append(guess == encoded.test_labels)
            rows = accuracy_rows("linear", setting, np.stack(right), encoded.test_labels)
        del probe
        if isinstance(encoded.test, np.ndarray):
            yield "k-means", rows
            rows = kmeans_rows(encoded.test, encoded.test_labels)
    if label_free:
        yield "spectrum", rows
        rows = spectrum_rows(encoded.test, encoded.pairs)
    yield "", rows


def steps(labelled: bool, train_labels: np.ndarray | None, label_free: bool = True) -> int:
    """How many steps `battery` takes, for a progress bar."""
    curve = sum(not against for _, against in low_label.settings(train_labels)) if labelled and train_labels is not None else 0
    return (3 + curve if labelled else 0) + label_free


def linear_probe(train: Any, test: Any) -> LinearProbe | sparse.SparseProbe:
    """The probe for features of this kind."""
    return LinearProbe(train, test) if isinstance(train, np.ndarray) else sparse.SparseProbe(*sparse.weigh(train, test))


def knn_rows(bank: Any, bank_labels: np.ndarray, queries: Any, query_labels: np.ndarray) -> list[Row]:
    """Rows of knn20 and knn200."""
    if isinstance(bank, np.ndarray):
        found = knn_right(bank, bank_labels, queries, query_labels)
    else:
        bank, queries = sparse.weigh(bank, queries)
        found = sparse.knn_right(bank, bank_labels, queries, query_labels)
    return [row for k, right in found.items() for row in accuracy_rows(f"knn{k}", "all", right[None], query_labels)]
