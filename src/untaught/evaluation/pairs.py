"""Scores of a method with several encoders: retrieval between them on held-out pairs, with random init and chance as baselines."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from untaught.console import progress_bar
from untaught.core import Batch, Options, View
from untaught.data.parts import VAL, held_out_part
from untaught.evaluation.features import encode
from untaught.evaluation.interval import Measured, row
from untaught.evaluation.retrieval import chance, measured, outcomes, recall_rows, recalls
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.view_pipeline import convolves, used_view

MOST = 5000  # pairs, as in the test parts of Flickr30k and COCO; recall falls with more candidates
WATCHED = 1000  # pairs used for scores during training

Encoders = Mapping[str, nn.Module]  # by role, in the order of the roles


class PairScorer:
    """Recall between a run's two roles on its held-out part; during training on the validation part, never on the test part.

    export_views: by role, the view in which its encoder is used.
    """

    def __init__(self, dataset: Dataset, export_views: Mapping[str, str], device: torch.device, bf16: bool, batch_size: int = 256) -> None:
        self.dataset, self.device, self.bf16, self.batch_size = dataset, device, bf16, batch_size
        self.views = {role: used_view(dataset.prep, name) for role, name in export_views.items()}
        self.names = tuple(export_views)
        parts = dataset.parts if dataset.store is not None else {}
        self.held_out = held_out_part(parts)
        self.why_not = "" if self.held_out else "the data is streamed" if dataset.store is None else "no held-out part (give --split NAME)"
        self.rows = _some(parts.get(self.held_out or "", np.arange(0)), MOST)
        self.watched = _some(parts.get(VAL, np.arange(0)), WATCHED)

    @property
    def possible(self) -> bool:
        """Whether there is a held-out part; `why_not` gives the reason if not."""
        return not self.why_not

    def watch(self, encoders: Encoders, heads: Encoders) -> dict[str, float]:
        """Recalls on the validation part; {} without one."""
        if not len(self.watched):
            return {}
        (a, a_of), (b, b_of) = (self._vectors(role, encoders[role], heads[role], self.watched) for role in self.names)
        return recalls(outcomes(a, b, a_of, b_of), self._pair)

    def measure(self, features: str, encoders: Encoders, heads: Encoders) -> tuple[list[Options], dict[str, Measured]]:
        """Rows of evaluation.json named `features` on the held-out part, and the recalls as `Measured`, for paired differences."""
        (a, a_of), (b, b_of) = (self._vectors(role, encoders[role], heads[role], self.rows, features) for role in self.names)
        outcome = outcomes(a, b, a_of, b_of)
        found = measured(outcome, self._pair)
        return self._named(features, recall_rows(found, len(outcome))), found

    def chance(self) -> list[Options]:
        """Rows for a random order of the candidates, exact, so without intervals."""
        of = [torch.cat([index for _, index in self._items(role, self.rows)]) for role in self.names]
        found = chance(of[0], of[1], self._pair)
        return self._named("chance", [row("retrieval", "none", metric, value, value, value, 1) for metric, value in found.items()])

    @property
    def _pair(self) -> tuple[str, str]:
        first, second = self.names
        return first, second

    def _named(self, features: str, rows: list[Options]) -> list[Options]:
        numbers = ("mean", "low", "high")
        return [{"features": features, **row, **{key: round(row[key], 6) for key in numbers}, "data": self.dataset.name} for row in rows]

    def _vectors(self, role: str, encoder: nn.Module, head: nn.Module, rows: np.ndarray, note: str = "") -> tuple[Tensor, Tensor]:
        """Vectors in the shared space (N,D) of all items of a role (an image, each of its captions), and the pair index of each (N,)."""
        view = self.views[role]
        view.channels_last = convolves(encoder)
        projected = Projected(encoder, head).to(self.device)
        with progress_bar(f"encoding {role} {note}") if note else progress_bar("") as bar:
            task = bar.add_task("", total=len(rows), note="", visible=bool(note))
            vectors, index = [], []
            batches = (batch for batch, _ in self._items(role, rows))
            for own, found in encode(projected, batches, lambda batch: view(batch, 0)[0], self.device, self.bf16, self.dataset.names):
                vectors.append(torch.from_numpy(found))
                index.append(torch.from_numpy(own))
                bar.update(task, advance=len(np.unique(own)))
        return torch.cat(vectors), torch.cat(index)

    def _items(self, role: str, rows: np.ndarray) -> Iterator[tuple[Batch, Tensor]]:
        """Yields batches with a row for every item of a role, and the pair index of each."""
        for batch in self.dataset.in_order(rows, self.batch_size).batches(0):
            items = self.dataset.modality.items
            own = items(batch, role)[0] if items is not None else batch
            if len(own["index"]):
                yield own, own["index"]


class Projected(nn.Module):
    """An encoder with its projection into the shared space."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.train(encoder.training)  # `encode` restores this mode: a frozen encoder stays in eval mode

    def forward(self, view: View) -> Tensor:
        return self.head(self.encoder(view))


def random_init_heads(heads: Encoders, seed: int) -> dict[str, nn.Module]:
    """Copies at random init."""
    torch.manual_seed(seed)
    copies = {role: copy.deepcopy(head) for role, head in heads.items()}
    for head in copies.values():
        head.reset_parameters()  # type: ignore[operator]
    return copies


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]
