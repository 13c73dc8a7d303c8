"""Features of inner layers, chosen on training rows: a weighted sum of all layers, or the one with the best probe.

Encoders that are evaluated as a sum of their layers (`layered`, language models) get a learned weighted sum, if it predicts the labels
better than the last layer: as in ELMo (Peters et al. 2018, https://arxiv.org/abs/1802.05365, equation 1); learned with a linear model on
some training rows and compared with the last layer on others. For other encoders with layers or maps, a probe of each layer, averaged
over its places, is compared with that of the pooled vectors in the same way.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, View
from untaught.evaluation.linear import LinearProbe
from untaught.evaluation.multilabel import mean_average_precision
from untaught.evaluation.one_vs_rest import OneVsRest
from untaught.evaluation.ridge import RidgeProbe

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


class Inner(nn.Module):
    """One inner layer of an encoder, averaged over its places: a view -> (B,Di). number: from 0, at the input."""

    def __init__(self, encoder: Encoder, number: int) -> None:
        super().__init__()
        self.encoder, self.number = encoder, number

    def forward(self, view: View) -> Tensor:
        return inner(self.encoder, view)[self.number]


class InnerAndPooled(nn.Module):
    """All inner layers, averaged over their places, and the pooled vectors, concatenated: a view -> (B, sum of widths)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.widths: list[int] = []  # known after the first batch

    def forward(self, view: View) -> Tensor:
        found = [*inner(self.encoder, view), self.encoder(view).float()]
        self.widths = [each.shape[1] for each in found]
        return torch.cat(found, 1)


def inner(encoder: Encoder, view: View) -> list[Tensor]:
    """-> (B,Di) float32 of each layer, or of each map, from the input to the output. Only with "layers" or "maps"."""
    if "layers" in encoder.offers:
        return list(averaged(encoder, view).unbind(1))
    maps = encoder.features(view, want=("maps",)).maps
    assert maps is not None
    return [each.float().mean((2, 3)) for each in maps]


def best_inner(features: list[np.ndarray], labels: np.ndarray, seed: int) -> int:
    """features (N,Di) of each candidate, labels (N,), classes or numbers, or label sets (N,K) -> the number of the one whose linear probe
    (for numbers, ridge regression) on four fifths of the rows is best on the other fifth; the last of equals."""
    order = np.random.default_rng(seed).permutation(len(labels))
    cut = max(1, len(order) // 5)
    fitting, judging = order[cut:], order[:cut]
    scores = []
    for each in features:
        if labels.ndim == 2:
            logits, _ = OneVsRest(each[fitting], each[judging]).predict(np.arange(len(fitting)), labels[fitting])
            scores.append(mean_average_precision(logits, labels[judging] == 1))
            continue
        probe = RidgeProbe(each[fitting], each[judging]) if labels.dtype.kind == "f" else LinearProbe(each[fitting], each[judging])
        guess, _ = probe.predict(np.arange(len(fitting)), labels[fitting])
        wrong = guess - labels[judging] if labels.dtype.kind == "f" else guess != labels[judging]
        scores.append(-float(np.square(wrong).mean()))
    return len(scores) - 1 - int(np.argmax(scores[::-1]))


def choose(layers: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """layers (N,L,D), labels (N,), classes or numbers, or label sets (N,K) -> weights and scales (L,) of a learned sum or the last layer,
    whichever scores higher on a held-out fifth of the rows."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    cut = max(1, len(order) // 5)
    x = torch.from_numpy(layers).float()
    if labels.ndim == 2:
        y = torch.from_numpy(np.asarray(labels)).float()
    elif labels.dtype.kind == "f":
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
    mean squared error; for label sets, minus the cross-entropy) on the rows `judging`."""
    several, numbers = y.ndim == 2, y.is_floating_point() and y.ndim == 1
    free = torch.zeros(x.shape[1], requires_grad=True)
    linear = nn.Linear(x.shape[2], y.shape[1] if several else 1 if numbers else int(y.max()) + 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    mean = x[fitting].mean(0)
    optimizer = torch.optim.AdamW([{"params": [free], "weight_decay": 0.0}, {"params": linear.parameters()}], lr=RATE, weight_decay=DECAY)

    def loss_of(found: Tensor, truth: Tensor) -> Tensor:
        if several:
            return F.binary_cross_entropy_with_logits(found, truth)
        return F.mse_loss(found[:, 0], truth) if numbers else F.cross_entropy(found, truth)

    def scores(rows: Tensor) -> Tensor:
        share = free.softmax(0) if fixed is None else fixed
        return linear(((x[rows] - mean) * share[:, None]).sum(1))

    with torch.enable_grad():
        for _ in range(STEPS):
            loss = loss_of(scores(fitting), y[fitting])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        found = scores(judging)
        graded = numbers or several
        right = -float(loss_of(found, y[judging])) if graded else float((found.argmax(1) == y[judging]).float().mean())
        return (free.softmax(0) if fixed is None else fixed).detach(), right
