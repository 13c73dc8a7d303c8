"""Several classes a sample (multi-label): a sigmoid and binary cross-entropy per class, with a linear head.

The head is initialised from one-vs-rest logistic regression on the frozen encoder (as in classify.py). On the validation part the
temperature of the probabilities is fitted (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599, section 4.2), then the threshold, one
for all classes, above which a class is predicted: the one with the highest micro F1. Without a validation part they are 1 and one half.
Scores: mean average precision (mAP), micro and macro F1, and the calibration error over all pairs of sample and class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from untaught.core import Encoder, Modality, Options, Terms, UserError, View
from untaught.data.labels import set_doubts
from untaught.data.store import Store
from untaught.downstream.classify import COLDEST, PROBE_C
from untaught.downstream.labels import follow_labels, labels_of
from untaught.downstream.network import Network, TrainedLayers
from untaught.downstream.task import Predictions, Targets, Task, array
from untaught.evaluation.calibration import best_binary_temperature, binary_cross_entropy, calibration_error, sigmoid
from untaught.evaluation.multilabel import best_threshold, f1_scores, mean_average_precision
from untaught.evaluation.one_vs_rest import OneVsRest

if TYPE_CHECKING:
    import pyarrow

JOINED = ";"  # between the labels of a sample in the table


class Multilabel(Task):
    """facts: the `classes`, the calibration `temperature`, and the `threshold` of the calibrated probability."""

    def __init__(self, encoder: Encoder, facts: Options, layers: TrainedLayers | None = None) -> None:
        super().__init__(encoder, facts)
        self.classes, self.temperature, self.threshold = _checked(facts)
        self.network = Network(encoder, nn.Linear(encoder.width, len(self.classes)), layers)

    # ------------------------------------------------------------------------------------------------------ targets

    @classmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        labels = labels_of(store, what)
        if labels.ndim == 1:
            raise UserError(
                "--task multilabel needs several classes per sample, but each has one label; give a column of lists, --label A,B,C for 0/1 "
                "columns, or --columns label_separator=SIGN for separated text; or use --task classify"
            )
        truth = np.asarray(labels)
        facts = {"classes": store.classes, "temperature": 1.0, "threshold": 0.5}
        return Targets(truth[:, 0] >= 0, truth, follow_labels(truth), facts, f"several of {len(store.classes)} classes each, ")

    @classmethod
    def check_targets(cls, targets: Targets, train: np.ndarray, test: np.ndarray | None, noun: str) -> list[str]:
        truth = targets.strata[train] == 1
        if not len(truth) or not (truth.any(0) & ~truth.all(0)).any():
            raise UserError(f"no class distinguishes the {len(truth):,} labelled training {noun}; at least 1 class must vary")
        return set_doubts(truth, truth if test is None else targets.strata[test] == 1, targets.facts["classes"], f"{noun} to test")

    @property
    def facts(self) -> Options:
        return {"classes": list(self.classes), "temperature": self.temperature, "threshold": self.threshold}

    # ------------------------------------------------------------------------------------------------------ training

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B, ...) with target (B,K) of 0 and 1: cross-entropy summed over classes, averaged over samples."""
        (view,) = views
        assert view.target is not None
        logits = self.network(view)
        return {"binary_cross_entropy": F.binary_cross_entropy_with_logits(logits, view.target.float(), reduction="sum") / len(logits)}

    def begin(self, encode: Callable[[], np.ndarray], targets: np.ndarray) -> None:
        """Initialises the head from one-vs-rest logistic regression: encode() -> pooled vectors (N,D), targets (N,K) of 0 and 1."""
        features = encode()
        probe = OneVsRest(features, features[:1])
        weight, bias = probe.unrotated(probe.fit(probe.train, torch.from_numpy(targets).to(probe.train), PROBE_C))
        with torch.no_grad():
            self.network.head.weight.copy_(weight)  # type: ignore[operator,union-attr]
            self.network.head.bias.copy_(bias)  # type: ignore[operator,union-attr]

    # --------------------------------------------------------------------------------------------------- predictions

    def predict(self, view: View) -> Predictions:
        """logits (B,K)."""
        return {"logits": array(self.network(view))}

    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """Binary cross-entropy at its best temperature, summed over classes."""
        logits = predictions["logits"]
        return binary_cross_entropy(logits / best_binary_temperature(logits, truth), truth)

    def settle(self, predictions: Predictions, truth: np.ndarray) -> None:
        """Sets the temperature and the threshold."""
        self.temperature = float(np.clip(best_binary_temperature(predictions["logits"], truth), COLDEST, 1 / COLDEST))
        self.threshold = float(np.clip(best_threshold(self._probabilities(predictions), truth == 1), 0.0, 1.0))

    def _probabilities(self, predictions: Predictions) -> np.ndarray:
        """(N,K) float64."""
        return sigmoid(predictions["logits"] / self.temperature)

    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """-> (N,K,3): the probability of each class, whether it is predicted, and whether it is true."""
        probabilities = self._probabilities(predictions)
        return np.stack([probabilities, probabilities > self.threshold, truth == 1], 2)

    @staticmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """mAP over the classes that occur, micro and macro F1, and the expected calibration error over all pairs of sample and class."""
        probabilities, claimed, truth = (outcome[:, :, place] for place in range(3))
        micro, macro = f1_scores((claimed * truth).sum(0), claimed.sum(0), truth.sum(0))
        return {
            "map": float(np.nan_to_num(mean_average_precision(probabilities, truth > 0))),
            "micro_f1": float(micro),
            "macro_f1": float(macro),
            "calibration_error": calibration_error(probabilities.ravel(), truth.ravel() > 0),
        }

    def table(self, predictions: Predictions) -> pyarrow.Table:
        """row, name, labels (joined by ";"), and p_CLASS for every class."""
        import pyarrow as pa

        probabilities = self._probabilities(predictions)
        own = {
            "labels": [JOINED.join(name for name, p in zip(self.classes, row, strict=True) if p > self.threshold) for row in probabilities],
            **{f"p_{name}": probabilities[:, i].astype(np.float32) for i, name in enumerate(self.classes)},
        }
        return pa.table({"row": predictions["row"], "name": list(predictions["name"]), **own})


def _checked(facts: Options) -> tuple[tuple[str, ...], float, float]:
    classes, temperature, threshold = (facts.get(name) for name in ("classes", "temperature", "threshold"))
    if not isinstance(classes, list | tuple) or not classes or not all(isinstance(name, str) for name in classes):
        raise UserError("its config.json has no classes; copy the complete folder, or fine-tune again")
    for name, value, low, high in (("temperature", temperature, COLDEST, 1 / COLDEST), ("threshold", threshold, 0.0, 1.0)):
        if type(value) is bool or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"its {name} is {str(value)[:40]}; it must be a number from {low:g} to {high:g}")
    return tuple(classes), float(temperature), float(threshold)  # type: ignore[arg-type]
