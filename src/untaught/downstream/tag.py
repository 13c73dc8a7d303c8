"""Tagging: a class for every word, by a linear head on the encoder's tokens. Each word is represented by its first token.

Loss: cross-entropy averaged over words. Scores: for IOB tags (B-person, I-person, O), entity F1 as in conlleval and seqeval (Tjong Kim
Sang and De Meulder, CoNLL 2003, https://arxiv.org/abs/cs/0306050): an entity is correct if its words and its type match the truth
exactly, counted over all documents; tags that violate IOB2 are interpreted as in conlleval (an I- without a preceding tag of its type
begins an entity). Also precision, recall and word accuracy; for other tags, word accuracy only. Words truncated by the view are
predicted as O, and count. Intervals are from a bootstrap over documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Modality, Options, Terms, UserError, View
from untaught.data.store import Store
from untaught.data.target import TARGET
from untaught.downstream.network import Network, TrainedLayers, tokens
from untaught.downstream.task import Predictions, Targets, Task, array

if TYPE_CHECKING:
    import pyarrow

OUTSIDE = "O"
PREFIXES = ("B", "I", "E", "S")
MOST = 10_000  # tags
Span = tuple[int, int, str]  # first word, last word + 1, type


class Tag(Task):
    """facts: the `tags`, by name."""

    needs = frozenset({"tokens"})
    lr = 1e-3  # its head starts from random init
    target = "tags"

    def __init__(self, encoder: Encoder, facts: Options, layers: TrainedLayers | None = None) -> None:
        super().__init__(encoder, facts)
        self.tags = _checked(facts)
        self.outside = self.tags.index(OUTSIDE) if OUTSIDE in self.tags else 0
        self.network = Network(encoder, nn.Linear(encoder.width, len(self.tags)), layers, tokens)

    # ------------------------------------------------------------------------------------------------------ targets

    @classmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        target = cls.target_of(modality)
        assert target is not None
        tags = list(store.manifest["layout"]["tags"])
        words = len(store.columns[f"{TARGET}tags"])
        types = sorted({tag[2:] for tag in tags if tag != OUTSIDE})
        about = f"{len(types)} entity types ({', '.join(types[:8])})" if are_iob(tags) else f"{len(tags)} tags"
        everything = np.ones(len(store), bool)
        return Targets(everything, np.zeros(len(store), np.int64), target.follow, {"tags": tags}, f"{about} on {words:,} words; ")

    @property
    def facts(self) -> Options:
        return {"tags": list(self.tags)}

    # ------------------------------------------------------------------------------------------------------ training

    def _logits(self, view: View) -> tuple[Tensor, Tensor]:
        """Logits (B,W,tags), and whether each word is in the view (B,W); others were truncated."""
        assert view.meta is not None
        words = view.meta["words"]
        logits = self.network(view)
        return logits.gather(1, words.clamp(min=0).unsqueeze(2).expand(-1, -1, logits.shape[2])), words >= 0

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B,T) with target (B,W), the tags of its words, padded with -1."""
        (view,) = views
        assert view.target is not None
        logits, visible = self._logits(view)
        target = torch.where(visible, view.target, -1)
        counted = (target >= 0).sum().clamp(min=1)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="sum") / counted
        with torch.no_grad():
            right = ((logits.argmax(2) == target) & (target >= 0)).sum() / counted
        return {"cross_entropy": loss, "train_word_accuracy": right}

    # --------------------------------------------------------------------------------------------------- predictions

    def predict(self, view: View) -> Predictions:
        """log_probabilities (B,W,tags); spelled (B,bytes), the words as text; count (B,), the number of words."""
        assert view.meta is not None
        logits, visible = self._logits(view)
        log = logits.log_softmax(2)
        outside = torch.full_like(log[:1, :1], -20.0).index_fill(2, torch.tensor(self.outside, device=log.device), 0.0)
        log = torch.where(visible.unsqueeze(2), log, outside)
        return {
            "log_probabilities": array(log),
            "spelled": array(view.meta["spelled"]),
            "count": array(view.meta["count"]),
        }

    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """Cross-entropy averaged over words."""
        log, counted = predictions["log_probabilities"], truth >= 0
        return float(-np.take_along_axis(log, truth.clip(0)[:, :, None], 2)[:, :, 0][counted].mean())

    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """-> (N, 5): entities correct, predicted and true; words correct and total. Without IOB tags the first three are -1."""
        predicted, iob = predictions["log_probabilities"].argmax(2), are_iob(self.tags)
        rows = []
        for own, true in zip(predicted, truth, strict=True):
            count = int((true >= 0).sum())
            one, other = (entities([self.tags[number] for number in tags[:count]]) for tags in (own, true)) if iob else (set(), set())
            found = [len(one & other), len(one), len(other)] if iob else [-1, -1, -1]
            rows.append([*found, int((own[:count] == true[:count]).sum()), count])
        return np.array(rows)

    @staticmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Micro-averaged entity F1, precision and recall (IOB tags only), and word accuracy."""
        right, predicted, true, words, count = outcome.sum(0).tolist()
        accuracy = {"word_accuracy": words / max(count, 1)}
        if predicted < 0:
            return accuracy
        entity = {
            "entity_f1": 2 * right / max(predicted + true, 1),
            "entity_precision": right / max(predicted, 1),
            "entity_recall": right / max(true, 1),
        }
        return entity | accuracy

    def table(self, predictions: Predictions) -> pyarrow.Table:
        """One row per word: row and name of the document, word (numbered from 0), token, tag, probability, and entity: for IOB tags, the
        type and number in the document of the entity that contains the word (person 1)."""
        import pyarrow as pa

        columns: dict[str, list] = {name: [] for name in ("row", "name", "word", "token", "tag", "probability", "entity")}
        iob = are_iob(self.tags)
        for row, name, log, spelled, count in zip(
            *(predictions[key] for key in ("row", "name", "log_probabilities", "spelled", "count")), strict=True
        ):
            words = spelled.astype(np.uint8).tobytes().decode("utf-8", "replace").split("\n")[:count]
            predicted = [self.tags[number] for number in log[:count].argmax(1)]
            of = dict.fromkeys(range(count), "")
            for number, (start, end, kind) in enumerate(sorted(entities(predicted)) if iob else (), 1):
                of |= dict.fromkeys(range(start, end), f"{kind} {number}")
            chances = np.exp(log[:count].max(1)).astype(np.float32).tolist()
            for key, values in {
                "row": [row] * count, "name": [name] * count, "word": list(range(count)), "token": words, "tag": predicted,
                "probability": chances, "entity": list(of.values()),
            }.items():  # fmt: skip
                columns[key] += values
        kinds = {"row": pa.int64(), "word": pa.int64(), "probability": pa.float32()}
        return pa.table({key: pa.array(values, kinds.get(key, pa.string())) for key, values in columns.items()})


def are_iob(tags: list[str]) -> bool:
    """Whether tags mark entities: O, and types with prefix B-, I- (or E-, S-)."""
    return OUTSIDE in tags and all(tag == OUTSIDE or (tag[:1] in PREFIXES and tag[1:2] == "-" and len(tag) > 2) for tag in tags)


def entities(tags: list[str]) -> set[Span]:
    """The entities marked by IOB tags, interpreted as in conlleval."""
    found: set[Span] = set()
    before, kind, start = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, own = tag[:1], tag[2:]
        ends = before != OUTSIDE and (before in "ES" or prefix in "BSO" or own != kind)
        starts = prefix != OUTSIDE and (prefix in "BS" or before in "OES" or own != kind)
        if ends:
            found.add((start, place, kind))
        if starts:
            start = place
        before, kind = prefix, own
    return found


def _checked(facts: Options) -> list[str]:
    tags = facts.get("tags")
    if not isinstance(tags, list | tuple) or not 2 <= len(tags) <= MOST or not all(isinstance(tag, str) for tag in tags):
        raise UserError("its config.json has no tags; copy the complete folder, or fine-tune again")
    return list(tags)
