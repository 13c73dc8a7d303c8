"""SimCLR with hard negatives. Robinson, Chuang, Sra, Jegelka, ICLR 2021. https://arxiv.org/abs/2010.04592

Views:  two strong augmentations of the same sample, as in SimCLR.
Heads:  SimCLR's projector with one hidden layer, discarded after training.
Loss:   SimCLR's, with each negative weighted by exp(concentration x similarity), similarities as in the softmax. The expected
        contribution of same-class samples among the negatives (prior is their share) is subtracted, and the sum is clamped at
        its smallest possible value. With concentration=0 and prior=0 it is SimCLR's.
The defaults of temperature, prior (tau+) and concentration (beta) are those of the authors' code, which this file follows.
As there, gradients flow through the importance weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught import Encoder, Facts, Method, UserError, View
from untaught.blocks.mlp import mlp
from untaught.ops.gather import gather, rank


class HardSimCLR(Method):
    views = ("global", "global")

    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: float = 0.5,  # divides the cosines
        prior: float = 0.1,  # share of the negatives that is taken to be of the sample's own class
        concentration: float = 1.0,  # how much more a near negative counts; 0 is not at all
        width: int = 128,  # dimensions of the projection
    ) -> None:
        super().__init__()
        if not temperature >= 0.02:
            raise UserError(f"temperature={temperature}: must be 0.02 or greater, or exponentials overflow")
        if not 0 <= prior < 1:
            raise UserError(f"prior={prior}: is a share of the samples, from 0 to less than 1")
        self.encoder = encoder
        self.projector = mlp(encoder.width, encoder.width, width, last_norm=True)
        self.temperature, self.prior, self.concentration = temperature, prior, concentration

    def forward(self, views: list[View], progress: float) -> dict[str, Tensor]:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]

    def objective(self, projected: list[Tensor], progress: float) -> dict[str, Tensor]:
        a, b = (F.normalize(z.float(), dim=1) for z in projected)
        with torch.autocast(a.device.type, enabled=False):
            similarity = torch.cat([a, b]) @ torch.cat([gather(a), gather(b)]).T / self.temperature  # (2B, 2 x world x B)
        rows, half = len(a), similarity.shape[1] // 2
        mine = torch.arange(rows, device=a.device).repeat(2) + rank() * rows
        other = torch.cat([mine[:rows] + half, mine[rows:]])
        positive = similarity.gather(1, other[:, None]).squeeze(1)
        same = torch.arange(2 * half, device=a.device) % half == mine[:, None]  # neither view of a sample is a negative for it
        count = 2 * half - 2
        weight = (self.concentration * similarity).masked_fill(same, -torch.inf).softmax(1) * count
        negatives = (weight * similarity.exp()).sum(1)
        negatives = (negatives - self.prior * count * positive.exp()) / (1 - self.prior)
        negatives = negatives.clamp(min=count * math.exp(-1 / self.temperature))
        return {"hard_nt_xent": ((positive.exp() + negatives).log() - positive).mean()}
