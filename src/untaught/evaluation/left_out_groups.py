"""Leave one group out: probes fitted on all other groups and scored on this one, for each speaker, patient or run in turn.

Everything that a probe chooses (penalty, layer, labels drawn) is chosen on the other groups. The score is the mean over groups, its
interval Student's t over the groups' scores, so that few groups give a wide one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from torch import nn

from untaught.console import say, warn
from untaught.core import Options, UserError
from untaught.data.store import Store
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.metrics import metric_of
from untaught.pipeline.seen_rows import SeenRows
from untaught.pipeline.view_pipeline import Views

MOST = 200  # groups


@dataclass
class Groups:
    """rows: of the store, by the name of their group, in order of name; labelled ones only."""

    column: str
    rows: dict[str, np.ndarray]

    @classmethod
    def of(cls, scorer: Scorer, column: str) -> Groups:
        """Raises UserError for data without labels, with fewer than two groups or more than MOST."""
        store = scorer.dataset.store
        if store is None or store.labels is None:
            raise UserError(f"--group {column} needs labels; give --label NAME" if store else f"--group {column} can't read a stream")
        if store.group_names == {}:
            raise UserError(f"--group {column}: no row has a value in this column")
        rows = np.flatnonzero(scorer.known)
        own = store.groups[rows]
        if (count := len(store.group_names)) > MOST:
            raise UserError(
                f"column {column} has {count:,} groups or more; at most {MOST} can be left out one by one: give a coarser column"
            )
        found = {name: rows[own == group] for group, name in sorted(store.group_names.items(), key=lambda one: one[1])}
        found = {name: members for name, members in found.items() if len(members)}
        if len(found) < 2:
            raise UserError(f"column {column} has {len(found)} group with labels; at least 2 are needed to leave one out")
        noun = scorer.dataset.modality.noun
        if missing := len(rows) - sum(map(len, found.values())):
            warn(f"skipping {missing:,} {noun} without a value in column {column}")
        for name in found:
            others = np.concatenate([other for key, other in found.items() if key != name])
            if len(learned := np.unique(scorer.labels(others), axis=0)) < 2:
                raise UserError(f"without {column} {name}, all labels are the same; nothing can be learned from the other groups")
            if store.classes and learned.ndim == 1 and not np.isin(scorer.labels(found[name]), learned).any():
                raise UserError(f"no label of {column} {name} occurs in another group, so that none can be learned; give another column")
        return cls(column, found)

    @property
    def all(self) -> np.ndarray:
        return np.sort(np.concatenate(list(self.rows.values())))

    def announce(self, scorer: Scorer, known: SeenRows | None) -> None:
        """Prints the groups, and whether pretraining saw them."""
        store, noun = scorer.dataset.store, scorer.dataset.modality.noun
        assert store is not None
        shown = ", ".join(f"{name} {len(members):,}" for name, members in list(self.rows.items())[:12])
        more = f" and {len(self.rows) - 12} more" if len(self.rows) > 12 else ""
        say(f"groups    {len(self.rows)} of column {self.column}: {shown}{more}; each is left out once")
        if known is not None:
            say(f"groups    {_seen(self, known, store, noun)}")


def _seen(groups: Groups, known: SeenRows, store: Store, noun: str) -> str:
    column = groups.column
    if known.trained is None:
        return f"which {noun} pretraining saw was not recorded"
    seen = {name: count for name, members in groups.rows.items() if (count := known.seen(store, members))}
    if not seen:
        return f"pretraining saw no {noun} of these groups"
    first = next(iter(seen))
    total, among = sum(seen.values()), sum(len(groups.rows[name]) for name in seen)
    which = f"all {len(seen)} groups" if len(seen) == len(groups.rows) else f"{len(seen)} of {len(groups.rows)} groups ({', '.join(seen)})"
    return (
        f"pretraining saw {total:,} of {among:,} {noun} of {which}, without their labels; "
        f"to measure a group that it did not see, pretrain --without {column}={first}"
    )


def leave_each_out(
    scorer: Scorer, groups: Groups, features: str, encoder: nn.Module | None, views: tuple[Views, Views | None] | None = None
) -> list[Options]:
    """Rows of the mean over groups (with "groups", their number), then a row per score and group (with "group", its name)."""
    scorer.shared, scorer.found, scorer.possible = groups.all, {}, True
    each: dict[str, list[Options]] = {}
    try:
        for name, members in groups.rows.items():
            scorer.queries, scorer.bank = members, np.setdiff1d(groups.all, members)
            each[name] = scorer.battery(features, encoder, views, label_free=False)
    finally:
        scorer.shared, scorer.found = None, {}
    data = scorer.dataset.name
    single = [row | {"data": f"{data}, {groups.column} {name}", "group": name} for name, rows in each.items() for row in rows]
    return over_groups(list(each.values()), f"{data}, leaving out one {groups.column}") + single


def over_groups(each: Sequence[list[Options]], data: str) -> list[Options]:
    """each: the rows of every group -> the mean over groups of every score that all groups have, with a 95% interval."""
    score = lambda row: (row["features"], row["probe"], row["labels"], row["metric"])  # noqa: E731
    tables = [{score(row): row for row in rows} for rows in each]
    result = []
    for key, first in tables[0].items():
        if not all(key in table for table in tables):
            continue
        means = np.array([table[key]["mean"] for table in tables])
        half = stdtrit(len(means) - 1, 0.975) * means.std(ddof=1) / np.sqrt(len(means))
        low, high = float(means.mean() - half), float(means.mean() + half)
        if metric_of(first["metric"]).share:
            low, high = max(low, 0.0), min(high, 1.0)
        found = {"mean": float(means.mean()), "low": low, "high": high}
        result.append({**first, **{name: round(value, 6) for name, value in found.items()}, "groups": len(means), "data": data})
    return result
