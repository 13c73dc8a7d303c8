"""KoLeo, a regulariser that spreads vectors uniformly. Sablayrolles, Douze, Schmid, Jegou, ICLR 2019. https://arxiv.org/abs/1806.03198"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.gather import gather


def koleo(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """x (B,D) -> a scalar: the negative mean log distance of each normalised vector to its nearest neighbour, across all
    processes."""
    with torch.autocast(x.device.type, enabled=False):
        x = F.normalize(gather(x.float()), eps=epsilon)
        nearest = (x @ x.T).detach().fill_diagonal_(-2).argmax(1)
        return -(F.pairwise_distance(x, x[nearest], eps=epsilon) + epsilon).log().mean()
