"""A teacher: a copy of a network that follows it slowly. Tarvainen, Valpola 2017, https://arxiv.org/abs/1703.01780"""

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

    In training its BatchNorm normalises by the batch, as the student's does, and its running statistics are those of its own
    passes: only parameters are averaged. Nothing in it is random: dropout and stochastic depth are the student's alone.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self._student = (student,)  # in a tuple, where it is no part of the teacher: it is the method's already
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
        """Of a teacher that is an encoder: see Encoder.features."""
        return self.network.features(view, want=want)  # type: ignore[operator]

    def follow(self, momentum: float) -> None:
        """Each parameter becomes momentum x its own + (1 - momentum) x the student's."""
        get_ema_multi_avg_fn(momentum)(list(self.network.parameters()), list(self._student[0].parameters()), None)

    @torch.no_grad()
    def lag(self) -> Tensor:
        """How far it is behind: the norm of the difference of all parameters over the norm of the student's, a scalar."""
        student = list(self._student[0].parameters())
        behind = [own - other for own, other in zip(self.network.parameters(), student, strict=True)]
        return nn.utils.get_total_norm(behind) / nn.utils.get_total_norm(student)


def cosine_momentum(start: float, progress: float) -> float:
    """From `start` at the beginning of the training to 1 at its end. Grill et al. 2020, section 3.2."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def ramp(ends: tuple[float, float], share: float, progress: float) -> float:
    """From the first end to the second, linearly over the first `share` of the training, and there from then on."""
    return ends[0] + (ends[1] - ends[0]) * (min(progress / share, 1) if share else 1)
