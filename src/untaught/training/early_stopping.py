"""Early stopping: the weights with the least validation loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class BestWeights:
    """Scores a network on its validation part between steps and keeps its best weights.

    task: has `network`, `judge`, `scores`, `outcome`, `facts` and `settle` (downstream/). outputs: the network's, of the validation part.
    truth: their targets. patience: evaluations without a lower loss after which `enough` is true; 0 never stops.
    """

    def __init__(self, task: Any, outputs: Callable[[], np.ndarray], truth: np.ndarray, patience: int) -> None:
        self.task, self.outputs, self.truth, self.patience = task, outputs, truth, patience
        self.least, self.since, self.weights = np.inf, 0, {}

    def __call__(self) -> dict[str, float]:
        outputs = self.outputs()
        loss = self.task.judge(outputs, self.truth)
        self.since += 1
        if loss < self.least or not self.weights:
            self.least, self.since = loss, 0
            self.weights = {name: value.detach().clone() for name, value in self.task.network.state_dict().items()}
        scores = self.task.scores(self.task.outcome(outputs, self.task.facts), self.truth)
        return {"validation_loss": loss, **{f"validation_{name}": value for name, value in scores.items()}}

    def enough(self) -> bool:
        return 0 < self.patience <= self.since

    def restore(self) -> None:
        """Back to the best weights, and calibrated with them."""
        self.task.network.load_state_dict(self.weights)
        self.task.settle(self.outputs(), self.truth)
