"""The linear probe: multinomial logistic regression on frozen features, the penalty chosen on validation rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, from strong to weak
VALIDATED = 200  # minimum number of labels to choose C on, as far as five folds provide them
ROUGH = 1e-3  # gradient tolerance, enough to compare losses
SMALL = 1 << 22  # problems with fewer values in their training rows run on one thread
FEW = 5  # mean labels per class below which C is 1


class LinearProbe:
    """Probes of one encoder's features: train (N,D) and test (M,D) are standardised and rotated to their principal axes once.

    The rotation changes neither penalty, optimum nor predictions; along these axes L-BFGS is preconditioned with an upper bound of the
    curvature (Boehning, Annals of the Institute of Statistical Mathematics 1992) and converges in tens of steps.
    """

    def __init__(self, train: np.ndarray, test: np.ndarray) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        x = torch.from_numpy(train).float().to(device)
        mean, deviation = x.mean(0), x.std(0, correction=0)
        scale = torch.where(deviation > 1e-6 * deviation.max(), deviation, torch.inf)  # constant features become 0
        x = (x - mean) / scale
        self.variance, axes = _principal(x)
        self.axes, self.mean, self.scale = axes, mean, scale
        self.train = x @ axes
        self.test = ((torch.from_numpy(test).float().to(device) - mean) / scale) @ axes

    def predict(self, rows: np.ndarray, labels: np.ndarray, seed: int = 0, c: float | None = None) -> tuple[np.ndarray, float]:
        """Fits on these training rows (n,) with labels (n,) -> predicted test labels (M,), and C, given or chosen."""
        classes, numbers = np.unique(labels, return_inverse=True)
        with threads_for(len(rows) * self.train.shape[1]):
            if c is None:
                c = 1.0 if len(rows) < FEW * len(classes) else self._choose(rows, numbers, seed)
            return classes[_scores(self.test, self.fit(rows, numbers, c)).argmax(1).cpu().numpy()], c

    def fit(self, rows: np.ndarray, numbers: np.ndarray, c: float) -> Tensor:
        """Weights (D+1, K), the last row the intercepts, that minimise C * sum of losses + |weights|^2 / 2, as scikit-learn's.

        numbers (n,): class indices from 0, each present.
        """
        problem = self._problem(rows, numbers)
        return problem.full(problem.minimise(c))

    def _problem(self, rows: np.ndarray, numbers: np.ndarray) -> _Problem:
        x = self.train if len(rows) == len(self.train) else self.train[torch.from_numpy(rows).to(self.train.device)]
        y = torch.from_numpy(numbers).long().to(x.device)
        if len(x) >= x.shape[1]:
            return _Problem(x, y, self.variance, None)
        squared, turned = torch.linalg.eigh((x @ x.T).double())  # with few rows, the optimum lies in their span
        there = squared > 1e-6 * squared[-1]
        length = squared[there].sqrt()
        basis = (x.T.double() @ turned[:, there] / length).float()  # (D,r)
        return _Problem((turned[:, there] * length).float(), y, (squared[there] / len(x)).float(), basis)

    def _choose(self, rows: np.ndarray, numbers: np.ndarray, seed: int) -> float:
        """The C with the smallest loss on held-out fifths of these rows: one fifth if it is large enough, else up to five."""
        place = _fifths(numbers, seed)
        problems: list[tuple[_Problem, Tensor, Tensor]] = []  # with features and labels of the held-out rows
        for fold in range(min(5, -(-5 * VALIDATED // len(rows)))):
            fitting = place != fold
            present, inside = np.unique(numbers[fitting], return_inverse=True)
            judging = ~fitting & np.isin(numbers, present)
            if judging.any() and len(present) > 1:
                x = self.train[torch.from_numpy(rows[judging]).to(self.train.device)]
                y = torch.from_numpy(np.searchsorted(present, numbers[judging])).long().to(x.device)
                problems.append((self._problem(rows[fitting], inside), x, y))
        losses: list[float] = []
        weights: list[Any] = [None] * len(problems)
        for c in PENALTIES:
            weights = [p.minimise(c, start, ROUGH) for (p, _, _), start in zip(problems, weights, strict=True)]  # warm start
            found = (F.cross_entropy(_scores(x, p.full(w)), y, reduction="sum") for (p, x, y), w in zip(problems, weights, strict=True))
            losses.append(float(sum(found)))
            if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
                break  # the loss has a single minimum in C
        return PENALTIES[int(np.argmin(losses))] if problems else 1.0


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N,D), centred -> the variance along its principal axes (r,), and the axes (D,r): all D, or with fewer rows those they span."""
    if len(x) >= x.shape[1]:
        return tuple(torch.linalg.eigh(x.T @ x / len(x)))
    squared, turned = torch.linalg.eigh(x.double() @ x.T.double())
    there = squared > 1e-10 * squared[-1].clamp(min=1e-30)
    return (squared[there] / len(x)).float(), (x.T.double() @ turned[:, there] / squared[there].sqrt()).float()


class _Problem:
    """One fit: x (n,r) along axes of this variance (r,), y (n,); `basis` (D,r) maps back to the features, None for the identity."""

    def __init__(self, x: Tensor, y: Tensor, variance: Tensor, basis: Tensor | None) -> None:
        self.x, self.y, self.variance, self.basis = x, y, variance, basis
        self.classes = int(y.max()) + 1
        self.truth = F.one_hot(y, self.classes).to(x)

    def minimise(self, c: float, start: Tensor | None = None, tolerance: float = 1e-5) -> Tensor:
        """The weights (r+1, K) for this C, by L-BFGS until every gradient component is below the tolerance."""
        from scipy.optimize import minimize

        x, decay = self.x, 1 / (c * len(self.x))
        steep = torch.cat([self.variance.clamp(min=0) / self.classes + decay, x.new_full((1,), 1 / self.classes)])
        scale = steep.rsqrt().unsqueeze(1)  # preconditioner: similar curvature in every direction
        shape = x.shape[1] + 1, self.classes

        def loss(inner: np.ndarray) -> tuple[float, np.ndarray]:
            weights = torch.from_numpy(inner).to(x).view(shape) * scale
            log = F.log_softmax(_scores(x, weights), 1)
            value = -log.gather(1, self.y[:, None]).mean() + decay / 2 * weights[:-1].square().sum()
            wrong = log.exp_().sub_(self.truth).div_(len(x))
            slope = torch.cat([torch.addmm(weights[:-1], x.T, wrong, beta=decay), wrong.sum(0, keepdim=True)]) * scale
            return float(value), slope.double().flatten().cpu().numpy()

        first = x.new_zeros(shape) if start is None else start / scale
        found = minimize(
            loss,
            first.double().flatten().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": tolerance, "ftol": 1e-9, "maxcor": 20, "maxiter": 200},
        )
        return torch.from_numpy(found.x).to(x).view(shape) * scale

    def full(self, weights: Tensor) -> Tensor:
        return weights if self.basis is None else torch.cat([self.basis @ weights[:-1], weights[-1:]])


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """One thread for a small problem: synchronising threads after every tiny operation is ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if numbers < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scores(x: Tensor, weights: Tensor) -> Tensor:
    return torch.addmm(weights[-1], x, weights[:-1])


def _fifths(numbers: np.ndarray, seed: int) -> np.ndarray:
    """(n,) 0..4: the stratified fold of each row."""
    random = np.random.default_rng(seed)
    order = np.lexsort((random.random(len(numbers)), numbers))
    place = np.empty(len(numbers), np.int64)
    place[order] = np.arange(len(numbers)) % 5
    return place
