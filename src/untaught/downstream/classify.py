"""Naming classes: cross-entropy on a linear head.

The head begins as a linear probe on the frozen encoder (Kumar et al., ICLR 2022, https://arxiv.org/abs/2202.10054: with a head
drawn at random, the first steps distort the features). Unbalanced classes: weights in inverse proportion to their frequency, or
logit adjustment (Menon et al., ICLR 2021, https://arxiv.org/abs/2007.07314, equation 10). Probabilities are calibrated by one
temperature (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599, section 4.2).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Encoder, Method, Options, Terms, UserError, View
from untaught.downstream.network import Decay, Network, learning_layers
from untaught.evaluation.calibration import best_temperature, calibration_error, cross_entropy, softmax
from untaught.ranges import Few, in_range

PROBE_C = 0.1  # of the logistic regression on standardised features
COLDEST = 1e-3  # temperature of a calibration, and one over the hottest
UNLIKELY = -10.0  # the head's bias for a class without a training sample


class Classify(Method):
    """classes: their names. truth: the training labels (N,) int from 0. The label of a sample is its view's target."""

    views = ("light",)
    percent = True  # scores are shares

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        classes: tuple[str, ...],
        truth: np.ndarray,
        *,
        train: Literal["full", "partial", "frozen"] = "full",
        last: Few = 1,
        layer_decay: Decay = 0.75,
        balance: Literal["none", "weights", "logits"] = "none",
    ) -> None:
        super().__init__()
        self.network = Network(encoder, len(classes), learning_layers(train, last))
        self.groups = self.network.groups("network.", layer_decay)
        self.classes, self.temperature = classes, 1.0
        counts = torch.from_numpy(np.bincount(truth, minlength=len(classes))).float().clamp(min=1)
        self.weights: Tensor | None
        self.priors: Tensor | None
        self.register_buffer("weights", counts.sum() / (len(counts) * counts) if balance == "weights" else None, persistent=False)
        self.register_buffer("priors", (counts / counts.sum()).log() if balance == "logits" else None, persistent=False)

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B, ...) with target (B,) int64."""
        (view,) = views
        assert view.target is not None
        logits = self.network(view)
        with torch.no_grad():
            right = (logits.argmax(1) == view.target).float().mean()
        if self.priors is not None:
            logits = logits + self.priors
        return {"cross_entropy": F.cross_entropy(logits, view.target, self.weights), "train_accuracy": right}

    @property
    def kept(self) -> Encoder:
        return self.network.encoder

    def begin(self, features: np.ndarray, truth: np.ndarray) -> None:
        """Sets the head to a linear probe: features (N,D), truth (N,) int."""
        from sklearn.linear_model import LogisticRegression

        mean, std = features.mean(0), features.std(0) + 1e-6
        balanced = "balanced" if self.weights is not None or self.priors is not None else None
        probe = LogisticRegression(C=PROBE_C, max_iter=200, class_weight=balanced).fit((features - mean) / std, truth)
        known = probe.classes_[-len(probe.coef_) :]  # of two classes it has one row, which tells the second from the first
        weight, bias = np.zeros((len(self.classes), features.shape[1])), np.full(len(self.classes), UNLIKELY)
        bias[probe.classes_] = 0
        weight[known], bias[known] = probe.coef_ / std, probe.intercept_ - (probe.coef_ / std) @ mean
        with torch.no_grad():
            self.network.head.weight.copy_(torch.from_numpy(weight))
            self.network.head.bias.copy_(torch.from_numpy(bias))

    def judge(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        """Less is better: cross-entropy at its best temperature. An overconfident network that errs less is the better one."""
        return cross_entropy(outputs / best_temperature(outputs, truth), truth)

    def settle(self, outputs: np.ndarray, truth: np.ndarray) -> None:
        """Calibrates on validation outputs (N, classes)."""
        self.temperature = best_temperature(outputs, truth)

    @property
    def facts(self) -> Options:
        """What it takes to read the network's outputs."""
        return {"classes": list(self.classes), "temperature": self.temperature}

    @staticmethod
    def outputs(facts: Options) -> int:
        """Raises UserError for facts that may come from anyone and can't be."""
        classes, temperature = facts.get("classes"), facts.get("temperature")
        if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
            raise UserError("its config.json names no classes; copy the whole folder, or fine-tune again")
        if type(temperature) is bool or not isinstance(temperature, int | float) or not COLDEST <= temperature <= 1 / COLDEST:
            raise UserError(f"its temperature is {str(temperature)[:40]}; a number from {COLDEST:g} to {1 / COLDEST:g} is needed")
        return len(classes)

    @staticmethod
    def outcome(outputs: np.ndarray, facts: Options) -> np.ndarray:
        """outputs (N, classes) -> (N, 2): the class said, and its probability."""
        probabilities = softmax(outputs / facts["temperature"])
        return np.stack([probabilities.argmax(1), probabilities.max(1)], 1)

    @staticmethod
    def scores(outcome: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """outcome (N, 2), truth (N,) -> accuracy, its mean over classes, macro F1, and the expected calibration error."""
        said = outcome[:, 0].astype(np.int64)
        size = int(max(said.max(), truth.max())) + 1
        right = said == truth
        hits, there, told = (np.bincount(rows, minlength=size) for rows in (truth[right], truth, said))
        recall, f1 = hits[there > 0] / there[there > 0], 2 * hits / np.maximum(there + told, 1)
        return {
            "accuracy": float(right.mean()),
            "balanced_accuracy": float(recall.mean()),
            "macro_f1": float(f1[there + told > 0].mean()),
            "calibration_error": calibration_error(outcome[:, 1], right),
        }

    @staticmethod
    def columns(outputs: np.ndarray, facts: Options) -> dict[str, Any]:
        """outputs (N, classes) -> label, probability, and p_CLASS for every class, (N,) each."""
        probabilities = softmax(outputs / facts["temperature"])
        said = probabilities.argmax(1)
        return {
            "label": [facts["classes"][i] for i in said],
            "probability": probabilities.max(1).astype(np.float32),
            **{f"p_{name}": probabilities[:, i].astype(np.float32) for i, name in enumerate(facts["classes"])},
        }

    @staticmethod
    def read(labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        """The labels of a store -> (N,) int64, -1 where there is none."""
        if labels.dtype.kind == "f":
            shown = ", ".join(f"{value:g}" for value in labels[np.isfinite(labels)][:3])
            raise UserError(f"the labels are measured numbers ({shown} ...); use --task regress, or give classes")
        return np.asarray(labels, np.int64)

    @staticmethod
    def known(truth: np.ndarray) -> np.ndarray:
        return truth >= 0
