"""How many labels a fine-tuning learns from, and which rows: draws of the training part, each with its validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from untaught.config.overrides import knobs_of
from untaught.core import UserError
from untaught.data.labels import hold_out, rarest
from untaught.ranges import Count, Few, Within, check

VALIDATED = 5_000  # samples of the validation part at most
FEW = 20  # validation samples under which nothing can be chosen by them


@dataclass(frozen=True)
class Trial:
    """How much is learned from, and how it is measured."""

    labels: str = "all"  # of the training part: all, a share as 1%, or a number a class as 10/class
    draws: Few = 1  # of those labels, each with a validation part and a seed of its own
    validation: Annotated[float, Within(0, 0.5)] = 0.2  # share of the labels that chooses when to stop and calibrates; 0 is off
    patience: Count = 8  # evaluations (20 in the budget) without a better one, after which training ends; 0 is off
    probe: bool = True  # the head begins as a linear probe of the encoder
    scratch: bool = True  # train the same network from scratch as well

    def __post_init__(self) -> None:
        self.amount  # noqa: B018  # refuses what can't be read
        check(vars(self), {name: kind for name, (kind, _) in knobs_of(type(self)).items()})

    @property
    def amount(self) -> tuple[float, int | None]:
        """(share, None) or (1.0, number a class)."""
        text = self.labels
        try:
            if text == "all":
                return 1.0, None
            if text.endswith("%") and 0 < float(text[:-1]) <= 100:
                return float(text[:-1]) / 100, None
            if text.endswith("/class") and int(text[:-6]) > 0:
                return 1.0, int(text[:-6])
        except ValueError:
            pass
        raise UserError(f"labels={text}: must be all, a share as 1%, or a number a class as 10/class")


def divide(
    pool: np.ndarray, truth: np.ndarray, trial: Trial, seed: int, draw: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The training rows of a draw and its validation rows, of the labelled training rows `pool` (n,).

    truth: class numbers (N,) or label sets (N,K), by which rows are drawn in proportion, or measured numbers (N,), of every row. own: the
    validation rows that the data come with; without them a share of the drawn labels is held out. Raises UserError where under two rows are
    left.
    """
    share, each = trial.amount
    random = np.random.default_rng([seed, draw])
    rows, validation = pool, own
    if share < 1 or each:
        labels = rarest(truth[rows]) if truth.ndim == 2 else truth[rows]
        groups = [np.flatnonzero(labels == c) for c in np.unique(labels)] if labels.dtype.kind == "i" else [np.arange(len(rows))]
        wanted = [min(each, len(group)) if each else max(1, round(share * len(group))) for group in groups]
        rows = np.sort(rows[np.concatenate([random.permutation(g)[:n] for g, n in zip(groups, wanted, strict=True)])])
    if len(rows) < 2:
        raise UserError(f"labels={trial.labels} leaves {len(rows)} training sample; at least 2 are needed")
    if validation is None and trial.validation:
        held_out = hold_out(truth[rows], seed + draw, trial.validation, least=0)
        if held_out.sum() >= FEW:
            rows, validation = rows[~held_out], rows[held_out]
    if validation is not None and len(validation) > VALIDATED:
        spared = random.permutation(len(validation))
        if own is None:
            rows = np.sort(np.concatenate([rows, validation[spared[VALIDATED:]]]))
        validation = np.sort(validation[spared[:VALIDATED]])
    return rows, validation if trial.validation else None
