"""Transcription: the characters or words that are said in a recording, by a linear head on the encoder's tokens in time.

Loss: connectionist temporal classification (Graves et al., ICML 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf) per symbol of the
transcripts. Units are the characters, or words, of the training part's transcripts. CTC needs at least one frame per symbol, and one more
between equal neighbours: where tokens are too long for that, the head puts out several frames for each. Scores: word and character error
rate (WER, CER): substitutions, deletions and insertions over the words, or characters with spaces, of all transcripts together; above 1
where insertions abound. Intervals are from a bootstrap over recordings. What the units can't write counts as an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Batch, Encoder, Modality, Options, Terms, UserError, View
from untaught.data.store import Store
from untaught.data.target import TARGET
from untaught.downstream.network import Network, TrainedLayers
from untaught.downstream.task import Predictions, Targets, Task, array
from untaught.evaluation.error_rates import error_counts
from untaught.evaluation.interval import Measured, measure
from untaught.ops.ctc import BLANK, ctc_loss, greedy, needed, prefix_beam
from untaught.ranges import FewOrNone, Within, in_range

if TYPE_CHECKING:
    import pyarrow

Units = Literal["characters", "words"]
TEXT = f"{TARGET}text"  # of the store: (bytes,) uint8
MOST = 100_000  # symbols
SPARE = 1.2  # frames over those that a transcript needs: none is blank with 1
FITTING = 0.99  # share of the training transcripts that have these frames
FINEST = 64  # frames of a token, at most
BLANK_FIRST = 0.8  # initial probability of the blank
HEAD_RATE = 10.0  # learning rate of the head over that of the encoder's last layer
BLANKS, WRONG = 0.9, 0.9  # blank share and WER from which a network has collapsed to blanks


class Transcribe(Task):
    """facts: the `symbols` by number, from 1, and the `frames` of a token."""

    lr = 1e-3
    target = "transcripts"
    meaning = ("units", "beam", "frames")

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Options,
        layers: TrainedLayers | None = None,
        *,
        units: Units = "characters",
        beam: Annotated[int, Within(1, 1000)] = 1,  # prefixes kept by the decoder; 1: the best path
        frames: FewOrNone = 0,  # frames put out for each token; 0: as many as the training transcripts need
    ) -> None:
        super().__init__(encoder, facts)
        self.symbols = _checked(facts, frames)
        self.units, self.beam, self.frames = units, beam, frames
        self.network = Network(encoder, Outputs(encoder.width, 1 + len(self.symbols), frames), layers, tokens_in_time)
        self.vocabulary: list[str] = facts.get("vocabulary", [])  # of all transcripts, by the numbers in a view's target
        self.unaligned: tuple[int, int] = facts.get("unaligned", (0, 0))
        place = {symbol: number for number, symbol in enumerate(self.symbols, 1)}
        self.numbers: Tensor  # (vocabulary + 1,): a symbol's number, 0 for one unseen in training; the last is for padding
        self.register_buffer("numbers", torch.tensor([*(place.get(one, 0) for one in self.vocabulary), 0]), persistent=False)

    # ------------------------------------------------------------------------------------------------------ targets

    @classmethod
    def missing(cls, encoder: Encoder) -> frozenset[str]:
        return frozenset() if encoder.offers & {"tokens", "sequence"} else frozenset({"tokens"})

    @classmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        words = knobs.get("units", "characters") == "words"
        found = Spoken(store, words)
        if not found.known.any():
            raise UserError(f"all {len(store):,} transcripts are empty; name the column with --label ({what})")
        if len(found.vocabulary) > MOST:
            raise UserError(f"the transcripts have {len(found.vocabulary):,} different words, more than {MOST:,}; use units=characters")
        counted = f"{int(found.ends[-1]):,} {'words' if words else 'characters'}, {len(found.vocabulary):,} different"
        facts = {"vocabulary": found.vocabulary, "spoken": found, "frames": knobs.get("frames", 0)}
        return Targets(found.known, np.zeros(len(store), np.int64), found.follow(TEXT), facts, f"{counted}; ")

    @classmethod
    def check_targets(cls, targets: Targets, train: np.ndarray, test: np.ndarray | None, noun: str) -> list[str]:
        spoken: Spoken = targets.facts["spoken"]
        if not len(train):
            raise UserError(f"no training {noun} with a transcript; give some, or another --split")
        if test is None:
            return []
        seen = np.zeros(len(spoken.vocabulary), bool)
        seen[spoken.of(train)] = True
        unseen = [spoken.rows(row)[~seen[spoken.rows(row)]] for row in test]
        if not (count := sum(map(len, unseen))):
            return []
        some = [spoken.vocabulary[number] for number in np.unique(np.concatenate(unseen))]
        shown = ", ".join(map(repr, some[:5])) + (" ..." if len(some) > 5 else "")
        rows = sum(1 for each in unseen if len(each))
        return [f"{count:,} symbols in {rows:,} of {len(test):,} {noun} to test are unseen in training ({shown}): they count as errors"]

    @classmethod
    def learned(cls, targets: Targets, train: np.ndarray, encoder: Encoder, example: View) -> Options:
        """The symbols of these rows, and how many frames a token has."""
        spoken: Spoken = targets.facts["spoken"]
        used = np.unique(spoken.of(train))
        training = encoder.training
        with torch.no_grad():
            tokens, valid = tokens_in_time(encoder.eval(), example)
        encoder.train(training)
        count = float(tokens.shape[1] if valid is None else valid.sum())
        each = np.maximum(np.round(count * spoken.extent[train] / spoken.extent[train[0]]), 1)  # estimated tokens of every row
        wanted = np.array([spoken.needed(row) for row in train])
        frames = targets.facts["frames"] or min(max(1, math.ceil(float(np.quantile(SPARE * wanted / each, FITTING)))), FINEST)
        unaligned = int((wanted > frames * each).sum()), len(train)
        own = {"symbols": [spoken.vocabulary[number] for number in used], "frames": frames, "unaligned": unaligned}
        return {"vocabulary": spoken.vocabulary, **own}

    def remarks(self) -> list[str]:
        some = f"{len(self.symbols):,} {self.units}"
        found = [f"output    {some} and blank, {self.frames} frame{'s' if self.frames > 1 else ''} for each token of the encoder"]
        short, count = self.unaligned
        if short:
            found.append(
                f"output    about {short:,} of {count:,} transcripts to learn from need more frames than their recordings have and teach "
                f"nothing; choose frames={2 * self.frames}, units=words or an encoder with shorter tokens"
            )
        return found

    @cached_property
    def groups(self) -> dict[str, dict[str, Any]]:  # type: ignore[override]
        return {**self.network.groups("network."), "network.head.": {"lr_scale": HEAD_RATE}}

    @property
    def facts(self) -> Options:
        return {"symbols": list(self.symbols), "units": self.units, "beam": self.beam, "frames": self.frames}

    # ------------------------------------------------------------------------------------------------------ training

    def _numbered(self, target: Tensor) -> Tensor:
        """A view's target (B,L), numbers in the vocabulary and -1 for padding -> symbols from 1, in order, and 0 behind them. Those unseen
        in training are left out."""
        found = self.numbers[target]  # -1 is the last
        kept = found > 0
        place = torch.where(kept, kept.cumsum(1) - 1, target.shape[1])
        return found.new_zeros(len(found), target.shape[1] + 1).scatter_(1, place, found)[:, :-1]

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B, ...) with target (B,L), numbers in the vocabulary, padded with -1."""
        (view,) = views
        assert view.target is not None
        log, length = self.network(view)
        target = self._numbered(view.target)
        fits = needed(target) <= length
        loss = ctc_loss(log, length, target).sum() / ((target > 0).sum(1) * fits).sum().clamp(min=1)
        with torch.no_grad():
            blank = _blanks(log, length).sum() / length.sum()
        return {"ctc": loss, "train_blank_share": blank, "train_unaligned": 1 - fits.float().mean()}

    # --------------------------------------------------------------------------------------------------- predictions

    def predict(self, view: View) -> Predictions:
        """symbols (B,L) from 1, 0 behind the last; blanks and frames (B,); confidence (B,), the mean probability of the best symbol of a
        frame; with a target also loss (B,), its negative log-likelihood, and counted (B,), its symbols."""
        log, length = self.network(view)
        said = greedy(log, length) if self.beam == 1 else prefix_beam(log, length, self.beam)[0]
        valid = torch.arange(log.shape[1], device=log.device) < length.unsqueeze(1)
        confidence = (log.amax(2).exp() * valid).sum(1) / length
        found = {"symbols": said.int(), "blanks": _blanks(log, length), "frames": length, "confidence": confidence}
        if view.target is not None:
            target = self._numbered(view.target)
            fits = needed(target) <= length
            found |= {"loss": ctc_loss(log, length, target), "counted": (target > 0).sum(1) * fits}
        return {name: array(value) for name, value in found.items()}

    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """The loss per symbol of the transcripts that fit into the frames."""
        return float(predictions["loss"].sum() / max(predictions["counted"].sum(), 1))

    def texts(self, predictions: Predictions) -> list[str]:
        between = " " if self.units == "words" else ""
        return [_joined([self.symbols[number - 1] for number in row if number != BLANK], between) for row in predictions["symbols"]]

    def _true(self, truth: np.ndarray) -> list[str]:
        between = " " if self.units == "words" else ""
        return [_joined([self.vocabulary[number] for number in row if number >= 0], between) for row in truth]

    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """-> (N, 6): errors in words, words, errors in characters, characters; blank frames, frames."""
        counts = [error_counts(true, said) for true, said in zip(self._true(truth), self.texts(predictions), strict=True)]
        return np.column_stack([np.array(counts), predictions["blanks"], predictions["frames"]])

    @staticmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Word and character error rate, and the share of frames that are blank."""
        word, words, character, characters, blank, frames = outcome.sum(0).tolist()
        return {"wer": word / max(words, 1), "cer": character / max(characters, 1), "blank_share": blank / max(frames, 1)}

    @classmethod
    def metrics(cls, outcomes: Sequence[np.ndarray]) -> dict[str, Measured]:
        return measure(cls.scores, list(outcomes), (0.0, np.inf))  # insertions are not limited

    @classmethod
    def verdict(cls, outcome: np.ndarray) -> str:
        scores = cls.scores(outcome)
        return ": ".join(collapsed(scores["blank_share"], scores["wer"]))

    def table(self, predictions: Predictions) -> pyarrow.Table:
        """row, name, transcript, and confidence: the mean probability of the best symbol of a frame."""
        import pyarrow as pa

        own = {"transcript": self.texts(predictions), "confidence": predictions["confidence"].astype(np.float32)}
        return pa.table({"row": predictions["row"], "name": list(predictions["name"]), **own})

    def beside(self, predictions: Predictions, truth: np.ndarray, names: Sequence[str]) -> pyarrow.Table:
        """file, transcript, prediction, word_errors."""
        import pyarrow as pa

        errors = self.outcome(predictions, truth)[:, 0].astype(np.int64)
        said = {"transcript": self._true(truth), "prediction": self.texts(predictions), "word_errors": errors}
        return pa.table({"file": list(names), **said})


class Spoken:
    """The transcripts of a store in units: the words or characters of all of them by number, and the numbers of each row."""

    def __init__(self, store: Store, words: bool) -> None:
        numbers: dict[str, int] = {}
        rows: list[np.ndarray] = []
        column, ends = store.columns[TEXT], store.offsets[TEXT]
        for row in range(len(store)):
            text = column[ends[row] : ends[row + 1]].tobytes().decode("utf-8", "replace")
            rows.append(np.array([numbers.setdefault(one, len(numbers)) for one in (text.split() if words else text)], np.int64))
        order = sorted(numbers)
        renumbered = np.empty(len(order), np.int64)
        renumbered[[numbers[one] for one in order]] = np.arange(len(order))
        self.vocabulary = order
        self.values = renumbered[np.concatenate(rows)] if order else np.empty(0, np.int64)
        self.ends = np.cumsum([0, *map(len, rows)])
        self.known = np.diff(self.ends) > 0  # (N,)
        inputs = [np.diff(own) for name, own in store.offsets.items() if not name.startswith(TARGET)]
        self.extent = inputs[0].astype(float) if inputs else np.ones(len(store))  # (N,) of the input, in its own steps

    def rows(self, row: int) -> np.ndarray:
        """The numbers (L,) of one row."""
        return self.values[self.ends[row] : self.ends[row + 1]]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of all of these rows."""
        return np.concatenate([self.rows(row) for row in rows])

    def needed(self, row: int) -> int:
        """The frames that this row's transcript needs at least."""
        own = self.rows(row)
        return len(own) + int((own[1:] == own[:-1]).sum())

    def follow(self, column: str) -> Callable[[Batch, View], View]:
        """Sets a view's target to the numbers of its rows (B,L), padded with -1. L is the width of the batch's `column`, which is at least
        the number of units, so that no length is read from the device."""
        values, ends = torch.from_numpy(np.append(self.values, 0)), torch.from_numpy(self.ends)

        def follow(batch: Batch, view: View) -> View:
            index = batch["index"]
            own, stops = values.to(index.device), ends.to(index.device)
            at = stops[index].unsqueeze(1) + torch.arange(batch[column].shape[1], device=index.device)
            inside = at < stops[index + 1].unsqueeze(1)
            return replace(view, target=torch.where(inside, own[at.clamp(max=len(own) - 1)], -1))

        return follow


