"""Next-item ranking of an encoder on held-out events, beside random init and classical recommenders, all on the same users.

The view `next_event` gives a user's events before the held-out one, and that one as the target. Every item of the vocabulary that the
user has not had is ranked; a user whose held-out item is in the history is left out, since such items are filtered. Hyper-parameters of
the baselines are chosen on the validation events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from untaught.console import progress_bar, say
from untaught.core import Batch, Encoder, Options, View
from untaught.data.parts import TRAIN
from untaught.evaluation import recommenders
from untaught.evaluation.features import check_finite
from untaught.evaluation.interval import Measured
from untaught.evaluation.ranking import gains, measured, places, ranking_rows
from untaught.evaluation.recommenders import Score
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.seen_rows import SeenRows
from untaught.pipeline.view_pipeline import Views

VIEW = "next_event"
VALIDATION, TEST = "validation", "test"
USERS, WATCHED = 20_000, 2_000  # ranked, at most; and during training
ROWS = 256  # users ranked at once


@dataclass(frozen=True)
class Asked:
    """The users that are ranked: rows of the store (N,), histories (N,V) of 0 and 1, targets (N,)."""

    rows: np.ndarray
    history: Any
    target: np.ndarray


def can_rank(encoder: Any) -> bool:
    """Whether the scores of the items come with the encoder: it offers words, and its head has no weights of its own."""
    if "words" not in getattr(encoder, "offers", ()):
        return False
    own = {id(parameter) for parameter in encoder.parameters()}
    return all(id(parameter) in own for parameter in encoder.words().parameters())


class NextItem:
    """Ranks the held-out events of a data set; `offered`: whether modality and encoder can; `why_not`: the reason if not `possible`.

    known: what the encoder was trained on. Users held out for the labels of users may be among them; the classical recommenders learn from
    the same training events.
    """

    def __init__(self, dataset: Dataset, encoder: Any, device: torch.device, bf16: bool, seed: int, known: SeenRows | None = None) -> None:
        self.dataset, self.device, self.bf16 = dataset, device, bf16
        self.offered = VIEW in dataset.modality.views and can_rank(encoder)
        self.why_not = "" if dataset.store is not None else "the data is streamed"
        self.possible = self.offered and not self.why_not
        if not self.possible:
            return
        special = dataset.prep.statistics["special"]
        self.size = int(dataset.prep.statistics["vocabulary"])
        self.special = np.array(sorted(number for number in special.values() if number is not None))
        assert dataset.store is not None
        every, pick = np.arange(len(dataset.store)), np.random.default_rng(seed)
        self.rows = np.sort(pick.permutation(every)[:USERS])
        seen = known.trained if known and known.trained is not None else np.zeros(0, np.uint64)
        self.learned = np.union1d(dataset.parts[TRAIN], np.flatnonzero(np.isin(dataset.store.hashes, seen)))
        self.asked: dict[str, Asked] = {}
        self.left_out: dict[str, dict[str, int]] = {}
        if not len(self.of(TEST).rows):
            lost = ", ".join(f"{count:,} {why}" for why, count in self.left_out[TEST].items() if count)
            self.possible, self.why_not = False, f"no user has a held-out event ({lost or 'hold_out=none'})"

    # ---------------------------------------------------------------------------------------------------------- users

    def of(self, part: str) -> Asked:
        if part not in self.asked:
            self.asked[part] = self._asked(part)
        return self.asked[part]

    def _asked(self, part: str) -> Asked:
        rows, targets, histories = [], [], []
        lost = {"without a held-out event or a history": 0, "whose item they had before": 0}
        for batch, view in self._views(self.rows, part):
            assert view.target is not None
            assert view.meta is not None
            target, history = view.target[:, 0].numpy().copy(), self._matrix(view.meta["history"])
            empty = (target == self._mask) | (view.meta["at"] == 0).numpy()
            again = ~empty & (np.asarray(history[np.arange(len(target)), target]).ravel() > 0)
            lost["without a held-out event or a history"] += int(empty.sum())
            lost["whose item they had before"] += int(again.sum())
            kept = np.flatnonzero(~empty & ~again)
            rows.append(batch["index"].numpy()[kept])
            targets.append(target[kept])
            histories.append(history[kept])
        self.left_out[part] = lost
        return Asked(np.concatenate(rows), sparse.csr_matrix(sparse.vstack(histories)), np.concatenate(targets))

    @property
    def _mask(self) -> int:
        return int(self.dataset.prep.statistics["special"]["mask"])

    def _matrix(self, ids: Tensor) -> Any:
        """ids (B,N) -> (B,V), 1 where a user has an item; special ones are left out."""
        known = ~np.isin(ids.numpy(), self.special)
        rows, columns = np.nonzero(known)[0], ids.numpy()[known]
        found = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(ids), self.size))
        found.sum_duplicates()
        found.data[:] = 1
        return found

    def _views(self, rows: np.ndarray, part: str) -> Iterator[tuple[Batch, View]]:
        options = {**self.dataset.prep.presets()[VIEW], "after": part}
        views = Views((VIEW,), self.dataset.prep, [options], seed=0)
        for batch in self.dataset.in_order(rows, ROWS).batches(0):
            yield batch, views(batch, 0)[0]

    def announce(self) -> bool:
        """Whether it is measured; says why not if modality and encoder offer it."""
        if self.offered and not self.possible:
            say(f"next item not measured: {self.why_not}")
        return self.possible

    def describe(self) -> None:
        """Prints who is ranked how, once."""
        asked = self.of(TEST)
        unseen = int(np.isin(asked.target, self.special).sum())
        users, items = f"{len(asked.rows):,} {self.dataset.modality.noun}", f"{self.size - len(self.special):,}"
        text = f"{users}, the held-out item of each among all {items} (full ranking), items of the history filtered"
        text += "".join(f"; left out: {count:,} {why}" for why, count in self.left_out[TEST].items() if count)
        say(f"next item {text}" + (f"; unseen in training, and missed: {unseen:,} items" if unseen else ""))

    # --------------------------------------------------------------------------------------------------------- scores

    def watch(self, encoder: nn.Module) -> dict[str, float]:
        """Scores on validation events, during training; {} if there are none."""
        asked = self.of(VALIDATION)
        if not len(asked.rows):
            return {}
        few = slice(None, None, -(-len(asked.rows) // WATCHED))
        asked = Asked(asked.rows[few], asked.history[few], asked.target[few])
        hit, gain = gains(self._of_encoder(encoder, VALIDATION, asked)).mean(0)
        return {"val_ndcg@10": float(gain), "val_hr@10": float(hit)}

    def measure(self, features: str, encoder: nn.Module, part: str = TEST) -> tuple[list[Options], dict[str, Measured]]:
        """Rows of evaluation.json named `features`, and the scores as `Measured`."""
        return self._rows(features, self._of_encoder(encoder, part, self.of(part)))

    def baselines(self, part: str = TEST) -> tuple[list[Options], dict[str, dict[str, Measured]]]:
        """Rows of all classical recommenders, and their scores by name."""
        rows: list[Options] = []
        found = {}
        with progress_bar("classical recommenders") as bar:
            bar.add_task("", total=None, note="")
            for name, score in self._recommenders():
                own, found[name] = self._rows(name, self._of_scores(score, self.of(part)))
                rows += own
        return rows, found

    def _rows(self, features: str, place: np.ndarray) -> tuple[list[Options], dict[str, Measured]]:
        found, data = measured(gains(place)), self.dataset.name
        rounded = [{**row, **{key: round(row[key], 6) for key in ("mean", "low", "high")}} for row in ranking_rows(found, len(place))]
        return [{"features": features, **row, "data": data} for row in rounded], found

    def _recommenders(self) -> Iterator[tuple[str, Score]]:
        """Fitted on the training events of the encoder's users, their knobs chosen by NDCG@10 on validation events."""
        matrices, items, times = [], [], []
        for _, view in self._views(self.learned, VALIDATION):
            assert view.meta is not None
            ids = view.meta["history"]
            matrices.append(self._matrix(ids))
            known = ~np.isin(ids.numpy(), self.special)
            items.append(ids.numpy()[known])
            if "times" in view.meta:
                times.append(view.meta["times"].numpy()[known])
        x: Any = sparse.csr_matrix(sparse.vstack(matrices))
        item = np.concatenate(items)
        yield "popularity", recommenders.popularity(np.bincount(item, minlength=self.size))
        if times:
            time = np.concatenate(times)
            recent = {share: recommenders.recent_popularity(item, time, share, self.size) for share in recommenders.RECENT}
            yield "recent_popularity", self._best("recent popularity", "share", recent)
        users, items = x.shape
        if items > recommenders.COMPARED:
            say(f"skipping  item-kNN: to compare {items:,} items, more than {recommenders.COMPARED:,}, would take very long")
        else:
            near = recommenders.ItemNeighbours(x)
            yield "item_knn", self._best("item-kNN", "neighbours", {k: near.scores(k) for k in recommenders.NEIGHBOURS})
        if min(users, items) > recommenders.LARGEST or items * min(users, items) > recommenders.NUMBERS:
            say(f"skipping  EASE: {users:,} users and {items:,} items would take very long, or too much memory")
            return
        linear = recommenders.EASE(x)
        yield "ease", self._best("EASE", "penalty", {penalty: linear.scores(penalty) for penalty in recommenders.PENALTIES})

    def _best(self, name: str, knob: str, candidates: dict[Any, Score]) -> Score:
        asked = self.of(VALIDATION)
        if not len(asked.rows):
            return list(candidates.values())[len(candidates) // 2]
        gain = {value: float(gains(self._of_scores(score, asked))[:, 1].mean()) for value, score in candidates.items()}
        best = max(gain, key=gain.__getitem__)
        say(f"baseline  {name}: {knob} {best:g} of {', '.join(f'{value:g}' for value in gain)}, by validation events")
        return candidates[best]

    # --------------------------------------------------------------------------------------------------------- places

    def _of_scores(self, score: Score, asked: Asked) -> np.ndarray:
        """The place of each user's next item (N,)."""
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(asked.rows), ROWS):
            part = slice(start, start + ROWS)
            found.append(places(score(asked.history[part]), asked.target[part], self._excluded(asked.history[part])))
        return np.concatenate(found)

    def _of_encoder(self, encoder: nn.Module, part: str, asked: Asked) -> np.ndarray:
        found, start = [np.zeros(0, np.int64)], 0
        training = encoder.training
        encoder.eval()
        try:
            for batch, view in self._views(asked.rows, part):
                scores = item_scores(encoder, view, self.device, self.bf16).numpy()  # type: ignore[arg-type]
                check_finite(batch["index"].numpy(), scores, self.dataset.names)
                rows = slice(start, start + len(scores))
                found.append(places(scores, asked.target[rows], self._excluded(asked.history[rows])))
                start += len(scores)
        finally:
            encoder.train(training)
        return np.concatenate(found)

    def _excluded(self, history: Any) -> np.ndarray:
        excluded = history.toarray() > 0
        excluded[:, self.special] = True
        return excluded


@torch.no_grad()
def item_scores(encoder: Encoder, view: View, device: torch.device, bf16: bool) -> Tensor:
    """The scores (B,V) float32 of all items after a view `next_event`: those of a bidirectional encoder at the mask, of a causal one at the
    event before it, which does not see the mask."""
    assert view.meta is not None
    at = view.meta["at"].to(device)
    shown = View(view.x, view.valid).to(device)
    if "causal" in encoder.offers:
        shown = replace(shown, valid=shown.valid & (torch.arange(shown.x.shape[1], device=device) < at.clamp(min=1).unsqueeze(1)))
        at = (at - 1).clamp(min=0)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden, weight, bias = encoder.words().parts(encoder.tokens_at(shown, at.unsqueeze(1))[:, 0])
    scores = hidden.float() @ weight.float().T
    return (scores if bias is None else scores + bias.float()).cpu()
