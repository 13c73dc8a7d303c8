"""A teacher: an exponential moving average of a network. Tarvainen, Valpola 2017, https://arxiv.org/abs/1703.01780"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from untaught.core import Features, View


class Teacher(nn.Module):
    """`network`, a copy of the student without gradients, whose parameters are a moving average of the student's.

    In training, its BatchNorm normalises by the batch, like the student's, with separate running statistics: only parameters are
    averaged. It is deterministic: dropout and stochastic depth are disabled.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self._student = (student,)  # in a tuple, so that it is not a submodule of the teacher
        for part in self.network.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0
            elif hasattr(part, "drop_prob"):  # timm's stochastic depth
                part.drop_prob = 0.0  # type: ignore[assignment]

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Tensor:
        return self.network(*inputs)

    @torch.no_grad()
    def features(self, view: View, want: tuple[str, ...]) -> Features:
        """See Encoder.features; only if the network is an encoder."""
        return self.network.features(view, want=want)  # type: ignore[operator]

    def follow(self, momentum: float) -> None:
        """Updates each parameter to momentum * teacher + (1 - momentum) * student."""
        get_ema_multi_avg_fn(momentum)(list(self.network.parameters()), list(self._student[0].parameters()), None)

    @torch.no_grad()
    def lag(self) -> Tensor:
        """The distance from the student: the norm of the parameter difference over the norm of the student's parameters, a scalar."""
        student = list(self._student[0].parameters())
        difference = [own - other for own, other in zip(self.network.parameters(), student, strict=True)]
        return nn.utils.get_total_norm(difference) / nn.utils.get_total_norm(student)


def cosine_momentum(start: float, progress: float) -> float:
    """A cosine schedule from `start` to 1 at the end of the training. Grill et al. 2020, section 3.2."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def ramp(ends: tuple[float, float], share: float, progress: float) -> float:
    """Linear from ends[0] to ends[1] over the first `share` of the training, then constant."""
    return ends[0] + (ends[1] - ends[0]) * (min(progress / share, 1) if share else 1)
