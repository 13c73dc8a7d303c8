"""Features from several layers: a learned weighted sum, if it predicts the labels better than the last layer.

As in ELMo (Peters et al. 2018, https://arxiv.org/abs/1802.05365, equation 1); learned with a linear model on some training rows
and compared with the last layer on others.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, View

ROWS = 4096  # maximum, for learning and comparing weights
STEPS, RATE, DECAY = 150, 0.02, 1e-2


class Mixed(nn.Module):
    """The weighted sum of an encoder's layers, each averaged over valid tokens and divided by its scale.

    weights, scales (L,); a view -> (B,D).
    """

    def __init__(self, encoder: Encoder, weights: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.encoder, self.share = encoder, (weights / scales).tolist()

    def forward(self, view: View) -> Tensor:
        layers = averaged(self.encoder, view)
        return torch.stack([share * layers[:, i] for i, share in enumerate(self.share)]).sum(0)


class Averaged(nn.Module):
    """All layers of an encoder, averaged over valid tokens and concatenated: a view -> (B, L * D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, view: View) -> Tensor:
        return averaged(self.encoder, view).flatten(1)


def averaged(encoder: Encoder, view: View) -> Tensor:
    """-> (B,L,D) float32."""
    found = encoder.features(view, want=("layers",))
    assert found.layers is not None
    tokens = torch.stack(found.layers, 1).float()
    if found.valid is None:
        return tokens.mean(2)
    valid = found.valid[:, None, :, None]
    return (tokens * valid).sum(2) / valid.sum(2).clamp(min=1)


def choose(layers: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """layers (N,L,D), labels (N,), classes or numbers -> weights and scales (L,) of a learned sum or of the last layer, whichever scores
    higher on a held-out fifth of the rows."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    cut = max(1, len(order) // 5)
    x = torch.from_numpy(layers).float()
    if labels.dtype.kind == "f":
        y = torch.from_numpy((labels - labels.mean()) / max(labels.std(), 1e-12)).float()
    else:
        y = torch.from_numpy(np.unique(labels, return_inverse=True)[1]).long()
    scales = x.std((0, 2)).clamp(min=1e-6)
    x = x / scales[:, None]
    fitting, judging = torch.from_numpy(order[cut:]), torch.from_numpy(order[:cut])
    last = F.one_hot(torch.tensor(x.shape[1] - 1), x.shape[1]).float()
    learned, right = _fit(x, y, fitting, judging, None)
    _, right_last = _fit(x, y, fitting, judging, last)
    return (learned if right > right_last else last), scales


def _fit(x: Tensor, y: Tensor, fitting: Tensor, judging: Tensor, fixed: Tensor | None) -> tuple[Tensor, float]:
    """Fits weights (L,), unless fixed, and a linear model on the rows `fitting` -> the weights, and the accuracy (for numbers, minus the
    mean squared error) on the rows `judging`."""
    numbers = y.is_floating_point()
    free = torch.zeros(x.shape[1], requires_grad=True)
    linear = nn.Linear(x.shape[2], 1 if numbers else int(y.max()) + 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    mean = x[fitting].mean(0)
    optimizer = torch.optim.AdamW([{"params": [free], "weight_decay": 0.0}, {"params": linear.parameters()}], lr=RATE, weight_decay=DECAY)

    def scores(rows: Tensor) -> Tensor:
        share = free.softmax(0) if fixed is None else fixed
        return linear(((x[rows] - mean) * share[:, None]).sum(1))

    with torch.enable_grad():
        for _ in range(STEPS):
            loss = F.mse_loss(scores(fitting)[:, 0], y[fitting]) if numbers else F.cross_entropy(scores(fitting), y[fitting])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        found = scores(judging)
        right = -float(F.mse_loss(found[:, 0], y[judging])) if numbers else float((found.argmax(1) == y[judging]).float().mean())
        return (free.softmax(0) if fixed is None else fixed).detach(), right
