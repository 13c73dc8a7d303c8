"""Estimating a number: mean squared error on a linear head, in deviations of the training labels.

The head begins as a ridge regression on the frozen encoder (as in classify.py).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from untaught.core import Encoder, Method, Options, Terms, UserError, View
from untaught.downstream.network import Decay, Network, learning_layers
from untaught.ranges import Few, in_range

LARGEST = 1e30  # of a label: more is none


class Regress(Method):
    """truth: the training labels (N,) float. The label of a sample is its view's target."""

    views = ("light",)
    percent = False  # scores are in the unit of the labels

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
    ) -> None:
        super().__init__()
        self.network = Network(encoder, 1, learning_layers(train, last))
        self.groups = self.network.groups("network.", layer_decay)
        self.mean, self.std = float(truth.mean()), float(truth.std())

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B, ...) with target (B,) float64."""
        (view,) = views
        assert view.target is not None
        target = ((view.target - self.mean) / self.std).float()
        return {"squared_error": F.mse_loss(self.network(view)[:, 0], target)}

    @property
    def kept(self) -> Encoder:
        return self.network.encoder

    def begin(self, features: np.ndarray, truth: np.ndarray) -> None:
        """Sets the head to a linear probe: features (N,D), truth (N,)."""
        from sklearn.linear_model import RidgeCV

        mean, std = features.mean(0), features.std(0) + 1e-6
        probe = RidgeCV(np.logspace(-1, 5, 13)).fit((features - mean) / std, (truth - self.mean) / self.std)
        weight = probe.coef_ / std
        with torch.no_grad():
            self.network.head.weight.copy_(torch.from_numpy(weight[None]))
            self.network.head.bias.fill_(float(probe.intercept_ - weight @ mean))

    def judge(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        """Less is better: the mean squared error in deviations."""
        return float((((truth - self.mean) / self.std - outputs[:, 0]) ** 2).mean())

    def settle(self, outputs: np.ndarray, truth: np.ndarray) -> None:
        """There is nothing to calibrate."""

    @property
    def facts(self) -> Options:
        """What it takes to read the network's outputs."""
        return {"mean": self.mean, "std": self.std}

    @staticmethod
    def outputs(facts: Options) -> int:
        """Raises UserError for facts that may come from anyone and can't be."""
        for name in ("mean", "std"):
            value = facts.get(name)
            if type(value) is bool or not isinstance(value, int | float) or not abs(value) < LARGEST:
                raise UserError(f"its {name} of the labels is {str(value)[:40]}; a finite number is needed")
        if not facts["std"] > 0:
            raise UserError(f"its std of the labels is {facts['std']}; it must be above 0")
        return 1

    @staticmethod
    def outcome(outputs: np.ndarray, facts: Options) -> np.ndarray:
        """outputs (N, 1) -> (N,) in the unit of the labels."""
        return outputs[:, 0].astype(np.float64) * facts["std"] + facts["mean"]

    @staticmethod
    def scores(outcome: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """outcome (N,), truth (N,) -> mean absolute error, root mean squared error, and R2 against the mean of `truth`."""
        error = outcome - truth
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "r2": float(1 - (error**2).sum() / max(((truth - truth.mean()) ** 2).sum(), 1e-12)),
        }

    @staticmethod
    def columns(outputs: np.ndarray, facts: Options) -> dict[str, Any]:
        """outputs (N, 1) -> value (N,)."""
        return {"value": Regress.outcome(outputs, facts)}

    @staticmethod
    def read(labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        """The labels of a store -> (N,) float64, NaN where there is none; class names must be numbers."""
        if labels.dtype.kind == "f":
            return np.where(np.isfinite(labels), labels, np.nan)
        values = []
        for name in classes:
            try:
                values.append(float(name))
            except ValueError:
                raise UserError(f"the label {name!r} is no number, and --task regress needs numbers; use --task classify") from None
        return np.where(labels >= 0, np.array(values)[labels], np.nan)

    @staticmethod
    def known(truth: np.ndarray) -> np.ndarray:
        return np.isfinite(truth)
