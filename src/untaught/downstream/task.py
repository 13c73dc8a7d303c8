"""The contract of tasks: a downstream objective on an encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from untaught.core import Batch, Encoder, Method, Modality, Options, Preprocessor, UserError, View
from untaught.data.store import Store
from untaught.data.target import Target
from untaught.downstream.network import Network, TrainedLayers
from untaught.evaluation.interval import Measured, measure
from untaught.pipeline.view_pipeline import Views, used_view

if TYPE_CHECKING:
    import pyarrow

    from untaught.downstream.tuner import Tuner
    from untaught.pipeline.dataset import Dataset

Predictions = dict[str, np.ndarray]  # by name, (N, ...)


@dataclass(frozen=True)
class Targets:
    """The targets of a store's rows."""

    known: np.ndarray  # (N,) bool: the rows that have a target
    strata: np.ndarray  # (N,) class numbers or values, for stratified sampling; zeros if there are none
    follow: Callable[[Batch, View], View]  # adds the batch's targets to a view
    facts: Options  # what the task needs to be built: classes ...
    about: str = ""  # description for the user


class Task(Method):
    """A downstream objective. Concrete tasks are final: one task, one file, class depth 1.

    It is built from an encoder and `facts`, which come from the training targets or from a saved, untrusted config.json. Its targets are
    labels, or one of the modality's `targets`, which follow the geometry of a view. Knobs are the keyword-only arguments of the
    constructor; those named in `meaning` are needed to interpret a saved network, and are part of the facts.
    """

    views = ("light",)
    percent: ClassVar[bool] = True  # whether scores lie in 0..1 and are shown as percentages
    target: ClassVar[str | None] = None  # one of the modality's targets; None: labels
    lr: ClassVar[float] = 3e-4  # default for fine-tuning; chosen on held-out rows of CIFAR-10's training part
    by_class: ClassVar[bool] = False  # whether each sample has one class, so that labels=10/class works
    meaning: ClassVar[tuple[str, ...]] = ()  # knobs that are part of the facts
    files: Callable[[Predictions], list[tuple[str, Any]]] | None = None  # predictions as images: (sample name, PIL image)
    repeated: ClassVar[tuple[str, ...]] = ()  # predictions that repeat the input, in which values may be missing
    compared: ClassVar[bool] = False  # whether it has `baselines`
    beside_name: ClassVar[str] = "predictions.csv"  # of the table that `beside` makes
    arrange: ClassVar[Callable[[Dataset, Preprocessor, Options], None] | None] = None  # (opened data, the encoder's preprocessor, knobs):
    # sets samples and parts of its own, and settles knobs; None: a sample is a row of the store
    needs: frozenset[str] = frozenset()  # type: ignore[assignment]  # a task has one encoder

    network: Network

    @abstractmethod
    def __init__(self, encoder: Encoder, facts: Options, layers: TrainedLayers | None = None, **knobs: Any) -> None:
        """layers: of the encoder, that learn. Raises UserError for facts that can't be."""
        super().__init__()

    # --------------------------------------------------------------------------------------------- targets

    def reading_new(self, prep: Preprocessor) -> Preprocessor:
        """The preprocessor by which new data are read, from that of `reading`."""
        return prep

    def name_channels(self, settings: Options) -> None:
        """Takes the names of new data's channels, from the settings they are read with; without effect on tasks that name none."""

    @classmethod
    def reading(cls, prep: Preprocessor, labelled: bool = True) -> Preprocessor:
        """The preprocessor by which data are read: with the target beside the modality's own fields.

        Raises UserError where the modality has no such target.
        """
        target, modality = cls.target_of(prep.modality), prep.modality
        if target is None:
            return prep
        fields = {name: usual for name, usual in target.fields.items() if labelled or name != target.name}
        name, paired = f"{modality.name}+{target.name}", target if target.endings else None
        modality = replace(modality, name=name, fields=fields, decode=target.decode, paired=paired)
        settings = {**prep.settings, **target.settings}
        if target.ragged:
            settings["ragged"] = [*prep.ragged, *target.ragged]
        return replace(prep, modality=modality, settings=settings)

    @classmethod
    def target_of(cls, modality: Modality) -> Target | None:
        if cls.target is None:
            return None
        if cls.target not in modality.targets:
            offered = ", ".join(modality.targets) or "labels only"
            raise UserError(f"{cls.__name__} needs {cls.target}, which modality {modality.name} does not offer; it offers {offered}")
        return modality.targets[cls.target]

    @classmethod
    def missing(cls, encoder: Encoder) -> frozenset[str]:
        """Abilities that the encoder would have to offer, and doesn't."""
        return cls.needs - encoder.offers

    @classmethod
    def used_view(cls, prep: Preprocessor, name: str) -> Views:
        """The view in which the network is used."""
        view, target = used_view(prep, name), cls.target_of(prep.modality)
        view.options = [options | (target.whole if target else {}) for options in view.options]
        return view

    @classmethod
    @abstractmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        """The targets of a packed store; `what` describes the data. Raises UserError if there are none to learn from."""

    @classmethod
    def check_targets(cls, targets: Targets, train: np.ndarray, test: np.ndarray | None, noun: str) -> list[str]:
        """Warnings about the training and test rows (by number). Raises UserError if nothing can be learned."""
        return []

    @classmethod
    def learned(cls, targets: Targets, train: np.ndarray, encoder: Encoder, example: View) -> Options:
        """The task's facts, from its training rows (by number), the encoder and a view of the first of these rows."""
        return targets.facts

    def remarks(self) -> list[str]:
        """What the user should know of the network before it is trained on the first draw."""
        return []

    def findings(self) -> list[str]:
        """What the trained network shows of the encoder, for the user."""
        return []

    @classmethod
    def advice(cls, targets: Targets, train: np.ndarray, knobs: Options) -> str:
        """A line of advice on the training rows of the first draw, or ""."""
        return ""

    # ---------------------------------------------------------------------------------- training and predictions

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.network.encoder}

    @cached_property
    def groups(self) -> dict[str, dict[str, Any]]:  # type: ignore[override]
        return self.network.groups("network.")

    @property
    def setting(self) -> str:
        """What distinguishes its metrics from those of the same task on the same data, after their names: @96 of a horizon."""
        return ""

    @property
    @abstractmethod
    def facts(self) -> Options:
        """What is needed to rebuild the task and interpret the network's outputs."""

    @classmethod
    def built(cls, encoder: Encoder, facts: Options, knobs: Options | None = None, layers: TrainedLayers | None = None) -> Task:
        """With the knobs that its facts have settled; of a saved task's facts, without its weights. Raises UserError for wrong facts."""
        return cls(encoder, facts, layers, **{**(knobs or {}), **{name: facts[name] for name in cls.meaning if name in facts}})

    @property
    def probed(self) -> nn.Module:
        """The network whose vectors `begin` reads."""
        return self.network.encoder

    def begin(self, encode: Callable[[], np.ndarray], targets: np.ndarray) -> None:
        """Initialises the head from a probe of the frozen encoder: encode() -> vectors of `probed` (n,D), strata (n,). Default: random
        init."""

    def solve(self, views: Callable[[np.ndarray], Iterable[View]], train: np.ndarray, validation: np.ndarray | None) -> bool:
        """Solves the head in closed form on the frozen encoder -> whether it did. Else `begin` is asked, and a head on frozen layers is
        trained. views: rows (n,) -> their views with targets, in batches."""
        return False

    @abstractmethod
    def predict(self, view: View) -> Predictions:
        """Predictions on a view (B, ...), in eval mode. Raises UserError if they are not finite."""

    @abstractmethod
    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """Per-sample results (N, ...) from which scores are computed; truth (N, ...): the targets of the same views."""

    @staticmethod
    @abstractmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Metrics by name over rows of `outcome`."""

    @abstractmethod
    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """The validation loss by which the best weights are chosen."""

    def settle(self, predictions: Predictions, truth: np.ndarray) -> None:
        """Calibrates on the validation part, with the best weights, if there is something to calibrate."""

    @classmethod
    def metrics(cls, outcomes: Sequence[np.ndarray]) -> dict[str, Measured]:
        """Scores with intervals, from one outcome per draw on the same test samples."""
        return measure(cls.scores, list(outcomes), (0.0, 1.0) if cls.percent else (-np.inf, np.inf))

    @classmethod
    def verdict(cls, outcome: np.ndarray) -> str:
        """What is wrong with a network that has these results on the test part, and what to do; "" if nothing is."""
        return ""

    @classmethod
    def baselines(cls, tuner: Tuner) -> dict[str, np.ndarray]:
        """Outcomes on the test part of methods without a network, by the name of their features in evaluation.json."""
        return {}

    def beside(self, predictions: Predictions, truth: np.ndarray, names: Sequence[str]) -> pyarrow.Table | None:
        """The targets of the test part beside their predictions, for `beside_name` in the model's folder; None: no such file."""
        return None

    def pictures(self, tuner: Tuner) -> dict[str, bytes]:
        """Files of pictures of the test part for the model's folder."""
        return {}

    @classmethod
    def spared(cls, targets: np.ndarray) -> tuple[str, ...]:
        """Redundant metrics, given the strata of the test part."""
        return ()

    @abstractmethod
    def table(self, predictions: Predictions) -> pyarrow.Table:
        """Predictions as a table, with the samples' "row" and "name"."""


def array(x: torch.Tensor) -> np.ndarray:
    """float32 or integers, on the CPU."""
    return (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
