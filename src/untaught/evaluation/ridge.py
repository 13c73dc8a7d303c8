"""The linear probe for numbers: ridge regression on frozen features, alpha chosen by leave-one-out on the training rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALPHAS = np.logspace(-1, 6, 15)  # penalty alpha |w|^2 added to the sum of squared errors, on standardised features
CHUNK = 4096  # rows converted to float64 at once


class RidgeProbe:
    """Probes of one encoder's features: train (N,D) and test (M,D) are standardised with the statistics of the training rows."""

    def __init__(self, train: np.ndarray, test: np.ndarray) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        x = torch.from_numpy(train).float().to(device)
        mean, deviation = x.mean(0), x.std(0, correction=0)
        scale = torch.where(deviation > 1e-6 * deviation.max(), deviation, torch.inf)  # constant features become 0
        self.train = (x - mean) / scale
        self.test = (torch.from_numpy(test).float().to(device) - mean) / scale

    def predict(self, rows: np.ndarray, targets: np.ndarray, seed: int = 0, alpha: float | None = None) -> tuple[np.ndarray, float]:
        """Fits on these training rows (n,) with targets (n,) -> predicted test targets (M,), and alpha, given or chosen.

        The intercept is not penalised. Deterministic: `seed` is unused.
        """
        x = self.train if len(rows) == len(self.train) else self.train[torch.from_numpy(rows).to(self.train.device)]
        y = torch.from_numpy(np.asarray(targets, np.float64)).to(x.device)
        mean, level = x.double().mean(0), y.mean()
        if alpha is None:
            weights, alpha = _chosen(x, mean, y - level)
        else:
            weights = _solved(x, mean, y - level, alpha)
        parts = [(part.double() - mean) @ weights + level for part in self.test.split(CHUNK)]
        return torch.cat(parts).cpu().numpy(), alpha


def _solved(x: Tensor, mean: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Weights (D,) for x (n,D) with this mean and y (n,) with mean 0."""
    if len(x) > x.shape[1]:
        gram = _gram(x, mean)
        return torch.linalg.solve(gram + alpha * torch.eye(len(gram)).to(gram), _products(x, mean, y))
    centred = x.double() - mean
    kernel = centred @ centred.T
    return centred.T @ torch.linalg.solve(kernel + alpha * torch.eye(len(kernel)).to(kernel), y)


def _chosen(x: Tensor, mean: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Weights (D,) and alpha with the least squared leave-one-out error e / (1 - h), residual e and leverage h (Allen 1974)."""
    basis, variance = _axes(x, mean)
    penalty = torch.from_numpy(ALPHAS).to(y)
    shrunk = 1 / (variance[:, None] + penalty)  # (r, alphas)
    product = basis.T @ _products(x, mean, y)  # (r,)
    error = penalty.new_zeros(len(penalty))
    for start in range(0, len(x), CHUNK):
        turned = (x[start : start + CHUNK].double() - mean) @ basis
        residual = y[start : start + CHUNK, None] - turned @ (shrunk * product[:, None])
        leverage = 1 / len(x) + turned.square() @ shrunk
        error += (residual / (1 - leverage).clamp(min=1e-9)).square().sum(0)
    best = int(error.argmin())
    return basis @ (shrunk[:, best] * product), float(ALPHAS[best])


def _axes(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes (D,r) of the centred rows, orthonormal, and the sums of squares along them (r,)."""
    if len(x) > x.shape[1]:
        variance, basis = torch.linalg.eigh(_gram(x, mean))
        return basis, variance.clamp(min=0)
    centred = x.double() - mean
    variance, turned = torch.linalg.eigh(centred @ centred.T)
    there = variance > 1e-10 * variance[-1].clamp(min=1e-30)
    return centred.T @ turned[:, there] / variance[there].sqrt(), variance[there]


def _gram(x: Tensor, mean: Tensor) -> Tensor:
    """x^T x (D,D) of the centred rows."""
    result = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in x.split(CHUNK):
        centred = part.double() - mean
        result.addmm_(centred.T, centred)
    return result


def _products(x: Tensor, mean: Tensor, y: Tensor) -> Tensor:
    """x^T y (D,) of the centred rows."""
    parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
    return torch.stack([(part.double() - mean).T @ own for part, own in parts]).sum(0)
