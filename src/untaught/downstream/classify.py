"""Classification: cross-entropy with a linear head.

The head is initialised from a linear probe on the frozen encoder (Kumar et al., ICLR 2022, https://arxiv.org/abs/2202.10054: with a
random head, the first steps distort the features). Class imbalance: weights in inverse proportion to class frequency, or logit
adjustment (Menon et al., ICLR 2021, https://arxiv.org/abs/2007.07314, equation 10). Probabilities are calibrated by temperature
scaling (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599, section 4.2).

With read=layers the head reads a weighted sum of all layers, averaged over valid tokens, with weights learned beside it; with
train=frozen this is SUPERB's protocol (Yang et al., Interspeech 2021, https://arxiv.org/abs/2105.01051, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Modality, Options, Terms, UserError, View
from untaught.data.labels import doubts
from untaught.data.store import Store
from untaught.downstream.labels import follow_labels, labels_of
from untaught.downstream.network import Network, TrainedLayers, WeightedLayers, pooled
from untaught.downstream.task import Predictions, Targets, Task, array
from untaught.evaluation.calibration import best_temperature, calibration_error, cross_entropy, softmax
from untaught.evaluation.layers import Averaged, averaged
from untaught.ranges import in_range

if TYPE_CHECKING:
    import pyarrow

PROBE_C = 0.1  # of the logistic regression on standardised features
COLDEST = 1e-3  # lowest calibration temperature; the highest is its inverse
MOST = 1000  # layers
UNLIKELY = -10.0  # the head's bias for a class without a training sample
UNBALANCED = 3  # ratio of the largest class to the smallest, above which the user gets advice


class Classify(Task):
    """facts: the `classes`, the `counts` of their training samples, the calibration `temperature`; with read=layers the `layer_weights`."""

    by_class = True
    meaning = ("read",)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Options,
        layers: TrainedLayers | None = None,
        *,
        balance: Literal["none", "weights", "logits"] = "none",
        read: Literal["pooled", "layers"] = "pooled",  # pooled vectors, or a weighted sum of all layers, with learned weights
    ) -> None:
        super().__init__(encoder, facts)
        self.classes, self.temperature = _checked(facts)
        self.read, linear = read, nn.Linear(encoder.width, len(self.classes))
        head, source = (WeightedLayers(linear, _count(facts)), averaged) if read == "layers" else (linear, pooled)
        self.network = Network(encoder, head, layers, source)
        counts = torch.tensor(facts.get("counts", [1] * len(self.classes))).float().clamp(min=1)
        self.weights: Tensor | None
        self.priors: Tensor | None
        self.register_buffer("weights", counts.sum() / (len(counts) * counts) if balance == "weights" else None, persistent=False)
        self.register_buffer("priors", (counts / counts.sum()).log() if balance == "logits" else None, persistent=False)

    # ------------------------------------------------------------------------------------------------------ targets

    @classmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        labels = labels_of(store, what)
        if labels.dtype.kind == "f":
            shown = ", ".join(f"{value:g}" for value in labels[np.isfinite(labels)][:3])
            raise UserError(f"the labels are continuous numbers ({shown} ...); use --task regress, or give class labels")
        if labels.ndim == 2:
            raise UserError("a sample has several classes; use --task multilabel")
        truth = np.asarray(labels, np.int64)
        facts = {"classes": store.classes, "temperature": 1.0, "read": knobs.get("read", "pooled")}
        return Targets(truth >= 0, truth, follow_labels(truth), facts, f"{len(store.classes)} classes, ")

    @classmethod
    def check_targets(cls, targets: Targets, train: np.ndarray, test: np.ndarray | None, noun: str) -> list[str]:
        classes, truth = targets.facts["classes"], targets.strata[train]
        counts = np.bincount(truth, minlength=len(classes))
        present = [name for name, count in zip(classes, counts, strict=True) if count]
        if len(present) < 2:
            raise UserError(f"the training labels have {len(present)} class{f' ({present[0]})' if present else 'es'}; at least 2 needed")
        warnings = []
        if single := [name for name, count in zip(classes, counts, strict=True) if count == 1]:
            warnings.append(f"{_listed(single)} {'has' if len(single) == 1 else 'have'} one training sample, too few to learn from")
        return warnings + (doubts(truth, targets.strata[test], classes, f"{noun} to test") if test is not None else [])

    @classmethod
    def learned(cls, targets: Targets, train: np.ndarray, encoder: Encoder, example: View) -> Options:
        facts = {**targets.facts, "counts": np.bincount(targets.strata[train], minlength=len(targets.facts["classes"])).tolist()}
        if facts["read"] == "layers":
            if "layers" not in encoder.offers:
                offered = ", ".join(sorted(encoder.offers)) or "pooled vectors only"
                raise UserError(f"read=layers requires an encoder with layers; {type(encoder).__name__} offers {offered}")
            training = encoder.training
            with torch.no_grad():
                count = averaged(encoder.eval(), example).shape[1]
            encoder.train(training)
            facts["layer_weights"] = [1 / count] * count
        return facts

    @classmethod
    def advice(cls, targets: Targets, train: np.ndarray, knobs: Options) -> str:
        counts = np.bincount(targets.strata[train], minlength=len(targets.facts["classes"]))
        most, least = counts.max(), counts[counts > 0].min()
        if most <= UNBALANCED * least or knobs.get("balance", "none") != "none":
            return ""
        return f"classes   imbalanced, {least:,} to {most:,} samples each; if rare classes matter as much, try balance=logits"

    @property
    def facts(self) -> Options:
        facts = {"classes": list(self.classes), "temperature": self.temperature}
        return facts if self.read == "pooled" else {**facts, "read": self.read, "layer_weights": self.layer_weights}

    @property
    def layer_weights(self) -> list[float]:
        """Of the layers from the input to the output; [] if the head reads pooled vectors."""
        head = self.network.head
        return [round(weight, 4) for weight in head.weights.tolist()] if isinstance(head, WeightedLayers) else []

    def findings(self) -> list[str]:
        weights = self.layer_weights
        return ["layers    " + " + ".join(f"{weight:.2f} x {i}" for i, weight in enumerate(weights, 1))] if weights else []

    # ------------------------------------------------------------------------------------------------------ training

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
    def probed(self) -> nn.Module:
        return self.network.encoder if self.read == "pooled" else Averaged(self.network.encoder)

    def begin(self, encode: Callable[[], np.ndarray], targets: np.ndarray) -> None:
        """Initialises the head from a linear probe: encode() -> pooled vectors (N,D), or layers (N,L*D), targets (N,) int."""
        from sklearn.linear_model import LogisticRegression

        features, truth = encode(), targets
        if self.read == "layers":
            features = features.reshape(len(features), -1, self.network.encoder.width).mean(1)  # the weights are equal
        mean, std = features.mean(0), features.std(0) + 1e-6
        balanced = "balanced" if self.weights is not None or self.priors is not None else None
        probe = LogisticRegression(C=PROBE_C, max_iter=200, class_weight=balanced).fit((features - mean) / std, truth)
        known = probe.classes_[-len(probe.coef_) :]  # for two classes coef_ has a single row, for the second class
        weight, bias = np.zeros((len(self.classes), features.shape[1])), np.full(len(self.classes), UNLIKELY)
        bias[probe.classes_] = 0
        weight[known], bias[known] = probe.coef_ / std, probe.intercept_ - (probe.coef_ / std) @ mean
        head = self.network.head
        linear: Any = head.linear if isinstance(head, WeightedLayers) else head
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))

    # --------------------------------------------------------------------------------------------------- predictions

    def predict(self, view: View) -> Predictions:
        """logits (B, classes)."""
        return {"logits": array(self.network(view))}

    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """Cross-entropy at its best temperature, so that overconfidence does not count against accuracy."""
        logits = predictions["logits"]
        return cross_entropy(logits / best_temperature(logits, truth), truth)

    def settle(self, predictions: Predictions, truth: np.ndarray) -> None:
        """Sets the calibration temperature."""
        self.temperature = best_temperature(predictions["logits"], truth)

    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """-> (N, 3): the predicted class, its probability, and the true class."""
        probabilities = softmax(predictions["logits"] / self.temperature)
        return np.stack([probabilities.argmax(1), probabilities.max(1), truth], 1)

    @staticmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Accuracy, its mean over classes, macro F1, and the expected calibration error."""
        predicted, truth = outcome[:, 0].astype(np.int64), outcome[:, 2].astype(np.int64)
        size = int(max(predicted.max(), truth.max())) + 1
        right = predicted == truth
        hits, actual, claimed = (np.bincount(rows, minlength=size) for rows in (truth[right], truth, predicted))
        recall, f1 = hits[actual > 0] / actual[actual > 0], 2 * hits / np.maximum(actual + claimed, 1)
        return {
            "accuracy": float(right.mean()),
            "balanced_accuracy": float(recall.mean()),
            "macro_f1": float(f1[actual + claimed > 0].mean()),
            "calibration_error": calibration_error(outcome[:, 1], right),
        }

    @classmethod
    def spared(cls, targets: np.ndarray) -> tuple[str, ...]:
        """If test classes have about the same size: the metrics that nearly equal the accuracy."""
        counts = np.bincount(targets)
        return () if counts.max() > 1.5 * counts[counts > 0].min() else ("balanced_accuracy", "macro_f1")

    def table(self, predictions: Predictions) -> pyarrow.Table:
        """row, name, label, probability, and p_CLASS for every class."""
        import pyarrow as pa

        probabilities = softmax(predictions["logits"] / self.temperature)
        predicted = probabilities.argmax(1)
        own = {
            "label": [self.classes[i] for i in predicted],
            "probability": probabilities.max(1).astype(np.float32),
            **{f"p_{name}": probabilities[:, i].astype(np.float32) for i, name in enumerate(self.classes)},
        }
        return pa.table({"row": predictions["row"], "name": list(predictions["name"]), **own})


def _checked(facts: Options) -> tuple[tuple[str, ...], float]:
    classes, temperature = facts.get("classes"), facts.get("temperature")
    if not isinstance(classes, list | tuple) or not classes or not all(isinstance(name, str) for name in classes):
        raise UserError("its config.json has no classes; copy the complete folder, or fine-tune again")
    if type(temperature) is bool or not isinstance(temperature, int | float) or not COLDEST <= temperature <= 1 / COLDEST:
        raise UserError(f"its temperature is {str(temperature)[:40]}; it must be a number from {COLDEST:g} to {1 / COLDEST:g}")
    return tuple(classes), float(temperature)


def _count(facts: Options) -> int:
    weights = facts.get("layer_weights")
    if not isinstance(weights, list) or not 1 <= len(weights) <= MOST:
        raise UserError(f"its layer_weights are {str(weights)[:40]}; one for each layer is needed")
    return len(weights)


def _listed(names: list[str]) -> str:
    return "class " + ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
