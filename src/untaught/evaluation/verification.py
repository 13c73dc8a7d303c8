"""Verification: are two samples of one label (one speaker)? Cosines of pairs, judged by equal error rate and minimum detection cost.

Vectors are standardised by mean and standard deviation of the training part, as for the linear probes. At a threshold, the miss rate is the
share of pairs of one label that lie below it, the false alarm rate that of pairs of two labels that don't. The equal error rate (EER) is
where both are equal, on the straight line between neighbouring thresholds; pairs with equal cosines pass a threshold together. The
detection cost is that of NIST's speaker recognition evaluations (Martin, Przybocki 2000): the least of P * miss + (1 - P) * false alarm
over all thresholds, over the cost of accepting all pairs or none, with P = 0.05 as in VoxSRC. Intervals are from a bootstrap over labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from untaught.core import Options, UserError, reason
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.interval import Row, bootstrap, row
from untaught.ops.counter_rng import CounterRNG
from untaught.pipeline.view_pipeline import Views

PAIRS = 10_000  # of one label, and of two labels, at most
TARGETS = 0.05  # P of the detection cost
DRAWS = 8  # pairs drawn for one of two labels
FITTED = 4096  # training samples for mean and standard deviation, at most
PROBE = "verification"


class Trials(NamedTuple):
    """Pairs of samples: their numbers (P,2), and whether both have one label (P,)."""

    pairs: np.ndarray
    same: np.ndarray


def draw_trials(labels: np.ndarray, seed: int, most: int = PAIRS) -> Trials:
    """labels (N,) -> up to `most` different pairs of one label, and as many of two labels, drawn by seed.

    Raises UserError if there are no such pairs.
    """
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    ends = np.cumsum(sizes * (sizes - 1) // 2)
    number = _numbers(int(ends[-1]), most, seed, 0)
    group = np.searchsorted(ends, number, side="right")
    own = number - np.where(group > 0, ends[group - 1], 0)
    same = order[starts[group][:, None] + _pair(own)]
    every = _pair(_numbers(len(labels) * (len(labels) - 1) // 2, DRAWS * most, seed, 1))
    different = every[labels[every[:, 0]] != labels[every[:, 1]]][:most]
    for found, what in ((same, "one label"), (different, "two labels")):
        if not len(found):
            raise UserError(f"--task verify needs pairs of one label and of two; the {len(labels):,} samples to test have none of {what}")
    return Trials(np.concatenate([same, different]), np.arange(len(same) + len(different)) < len(same))


def _numbers(count: int, most: int, seed: int, position: int) -> np.ndarray:
    """Up to `most` different numbers below `count`, in random order."""
    if count <= DRAWS * most:
        every = torch.arange(count)
        return every[CounterRNG(seed, 0, every, position).bits().argsort(stable=True)].numpy()[:most]
    drawn = (CounterRNG(seed, 0, torch.arange(2 * most), position).bits().abs() % count).numpy()
    return drawn[np.sort(np.unique(drawn, return_index=True)[1])][:most]


def _pair(number: np.ndarray) -> np.ndarray:
    """Numbers of pairs (P,) -> the pairs (P,2), i < j: 0 is (0, 1), 1 is (0, 2), 2 is (1, 2), 3 is (0, 3) ..."""
    larger = np.floor((1 + np.sqrt(1 + 8.0 * number)) / 2).astype(np.int64)
    larger -= larger * (larger - 1) // 2 > number  # the root is rounded
    larger += larger * (larger + 1) // 2 <= number
    return np.stack([number - larger * (larger - 1) // 2, larger], 1)


def read_trials(path: Path, names: Sequence[str]) -> Trials:
    """Trials of a listing, a pair a line: two files and 1 (same) or 0 (different), which may also come first, separated by commas, tabs or
    spaces; a first line that names no sample is a heading. names: of all samples, in their order; a file may be the end of one.

    Raises UserError for a file that names no sample, or several, and for another answer.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"trials={path} can't be read ({reason(error)}); give a .csv or .txt of pairs") from error
    lines = [line for line in text.splitlines() if line.strip()]
    separator = next((one for one in (",", "\t", None) if lines and len(lines[0].split(one)) == 3), "")
    if separator == "":
        raise UserError(f"trials={path}: its first line is not two files and an answer, separated by commas, tabs or spaces")
    cells = [[cell.strip() for cell in line.split(separator)] for line in lines]
    rows = []
    for line, found in enumerate(cells, 1):
        if len(found) != 3:
            raise UserError(f"trials={path}, pair {line}: has {len(found)} cells; two files and an answer are needed")
        rows.append((found[1], found[2], found[0]) if found[0].lower() in ANSWERS else (found[0], found[1], found[2]))
    return named_trials(rows, names, f"trials={path}")


def named_trials(rows: Sequence[tuple[str, str, str]], names: Sequence[str], where: str) -> Trials:
    """As `read_trials`, from (file, file, answer) a row."""
    place: dict[str, int | None] = {}
    for number, name in enumerate(names):
        parts = name.split("/")
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            place[end] = None if end in place and start else number  # ambiguous, unless it is the whole name
    if len(rows) > 1 and not {*rows[0][:2]} & place.keys():
        rows = rows[1:]
    pairs, same = [], []
    for line, (one, other, label) in enumerate(rows, 1):
        found = [place.get(name) for name in (one, other)]
        for name, number in zip((one, other), found, strict=True):
            if number is None:
                which = "several samples" if name in place else "no sample"
                raise UserError(f"{where}, pair {line}: {name} names {which} of the data; give paths as the data have them, as {names[0]}")
        if label.lower() not in ANSWERS:
            raise UserError(f"{where}, pair {line}: the answer is {label[:20]!r}; 1 (same) and 0 (different) are allowed")
        pairs.append(found)
        same.append(ANSWERS[label.lower()])
    if not any(same) or all(same):
        raise UserError(f"{where} has {sum(same):,} pairs of one label among {len(same):,}; both kinds are needed")
    return Trials(np.array(pairs, np.int64), np.array(same))


