"""Scores by which one of several encoders is chosen, from training samples alone, and an order without labels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from torch import nn

from untaught.core import Options, UserError
from untaught.data.labels import rarest
from untaught.data.parts import TRAIN
from untaught.evaluation import low_label
from untaught.evaluation.battery import PROBES
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.metrics import is_main, metric_of
from untaught.evaluation.next_item import VALIDATION, NextItem, can_rank
from untaught.evaluation.number_probes import correlation
from untaught.evaluation.spectrum import alpha_req, rankme
from untaught.pipeline.view_pipeline import Views

FOLDS = 5
LABELLED = 10_000  # labelled samples that are used, at most
JUDGED = 2_000  # validation samples that are enough: with fewer in a fold, more folds are judged
SPECTRUM = 2_000  # samples of which RankMe and alpha are measured
LEAST = 10  # labelled samples under which nothing is chosen by them
DECISIVE = 0.5  # mean rank correlation of the label-free criteria from which they decide
RAW = "raw"
CRITERIA = {"rankme": "RankMe", "alpha": "alpha-ReQ", "loss": "pretext loss"}


class Selection:
    """The samples on which encoders are compared: labelled training samples, of which fifths are held out in turn.

    A probe with all labels (linear, ridge, one-vs-rest) is fitted on four fifths and scored on the other; the rest of the data, and the
    test part in particular, is not read. labels: "all", "K/class" or "P%" of the labelled training samples. `why_not`: the reason why
    labels can't be used, or "". Samples of one group are in one fifth.
    """

    def __init__(self, scorer: Scorer, labels: str = "all", seed: int = 0) -> None:
        self.scorer, self.setting = scorer, labels
        store, random = scorer.dataset.store, np.random.default_rng(seed)
        if store is None:
            raise UserError("the data is streamed, and features are compared on samples of a store; give stream=false")
        some = lambda rows, most: rows if len(rows) <= most else np.sort(random.choice(rows, most, replace=False))  # noqa: E731
        self.plain = some(scorer.dataset.parts[TRAIN], SPECTRUM)
        self.rows, self.folds = np.arange(0), np.arange(0)
        self.why_not = self._choose(store, some, seed)
        self.judged = min(FOLDS, -(-JUDGED * FOLDS // max(len(self.rows), 1)))
        if self.why_not and labels != "all":
            raise UserError(f"labels={labels} can't be used: {self.why_not}")

    def _choose(self, store: Any, some: Any, seed: int) -> str:
        """Chooses the labelled rows and their fifths -> the reason why there are none, or ""."""
        if store.labels is None:
            return "the data has no labels"
        train = self.scorer.dataset.parts[TRAIN]
        rows = train[self.scorer.known[train]]
        if len(rows) and self.setting != "all":
            rows = rows[low_label.draw(self.setting, self.scorer.labels(rows), seed)]
        rows = some(rows, LABELLED)
        targets = self.scorer.labels(rows)
        folds = fifths(targets, seed, store.groups[rows])
        fewest = min((len(np.unique(targets[folds != fold], axis=0)) for fold in np.unique(folds)), default=0)
        if len(rows) < LEAST or fewest < 2:
            return f"{len(rows):,} labelled training samples are too few to hold some out"
        self.rows, self.folds = rows, folds
        return ""

    @property
    def about(self) -> str:
        """What is compared on, for messages."""
        noun = self.scorer.dataset.modality.noun
        if self.why_not:
            return f"no labels are used ({self.why_not}): RankMe, alpha-ReQ and pretext loss of {len(self.plain):,} training {noun}"
        turns = f"{self.judged} of {FOLDS} fifths in turn" if self.judged > 1 else "one fifth"
        return f"{len(self.rows):,} labelled training {noun}, validated on {turns}; the test part is not read"

    def score(self, encoder: nn.Module | None, view: Views | None = None, name: str = "") -> Options:
        """ "rankme", "alpha" of an encoder, and with labels "probe", "metric", "score" with "low" and "high" (95%). None: raw features.

        The interval is of one fit a fold: it covers the validation samples, not other draws of labels or training seeds.
        """
        found: Options = {}
        if encoder is not None:
            plain = self.scorer.features(encoder, self.plain, view, name)
            found = {"rankme": rankme(plain), "alpha": alpha_req(plain)}
        if self.why_not:
            return found
        features, targets = self.scorer.features(encoder, self.rows, view, name), self.scorer.labels(self.rows)
        each = [self._fold(features, targets, self.folds == fold) for fold in range(self.judged)]
        half = [max(row["high"] - row["mean"], row["mean"] - row["low"]) for row in each]
        mean, spread = float(np.mean([row["mean"] for row in each])), float(np.linalg.norm(half)) / len(each)
        first = {"probe": each[0]["probe"].removesuffix("-inner"), "metric": each[0]["metric"]}
        least = 0.0 if metric_of(first["metric"]).share else -np.inf
        return (
            found | first | {"score": mean, "low": max(mean - spread, least), "high": min(mean + spread, 1.0)}
        )  # all main metrics end at 1

    @property
    def testable(self) -> bool:
        return self.scorer.possible and not self.why_not

    def baselines(self) -> dict[str, Options]:
        """What needs no encoder, by name, as in `score`."""
        return {} if self.why_not else {RAW: self.score(None)}

    def _fold(self, features: Any, targets: np.ndarray, judged: np.ndarray) -> Options:
        return self._probe(features[~judged], targets[~judged], features[judged], targets[judged])[0]

    def _probe(self, *parts: Any) -> list[Options]:
        """Rows of the probe with all labels; the main metric first. parts: features and targets to fit on, then to score."""
        rows = PROBES[self.scorer.kind].inner(*parts)
        return sorted(rows, key=lambda row: not is_main(row["metric"]))

    def test_baselines(self) -> list[Options]:
        """Their rows on the test part."""
        return self.test(RAW, None)

    def test(self, features: str, encoder: nn.Module | None, view: Views | None = None) -> list[Options]:
        """Rows of the same probe on the test part, as in evaluation.json, named `features`; fitted on all labels, or those of `labels`."""
        scorer = self.scorer
        fit = scorer.bank if self.setting == "all" else self.rows
        parts = [found for rows in (fit, scorer.queries) for found in (scorer.features(encoder, rows, view, features), scorer.labels(rows))]
        rows = [{**row, "probe": row["probe"].removesuffix("-inner"), "labels": self.setting} for row in self._probe(*parts)]
        return scorer.named(features, rows)


class NextItemSelection:
    """As `Selection`, for histories without labels: each user's event before the one that tests is ranked among all items."""

    testable = True

    def __init__(self, ranker: NextItem, spectra: Selection) -> None:
        self.ranker, self.spectra = ranker, spectra

    @property
    def about(self) -> str:
        users, noun = len(self.ranker.of(VALIDATION).rows), self.spectra.scorer.dataset.modality.noun
        return f"the validation event of {users:,} {noun} (full ranking, items of the history filtered); the test events are not read"

    def score(self, encoder: nn.Module, view: Views | None = None, name: str = "") -> Options:
        """As of `Selection`; of an encoder that can't rank items, without a score."""
        found = self.spectra.score(encoder, view, name)
        return found | _ranked(self.ranker.measure(name, encoder, VALIDATION)[0]) if can_rank(encoder) else found

    def baselines(self) -> dict[str, Options]:
        """The classical recommenders. Their own knobs are chosen by the same events."""
        rows = self.ranker.baselines(VALIDATION)[0]
        return {name: _ranked([row for row in rows if row["features"] == name]) for name in dict.fromkeys(row["features"] for row in rows)}

    def test(self, features: str, encoder: nn.Module, view: Views | None = None) -> list[Options]:
        return self.ranker.measure(features, encoder)[0] if can_rank(encoder) else []

    def test_baselines(self) -> list[Options]:
        return self.ranker.baselines()[0]


