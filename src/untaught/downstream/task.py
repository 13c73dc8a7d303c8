"""A task: a downstream objective on an encoder. What one must define, and what all share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from untaught.core import Batch, Encoder, Method, Modality, Options, UserError, View
from untaught.data.store import Store
from untaught.data.target import Target
from untaught.downstream.network import Network
from untaught.evaluation.interval import Measured, measure
from untaught.pipeline.view_pipeline import Views, used_view

if TYPE_CHECKING:
    import pyarrow


Predictions = dict[str, np.ndarray]  # by name: a row (N, ...) a sample


@dataclass(frozen=True)
class Targets:
    """The targets of a store's rows."""

    known: np.ndarray  # (N,) bool: the rows that have one
    strata: np.ndarray  # (N,) class numbers or numbers, by which rows are drawn alike; zeros where there are none
    follow: Callable[[Batch, View], View]  # the view with the batch's targets
    facts: Options  # what the task must know of them to be built: classes ...
    about: str = ""  # for the user: what was read


class Task(Method):
    """A downstream objective. Concrete tasks are final: one task, one file, class depth 1.

    It is built from an encoder and `facts`: what was learned of the training targets, and later of a saved config.json, which may come
    from anyone. Its targets are labels, or one of the modality's `targets`, which follow the geometry of a view. Knobs are the
    keyword-only arguments of the constructor; those that `meaning` names are needed to read a saved network, and are part of the facts.
    """

    views = ("light",)
    percent: ClassVar[bool] = True  # whether scores are shares
    target: ClassVar[str | None] = None  # which of the modality's targets; None: labels
    lr: ClassVar[float] = 3e-4  # of fine-tuning where none is given; chosen on held-out rows of CIFAR-10's training part
    by_class: ClassVar[bool] = False  # whether each sample is of one class: labels=10/class
    meaning: ClassVar[tuple[str, ...]] = ()  # knobs that belong to the facts
    files: Callable[[Predictions], list[tuple[str, Any]]] | None = None  # (sample's name, PIL image) of predictions that are images

    network: Network

    @abstractmethod
    def __init__(self, encoder: Encoder, facts: Options, **knobs: Any) -> None:
        """Raises UserError for facts that can't be."""
        super().__init__()

    # ------------------------------------------------------------------------------------------ what is read

    @classmethod
    def reading(cls, modality: Modality, labelled: bool = True) -> Modality:
        """The modality by which data are read: with the target beside its own fields. Raises UserError where it has no such target."""
        target = cls.target_of(modality)
        if target is None:
            return modality
        fields = {name: usual for name, usual in target.fields.items() if labelled or name != target.name}
        return replace(
            modality, name=f"{modality.name}+{target.name}", fields=fields, decode=target.decode, paired=target if target.endings else None
        )

    @classmethod
    def target_of(cls, modality: Modality) -> Target | None:
        if cls.target is None:
            return None
        if cls.target not in modality.targets:
            offered = ", ".join(modality.targets) or "none but labels"
            raise UserError(f"{cls.__name__} learns {cls.target}, which {modality.name} data do not have; they have {offered}")
        return modality.targets[cls.target]

    @classmethod
    def layout(cls, modality: Modality, layout: Options) -> Options:
        """The layout by which data are packed: the columns of the target that are ragged are named."""
        target = cls.target_of(modality)
        return {**layout, "ragged": [*layout.get("ragged", ()), *target.ragged]} if target and target.ragged else layout

    @classmethod
    def used_view(cls, modality: Modality, layout: Options, name: str, statistics: Options) -> Views:
        """The view in which the network is used."""
        view, target = used_view(modality, layout, name, statistics), cls.target_of(modality)
        view.options = [options | (target.whole if target else {}) for options in view.options]
        return view

    @classmethod
    @abstractmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        """Those of a packed store; `what` describes the data. Raises UserError where there are none that it could learn."""

    @classmethod
    def check_targets(cls, targets: Targets, train: np.ndarray, test: np.ndarray | None, noun: str) -> list[str]:
        """What the user should know of training and test rows by number. Raises UserError where nothing can be learned."""
        return []

    @classmethod
    def learned(cls, targets: Targets, train: np.ndarray, encoder: Encoder, example: View) -> Options:
        """The facts by which the task is built, from its training rows by number, the encoder and a view of one sample."""
        return targets.facts

    @classmethod
    def advice(cls, targets: Targets, train: np.ndarray, knobs: Options) -> str:
        """A line for the user on the rows of the first draw, or nothing."""
        return ""

    # -------------------------------------------------------------------------------------- what is trained and said

    @property
    def kept(self) -> Encoder:
        return self.network.encoder

    @property
    @abstractmethod
    def facts(self) -> Options:
        """What it takes to build the task again, and to read the network's outputs."""

    @classmethod
    def built(cls, encoder: Encoder, facts: Options, knobs: Options | None = None) -> Task:
        """With the knobs that its facts have settled; of a saved task's facts, without its weights. Raises UserError for wrong facts."""
        return cls(encoder, facts, **{**(knobs or {}), **{name: facts[name] for name in cls.meaning if name in facts}})

    def begin(self, encode: Callable[[], np.ndarray], targets: np.ndarray) -> None:
        """Sets the head to a probe of the frozen encoder: encode() -> pooled vectors (n,D), strata (n,). By default it stays as drawn."""

    @abstractmethod
    def predict(self, view: View) -> Predictions:
        """Of a view (B, ...), in eval mode. Raises UserError where they are not finite."""

    @abstractmethod
    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """What scores are made of, a row (N, ...) a sample; truth (N, ...): the targets of the same views."""

    @staticmethod
    @abstractmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Metrics by name over some samples' rows of `outcome`."""

    @abstractmethod
    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """By which the best weights are kept, on the validation part; less is better."""

    def settle(self, predictions: Predictions, truth: np.ndarray) -> None:
        """With the best weights, on the validation part: calibration, where there is something to calibrate."""

    @classmethod
    def metrics(cls, outcomes: Sequence[np.ndarray]) -> dict[str, Measured]:
        """Scores with intervals of the outcomes, one a draw, on the same test samples."""
        return measure(cls.scores, list(outcomes), (0.0, 1.0) if cls.percent else (-np.inf, np.inf))

    @classmethod
    def spared(cls, targets: np.ndarray) -> tuple[str, ...]:
        """Metrics not worth a line beside the others, by the strata of the test part."""
        return ()

    @abstractmethod
    def table(self, predictions: Predictions) -> pyarrow.Table:
        """Predictions, with "row" and "name" (N,) of the samples, as a table."""


def array(x: torch.Tensor) -> np.ndarray:
    """float32 or integers, on the CPU."""
    return (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
