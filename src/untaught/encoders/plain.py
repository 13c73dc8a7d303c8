"""A user's module as an encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.core import Encoder, Features, UserError, View


class Plain(Encoder):
    """Wraps a module that takes a view's x (B, ...), and `valid` where samples differ in length, to (B,D), or to maps (B,D, ...), which are
    averaged over places. `example`: a view of 2 samples, on which it is tried."""

    def __init__(self, module: nn.Module, example: View) -> None:
        super().__init__()
        self.module = module
        training = module.training
        with torch.no_grad():
            try:
                y = self.eval()._taken(example)
            except Exception as error:
                raise UserError(f"{type(module).__name__} can't take samples of shape {example.shapes}: {error}") from error
            finally:
                module.train(training)
        if not isinstance(y, Tensor) or y.ndim < 2 or len(y) != len(example):
            shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise UserError(f"{type(module).__name__} gives {shape} for {len(example)} samples; (B, D), or maps (B, D, ...), are needed")
        self.width = y.shape[1]

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        y = self._taken(view)
        return Features(pooled=y.mean(tuple(range(2, y.ndim))) if y.ndim > 2 else y)

    def _taken(self, view: View) -> Tensor:
        return self.module(view.x) if view.valid is None else self.module(view.x, view.valid)