def collapsed(blank_share: float, wer: float) -> tuple[str, str] | tuple[()]:
    """What shows that a network has collapsed to blanks, and what to do; () if it has not."""
    if blank_share < BLANKS or wer < WRONG:
        return ()
    found = f"{blank_share:.0%} of frames are blank and WER is {wer:.0%}"
    return found, (
        "the network has collapsed to blanks, as CTC does before it learns; train longer (steps=), with a larger lr=, with more labels, or "
        "all layers (train=full)"
    )


def tokens_in_time(encoder: Encoder, view: View) -> tuple[Tensor, Tensor | None]:
    """(B,N,D) float32 in order of time, and their validity (B,N). Raises UserError for an encoder whose tokens lie on a grid."""
    if "tokens" in encoder.offers and len(grid := encoder.grid(view)) != 1:
        raise UserError(
            f"the tokens of {type(encoder).__name__} lie on a grid of {' x '.join(map(str, grid))}; --task transcribe needs tokens in "
            "time, as of patch_series or conv_mel"
        )
    found = encoder.features(view, want=("tokens",))
    assert found.tokens is not None
    return found.tokens.float(), found.valid


class Outputs(nn.Module):
    """Tokens (B,N,D), valid (B,N) first -> log-probabilities (B, N*frames, V) of the blank (0) and all symbols, and valid frames (B,).

    Every channel has mean 0 and variance 1 over valid tokens (BatchNorm without weights), and all frames start with the same probabilities.
    Otherwise the first steps are spent on the tokens' mean, and the output stays all blank for hundreds of steps.
    """

    def __init__(self, width: int, size: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.norm, self.scores = nn.BatchNorm1d(width, affine=False), nn.Linear(width, frames * size)
        nn.init.zeros_(self.scores.weight)
        first = torch.full((size,), (1 - BLANK_FIRST) / (size - 1))
        first[BLANK] = BLANK_FIRST
        with torch.no_grad():
            self.scores.bias.copy_(first.log().repeat(frames))

    def forward(self, found: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
        tokens, valid = found
        count, longest = tokens.shape[:2]
        log = self.scores(self._normalised(tokens, valid)).view(count, longest * self.frames, -1).log_softmax(2)
        length = torch.full((count,), longest, device=tokens.device) if valid is None else valid.sum(1)
        return log, length * self.frames

    def _normalised(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        if not self.training:
            return self.norm(tokens.flatten(0, 1)).view_as(tokens)
        kept = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid
        found = tokens[kept]
        # One token alone has no variance.
        found = self.norm(found) if len(found) > 1 else F.batch_norm(found, self.norm.running_mean, self.norm.running_var)
        return torch.zeros_like(tokens).masked_scatter(kept.unsqueeze(2), found)


def _blanks(log: Tensor, length: Tensor) -> Tensor:
    """The number of valid frames (B,) whose most probable symbol is the blank."""
    valid = torch.arange(log.shape[1], device=log.device) < length.unsqueeze(1)
    return ((log.argmax(2) == BLANK) & valid).sum(1)


def _joined(symbols: list[str], between: str) -> str:
    return " ".join(between.join(symbols).split())


def _checked(facts: Options, frames: int) -> list[str]:
    symbols = facts.get("symbols")
    if not isinstance(symbols, list | tuple) or not 1 <= len(symbols) <= MOST or not all(isinstance(one, str) and one for one in symbols):
        raise UserError("its config.json has no symbols; copy the complete folder, or fine-tune again")
    if not 1 <= frames <= FINEST:
        raise UserError(f"frames={frames}: must be from 1 to {FINEST}")
    return list(symbols)
