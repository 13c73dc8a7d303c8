"""SIGReg, sketched isotropic Gaussian regularisation. Balestriero, LeCun 2025, LeJEPA, https://arxiv.org/abs/2511.08544"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.ops.gather import gather, world_size

POINTS, LAST = 17, 3.0  # points and upper limit of the integral over frequencies


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """z (V,B,D), the vectors of V views; directions (D,M), normalised here -> a scalar: `epps_pulley` of the batch along each direction,
    averaged over directions and views. Redraw the directions each step, identically on all processes."""
    with torch.autocast(z.device.type, enabled=False):
        projected = z.float() @ (directions / directions.norm(dim=0))
    return epps_pulley(projected).mean()


def epps_pulley(x: Tensor) -> Tensor:
    """x (V,B,M), samples along dimension 1 -> (V,M): B times the integral of |characteristic function - standard normal's|^2
    with weight exp(-t^2 / 2), over the samples of all processes."""
    t = torch.linspace(0, LAST, POINTS, device=x.device)[1:]  # both functions are 1 at 0
    normal = (-t.square() / 2).exp()
    weight = torch.full_like(t, 2 * LAST / (POINTS - 1)) * normal
    weight[-1] /= 2
    angle = x.unsqueeze(-1) * t
    real, imaginary = (gather(part.mean(1).unsqueeze(0)).mean(0) for part in (angle.cos(), angle.sin()))  # (V,M,T)
    distance = (real - normal).square() + imaginary.square()
    return x.shape[1] * world_size() * (distance * weight).sum(-1)
