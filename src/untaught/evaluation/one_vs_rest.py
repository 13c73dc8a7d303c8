"""The linear probe for several classes a sample: one logistic regression per class on frozen features (one-vs-rest).

Penalty and threshold are chosen on held-out fifths of the rows that it is fitted on; all classes share both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.data.labels import rarest
from untaught.evaluation import sparse
from untaught.evaluation.linear import PENALTIES, ROUGH, VALIDATED, LinearProbe, threads_for
from untaught.evaluation.multilabel import best_threshold

FOLDS = 5


class OneVsRest:
    """Probes of one encoder's features: train (N,D) and test (M,D) are standardised and rotated once, as by `LinearProbe`."""

    def __init__(self, train: np.ndarray, test: np.ndarray) -> None:
        rotated = LinearProbe(train, test)
        self.train, self.test, self.variance, self.rotated = rotated.train, rotated.test, rotated.variance, rotated

    def predict(self, rows: np.ndarray, labels: np.ndarray, seed: int = 0, c: float | None = None) -> tuple[np.ndarray, float]:
        """Fits on these training rows (n,) with labels (n,K) 0/1 -> test logits (M,K) from which the chosen threshold is subtracted, so
        that a class is predicted above 0, and C, given or chosen."""
        with threads_for(len(rows) * self.train.shape[1]):
            x = self.train[torch.from_numpy(rows).to(self.train.device)]
            y = torch.from_numpy(np.asarray(labels)).to(x)
            folds = [(place, other) for place, other in _folds(labels, seed) if len(place) and len(other)]
            if c is None:
                c = self._choose(x, y, folds)
            judged = [(_scores(x[judging], self.fit(x[fitting], y[fitting], c, ROUGH)), y[judging]) for fitting, judging in folds]
            threshold = best_threshold(*(torch.cat(part).cpu().numpy() for part in zip(*judged, strict=True))) if judged else 0.0
            return _scores(self.test, self.fit(x, y, c)).cpu().numpy() - threshold, c

    def fit(self, x: Tensor, y: Tensor, c: float, tolerance: float = 1e-5, start: Tensor | None = None) -> Tensor:
        """x (n,D), y (n,K) 0/1 -> weights (D+1,K), the last row the intercepts, that minimise for each class C * sum of losses +
        |weights|^2 / 2, as scikit-learn's; by L-BFGS, preconditioned with the bound 1/4 of the logistic loss's curvature."""
        from scipy.optimize import minimize

        decay = 1 / (c * len(x))
        steep = torch.cat([self.variance.clamp(min=0) / 4 + decay, x.new_full((1,), 0.25)])
        scale = steep.rsqrt().unsqueeze(1)
        shape = x.shape[1] + 1, y.shape[1]

        def loss(inner: np.ndarray) -> tuple[float, np.ndarray]:
            weights = torch.from_numpy(inner).to(x).view(shape) * scale
            logits = _scores(x, weights)
            value = F.binary_cross_entropy_with_logits(logits, y, reduction="sum") / len(x) + decay / 2 * weights[:-1].square().sum()
            wrong = (logits.sigmoid() - y) / len(x)
            slope = torch.cat([torch.addmm(weights[:-1], x.T, wrong, beta=decay), wrong.sum(0, keepdim=True)]) * scale
            return float(value), slope.double().flatten().cpu().numpy()

        first = x.new_zeros(shape) if start is None else start / scale
        options: Any = {"gtol": tolerance, "ftol": 1e-9, "maxcor": 20, "maxiter": 200}
        found = minimize(loss, first.double().flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
        return torch.from_numpy(found.x).to(x).view(shape) * scale

    def unrotated(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (D+1,K) of `fit` -> weight (K,D) and bias (K,) for the features as given."""
        weight = ((self.rotated.axes @ weights[:-1]) / self.rotated.scale[:, None]).T
        return weight, weights[-1] - weight @ self.rotated.mean

    def _choose(self, x: Tensor, y: Tensor, folds: list[tuple[Tensor, Tensor]]) -> float:
        """The C with the least loss on the held-out rows."""
        losses: list[float] = []
        weights: list[Tensor | None] = [None] * len(folds)
        for c in PENALTIES if folds else ():
            weights = [self.fit(x[fitting], y[fitting], c, ROUGH, start) for (fitting, _), start in zip(folds, weights, strict=True)]
            judged = (
                F.binary_cross_entropy_with_logits(_scores(x[judging], own), y[judging], reduction="sum")
                for (_, judging), own in zip(folds, weights, strict=True)
                if own is not None
            )
            losses.append(float(sum(judged)))
            if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
                break  # the loss has a single minimum in C
        return PENALTIES[int(np.argmin(losses))] if losses else 1.0


class SparseOneVsRest:
    """OneVsRest for sparse features (TF-IDF), by scikit-learn; penalty and threshold are chosen on a held-out fifth of the rows."""

    def __init__(self, train: Any, test: Any) -> None:
        self.train, self.test = train, test

    def predict(self, rows: np.ndarray, labels: np.ndarray, seed: int = 0, c: float | None = None) -> tuple[np.ndarray, float]:
        """As `OneVsRest.predict`."""
        folds = _folds(labels, seed)[:1]
        fitting, judging = (part.numpy() for part in folds[0])
        threshold, x = 0.0, self.train[rows]
        if len(fitting) and len(judging):
            tried = {
                own: _sparse_scores(x[fitting], labels[fitting], x[judging], own) for own in ((c,) if c is not None else sparse.PENALTIES)
            }
            c = min(tried, key=lambda own: float(np.logaddexp(0, np.where(labels[judging] == 1, -tried[own], tried[own])).sum()))
            threshold = best_threshold(tried[c], labels[judging] == 1)
        c = 1.0 if c is None else c
        return _sparse_scores(x, labels, self.test, c) - threshold, c


def _sparse_scores(x: Any, labels: np.ndarray, test: Any, c: float) -> np.ndarray:
    """Logits (M,K); of a class that all rows have, or none, the logit of its share, smoothed."""
    from sklearn.linear_model import LogisticRegression

    found = np.empty((test.shape[0], labels.shape[1]))
    for number, own in enumerate(labels.T == 1):
        if own.all() or not own.any():
            found[:, number] = np.log((own.sum() + 0.5) / ((~own).sum() + 0.5))
        else:
            found[:, number] = LogisticRegression(C=c, max_iter=sparse.ITERATIONS).fit(x, own).decision_function(test)
    return found


def _folds(labels: np.ndarray, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(rows to fit, rows to judge) of as many fifths, stratified by the rarest class, as give VALIDATED rows, at most all five."""
    strata = rarest(labels)
    order = np.lexsort((np.random.default_rng(seed).random(len(strata)), strata))
    place = np.empty(len(strata), np.int64)
    place[order] = np.arange(len(strata)) % FOLDS
    count = min(FOLDS, -(-FOLDS * VALIDATED // len(strata)))
    return [(torch.from_numpy(np.flatnonzero(place != fold)), torch.from_numpy(np.flatnonzero(place == fold))) for fold in range(count)]


def _scores(x: Tensor, weights: Tensor) -> Tensor:
    return torch.addmm(weights[-1], x, weights[:-1])