def _ranked(rows: list[Options]) -> Options:
    first = next(row for row in rows if is_main(row["metric"]))
    return {"probe": first["probe"], "metric": first["metric"], "score": first["mean"], "low": first["low"], "high": first["high"]}


def fifths(targets: np.ndarray, seed: int, groups: np.ndarray) -> np.ndarray:
    """(n,) numbers 0 to 4 of as many parts, equal in size and, for classes, stratified; samples of one group are in one part.

    targets (n,) class indices or numbers, or label sets (n,K), by their rarest class. groups (n,).
    """
    targets = rarest(targets) if targets.ndim == 2 else targets
    _, first, own = np.unique(groups, return_index=True, return_inverse=True)
    each = targets[first] if targets.dtype.kind != "f" else np.zeros(len(first), int)
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(np.flatnonzero(each == value)) for value in np.unique(each)]) if len(each) else first
    found = np.empty(len(first), int)
    found[order] = np.arange(len(first)) % FOLDS  # counting on from class to class: rare ones are spread over all parts
    return found[own.reshape(-1)]


def label_free_order(results: Mapping[str, Options]) -> tuple[list[str], float]:
    """Names by the mean of their ranks by each of CRITERIA, best first, and the mean rank correlation (Spearman) of the criteria.

    RankMe: higher is better. alpha: nearer to 1. loss: the larger share of the first logged loss is gone; losses of different
    methods have no common scale, and this share is a rough one. A criterion that is missing for a name is left out.
    """
    names = list(results)
    worse = {
        "rankme": lambda one: -one["rankme"],
        "alpha": lambda one: abs(one["alpha"] - 1),
        "loss": lambda one: (one["loss"] - one["first_loss"]) / max(abs(one["first_loss"]), 1e-12),
    }
    ranks = []
    for bad in worse.values():
        try:
            values = np.array([bad(results[name]) for name in names], float)
        except (KeyError, TypeError):
            continue
        if len(values) and np.isfinite(values).all():
            ranks.append(np.array([(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values]))
    if not ranks:
        return names, 0.0
    mean, ones = np.mean(ranks, 0), np.ones(len(names))
    pairs = [correlation(a, b, ones) for a, b in combinations(ranks, 2)]
    order = [names[i] for i in np.argsort(mean, kind="stable")]
    return order, float(np.mean(pairs)) if pairs and len(names) > 1 else 1.0
