"""Early stopping: the weights with the lowest validation loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class BestWeights:
    """Evaluates a network on the validation part between steps and keeps its best weights.

    task: a Task (downstream/task.py). predictions: returns predictions on the validation part and their targets. patience: evaluations
    without a lower loss after which `enough` is true; 0 never stops.
    """

    def __init__(self, task: Any, predictions: Callable[[], tuple[Any, np.ndarray]], patience: int) -> None:
        self.task, self.predictions, self.patience = task, predictions, patience
        self.least, self.since, self.weights = np.inf, 0, {}

    def __call__(self) -> dict[str, float]:
        predictions, truth = self.predictions()
        loss = self.task.judge(predictions, truth)
        self.since += 1
        if loss < self.least or not self.weights:
            self.least, self.since = loss, 0
            self.weights = {name: value.detach().clone() for name, value in self.task.network.state_dict().items()}
        scores = self.task.scores(self.task.outcome(predictions, truth))
        return {"validation_loss": loss, **{f"validation_{name}": value for name, value in scores.items()}}

    def enough(self) -> bool:
        return 0 < self.patience <= self.since

    def restore(self) -> None:
        """Restores the best weights and recalibrates."""
        self.task.network.load_state_dict(self.weights)
        self.task.settle(*self.predictions())
