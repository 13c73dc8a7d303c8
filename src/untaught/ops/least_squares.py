"""Ridge regression with an intercept in closed form, from sums over any number of weighted rows."""

from __future__ import annotations

import torch
from torch import Tensor


class LeastSquares:
    """Sums over rows x (N,D), y (N,K) with weights (N,): those of two parts add up to those of both. Products are float32, sums float64."""

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64, device=device)  # of x and a column of ones
        self.cross = torch.zeros(inputs + 1, outputs, dtype=torch.float64, device=device)
        self.energy = torch.zeros(outputs, dtype=torch.float64, device=device)

    def add(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        """Rows x (N,D), y (N,K), all finite, with weights (N,) of at least 0; equal ones if none are given."""
        with torch.autocast(x.device.type, enabled=False):
            self._add(x.float(), y.float(), weight)

    def _add(self, x: Tensor, y: Tensor, weight: Tensor | None) -> None:
        root = x.new_ones(len(x), 1) if weight is None else weight.sqrt().unsqueeze(1).to(x)
        x, y = torch.cat([x, torch.ones_like(x[:, :1])], 1) * root, y * root
        self.gram += (x.T @ x).double()
        self.cross += (x.T @ y).double()
        self.energy += y.double().square().sum(0)

    def __add__(self, other: LeastSquares) -> LeastSquares:
        joint = LeastSquares(len(self.gram) - 1, len(self.energy), self.gram.device)
        joint.gram, joint.cross, joint.energy = self.gram + other.gram, self.cross + other.cross, self.energy + other.energy
        return joint

    @property
    def weight(self) -> float:
        """The sum of all weights."""
        return float(self.gram[-1, -1])

    def solve(self, penalty: float) -> Tensor:
        """-> (D + 1, K) float64, the intercept last, with the least mean squared error + penalty |w|^2, where w are the weights of
        standardised inputs. Inputs that are constant get weight 0."""
        total = self.gram[-1, -1].clamp(min=1e-30)
        mean, level = self.gram[-1, :-1] / total, self.cross[-1] / total
        covariance = self.gram[:-1, :-1] / total - torch.outer(mean, mean)
        variance = covariance.diagonal()
        scale = torch.where(variance > 1e-10 * variance.max().clamp(min=1e-30), variance.sqrt(), torch.inf)
        system = covariance / torch.outer(scale, scale) + penalty * torch.eye(len(mean)).to(covariance)
        right = (self.cross[:-1] / total - torch.outer(mean, level)) / scale.unsqueeze(1)
        factor, failed = torch.linalg.cholesky_ex(system)  # fails where the penalty is below the rounding of the sums
        found = torch.linalg.lstsq(system, right).solution if failed else torch.cholesky_solve(right, factor)
        weights = found / scale.unsqueeze(1)
        return torch.cat([weights, (level - mean @ weights).unsqueeze(0)])

    def error(self, solution: Tensor) -> float:
        """The weighted mean squared error of a solution (D + 1, K) on these rows."""
        squares = self.energy.sum() - 2 * (solution * self.cross).sum() + (solution * (self.gram @ solution)).sum()
        return float(squares) / max(self.weight * len(self.energy), 1e-30)
