"""SIGReg, sketched isotropic Gaussian regularisation. Balestriero, LeCun 2025, LeJEPA, https://arxiv.org/abs/2511.08544"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.ops.gather import gather, world_size

POINTS, LAST = 17, 3.0  # of the integral over frequencies


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """z (V,B,D), the vectors of V views; directions (D,M), normalised here -> a scalar: `epps_pulley` of the batch along each direction,
    averaged over directions and views. Draw other directions each step, the same on all processes."""
    with torch.autocast(z.device.type, enabled=False):
        seen = z.float() @ (directions / directions.norm(dim=0))
    return epps_pulley(seen).mean()


def epps_pulley(x: Tensor) -> Tensor:
    """x (V,B,M), samples along dimension 1 -> (V,M): B times the integral of |their characteristic function - the standard
    normal's|^2 with the weight exp(-t^2 / 2), over all processes' samples."""
    t = torch.linspace(0, LAST, POINTS, device=x.device)[1:]  # at 0 both functions are 1
    normal = (-t.square() / 2).exp()
    weight = torch.full_like(t, 2 * LAST / (POINTS - 1)) * normal
    weight[-1] /= 2
    angle = x.unsqueeze(-1) * t
    real, imaginary = (gather(part.mean(1).unsqueeze(0)).mean(0) for part in (angle.cos(), angle.sin()))  # (V,M,T)
    distance = (real - normal).square() + imaginary.square()
    return x.shape[1] * world_size() * (distance * weight).sum(-1)