ANSWERS = {"1": True, "0": False, "true": True, "false": False, "target": True, "nontarget": False, "same": True, "different": False}


def cosines(vectors: np.ndarray, pairs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """vectors (N,D), pairs (P,2) -> (P,) float64, of vectors standardised by mean and std (D,)."""
    x = (vectors - mean) / (std + 1e-6)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return np.einsum("pd,pd->p", x[pairs[:, 0]], x[pairs[:, 1]], dtype=np.float64)


class Curve:
    """Miss and false alarm rates of scores (P,) at every threshold, for any weights of the pairs."""

    def __init__(self, scores: np.ndarray, same: np.ndarray) -> None:
        self.order = np.argsort(scores, kind="stable")
        self.same = same[self.order]
        ordered = scores[self.order]
        self.last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of the pairs with equal scores

    def rates(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """weights (P,) -> miss and false alarm rates at thresholds from the lowest to the highest; NaN without weight."""
        own = weights[self.order].astype(float)
        rates = []
        for kind in (self.same, ~self.same):
            below = np.concatenate([[0.0], np.cumsum(own * kind)[self.last]])
            rates.append(below / below[-1] if below[-1] else np.full(len(below), np.nan))
        return rates[0], 1 - rates[1]

    def eer(self, weights: np.ndarray) -> float:
        miss, alarm = self.rates(weights)
        if np.isnan(miss[0] + alarm[0]):
            return float("nan")
        over = int(np.argmax(miss >= alarm))  # at the lowest threshold miss is 0 and alarm 1
        gap, before = miss[over] - alarm[over], alarm[over - 1] - miss[over - 1]
        share = before / (before + gap)
        return float(miss[over - 1] + share * (miss[over] - miss[over - 1]))

    def cost(self, weights: np.ndarray) -> float:
        miss, alarm = self.rates(weights)
        return float((TARGETS * miss + (1 - TARGETS) * alarm).min() / min(TARGETS, 1 - TARGETS))


def verification_rows(scores: np.ndarray, trials: Trials, labels: np.ndarray | None) -> list[Row]:
    """Rows of EER and detection cost; scores (P,). labels (N,) of the samples that are resampled, or None: pairs are."""
    curve = Curve(scores, trials.same)
    if labels is None:
        weigh, count = (lambda counts: counts), len(scores)
    else:
        _, numbers = np.unique(labels, return_inverse=True)
        one, other = numbers[trials.pairs].T
        count = int(numbers.max()) + 1

        def weigh(counts: np.ndarray) -> np.ndarray:
            return np.where(trials.same, counts[one], counts[one] * counts[other])

    found = []
    for metric, score in (("eer", curve.eer), ("min_dcf", curve.cost)):
        mean, low, high = bootstrap(lambda counts, score=score: np.array([score(weigh(counts))]), count)
        found.append(row(PROBE, "none", metric, mean, low, high, 1))
    return found


class Verifier:
    """Scores encoders by the same trials: of a listing, which may name any rows, or drawn from the held-out part by its labels.

    Raises UserError if there are none.
    """

    def __init__(self, scorer: Scorer, listing: Path | None, pairs: int, seed: int) -> None:
        self.scorer = scorer
        store, parts = scorer.dataset.store, scorer.dataset.parts
        if store is None:
            raise UserError("--task verify needs packed data, but the data is streamed; give data that fit the disk")
        self.labels: np.ndarray | None = None
        if listing is not None:
            every = read_trials(listing, store.names(np.arange(len(store))))
            self.rows, numbers = np.unique(every.pairs, return_inverse=True)
            self.trials = Trials(numbers.reshape(-1, 2), every.same)
        else:
            if not scorer.possible:
                raise UserError(f"--task verify needs labels, or trials=FILE: {scorer.why_not}")
            self.rows, self.labels = scorer.queries, scorer.labels(scorer.queries)
            self.trials = draw_trials(self.labels, seed, pairs)
        self.fitted = scorer.some(parts["train"], FITTED)

    @property
    def about(self) -> str:
        count = f"{int(self.trials.same.sum()):,} pairs of one label, {int((~self.trials.same).sum()):,} of two"
        return f"{count}, of {len(self.rows):,} {self.scorer.dataset.modality.noun}"

    def measure(self, features: str, encoder: nn.Module | None, views: tuple[Views, Views | None] | None = None) -> list[Options]:
        """Rows of EER and detection cost, named `features`; of raw features if there is no encoder."""
        view = views[0] if views else None
        known = self.scorer.features(encoder, self.fitted, view, features)
        found = self.scorer.features(encoder, self.rows, view, features)
        dense: Any = [each if isinstance(each, np.ndarray) else each.toarray() for each in (known, found)]
        scores = cosines(dense[1], self.trials.pairs, dense[0].mean(0), dense[0].std(0))
        return self.scorer.named(features, verification_rows(scores, self.trials, self.labels))
