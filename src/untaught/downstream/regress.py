"""Regression: mean squared error with a linear head, on labels standardised by the training labels.

The head is initialised by ridge regression on the frozen encoder (as in classify.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from untaught.core import Encoder, Modality, Options, Terms, UserError, View
from untaught.data.labels import as_numbers
from untaught.data.store import Store
from untaught.downstream.labels import follow_labels, labels_of
from untaught.downstream.network import Network, TrainedLayers
from untaught.downstream.task import Predictions, Targets, Task, array

if TYPE_CHECKING:
    import pyarrow

LARGEST = 1e30  # of a label, in absolute value


class Regress(Task):
    """facts: `mean` and `std` of the training labels."""

    percent = False  # scores are in the unit of the labels

    def __init__(self, encoder: Encoder, facts: Options, layers: TrainedLayers | None = None) -> None:
        super().__init__(encoder, facts)
        self.mean, self.std = _checked(facts)
        self.network = Network(encoder, nn.Linear(encoder.width, 1), layers)

    # ------------------------------------------------------------------------------------------------------ targets

    @classmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        """Class names, if labels are classes, must be numbers."""
        labels = labels_of(store, what)
        if labels.ndim == 2:
            raise UserError("a sample has several classes, not a number; use --task multilabel")
        try:
            truth = as_numbers(labels, store.classes)
        except ValueError as error:
            raise UserError(f"--task regress needs numbers, but found the label {str(error)!r}; use --task classify") from None
        return Targets(np.isfinite(truth), truth, follow_labels(truth), {})

    @classmethod
    def check_targets(cls, targets: Targets, train: np.ndarray, test: np.ndarray | None, noun: str) -> list[str]:
        if len(np.unique(targets.strata[train])) < 2:
            raise UserError(f"the {len(train):,} training labels are all equal; at least 2 distinct values are needed")
        return []

    @classmethod
    def learned(cls, targets: Targets, train: np.ndarray, encoder: Encoder, example: View) -> Options:
        truth = targets.strata[train]
        return {"mean": float(truth.mean()), "std": float(truth.std())}

    @property
    def facts(self) -> Options:
        return {"mean": self.mean, "std": self.std}

    # ------------------------------------------------------------------------------------------------------ training

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B, ...) with target (B,) float64."""
        (view,) = views
        assert view.target is not None
        target = ((view.target - self.mean) / self.std).float()
        return {"squared_error": F.mse_loss(self.network(view)[:, 0], target)}

    def begin(self, encode: Callable[[], np.ndarray], targets: np.ndarray) -> None:
        """Initialises the head by ridge regression: encode() -> pooled vectors (N,D), targets (N,)."""
        from sklearn.linear_model import RidgeCV

        features, truth = encode(), targets
        mean, std = features.mean(0), features.std(0) + 1e-6
        probe = RidgeCV(np.logspace(-1, 5, 13)).fit((features - mean) / std, (truth - self.mean) / self.std)
        weight = probe.coef_ / std
        with torch.no_grad():
            self.network.head.weight.copy_(torch.from_numpy(weight[None]))  # type: ignore[operator,union-attr]
            self.network.head.bias.fill_(float(probe.intercept_ - weight @ mean))  # type: ignore[operator,union-attr]

    # --------------------------------------------------------------------------------------------------- predictions

    def predict(self, view: View) -> Predictions:
        """output (B,), standardised."""
        return {"output": array(self.network(view))[:, 0]}

    def _values(self, predictions: Predictions) -> np.ndarray:
        """(N,) in the labels' unit."""
        return predictions["output"].astype(np.float64) * self.std + self.mean

    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """The mean squared error on standardised labels."""
        return float((((truth - self.mean) / self.std - predictions["output"]) ** 2).mean())

    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """-> (N, 2): predicted and true values."""
        return np.stack([self._values(predictions), truth], 1)

    @staticmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Mean absolute error, root mean squared error, and R2 against the mean of the true values."""
        predicted, truth = outcome.T
        error = predicted - truth
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "r2": float(1 - (error**2).sum() / max(((truth - truth.mean()) ** 2).sum(), 1e-12)),
        }

    def table(self, predictions: Predictions) -> pyarrow.Table:
        """row, name, value."""
        import pyarrow as pa

        return pa.table({"row": predictions["row"], "name": list(predictions["name"]), "value": self._values(predictions)})


def _checked(facts: Options) -> tuple[float, float]:
    for name in ("mean", "std"):
        value = facts.get(name)
        if type(value) is bool or not isinstance(value, int | float) or not abs(value) < LARGEST:
            raise UserError(f"its label {name} is {str(value)[:40]}; it must be a finite number")
    if not facts["std"] > 0:
        raise UserError(f"its label std is {facts['std']}; it must be above 0")
    return facts["mean"], facts["std"]
