"""A module of the user's own as an encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from untaught.core import Encoder, Features, UserError, View


class Plain(Encoder):
    """Wraps a module that takes images x (B,C,H,W) and gives (B,D), or (B,D,h,w), which is averaged over places."""

    def __init__(self, module: nn.Module, given: dict[str, Any]) -> None:
        super().__init__()
        if not {"channels", "size"} <= given.keys():
            raise UserError(f"{type(module).__name__}: a module takes images, not data of {', '.join(given)}; name an encoder")
        self.module = module
        training = module.training
        with torch.no_grad():
            try:
                y = module.eval()(torch.zeros(2, given["channels"], given["size"], given["size"]))
            except Exception as error:
                raise UserError(
                    f"{type(module).__name__} can't take {given['channels']} x {given['size']} x {given['size']} images: {error}"
                ) from error
            finally:
                module.train(training)
        if not isinstance(y, Tensor) or y.ndim not in (2, 4) or len(y) != 2:
            shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise UserError(f"{type(module).__name__} gives {shape} for 2 images; (2, D) or (2, D, h, w) is needed")
        self.width = y.shape[1]

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        y = self.module(view.x)
        return Features(pooled=y.mean((2, 3)) if y.ndim == 4 else y)
