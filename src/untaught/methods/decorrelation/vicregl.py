"""VICRegL. Bardes, Ponce, LeCun, NeurIPS 2022. https://arxiv.org/abs/2210.01571

Views:  two strong augmentations of the same sample, the paper's for ResNet (for ConvNeXt it adds small crops).
Heads:  VICReg's expander for pooled vectors, and a projector of three layers for the vectors of the last feature map, both with
        BatchNorm and ReLU between layers, discarded after training. The paper's 8192 is four times its ResNet-50's width, as is the
        expander here; the projector has the paper's 512.
Loss:   0.75 VICReg of the pooled vectors + 0.25 VICReg of matched vectors of the two maps. Each vector is matched twice: with the
        vector of the other map that is nearest in the image (by the geometry of the views), and with the one nearest in feature
        space; only the closest matches count (20 of 49 positions in the paper; the same share here). Symmetrised and averaged.
Inside, the weights are VICReg's 25, 25 and 1. Variance and covariance of matched vectors are taken along the batch, among matches of
the same rank of closeness. Positions are compared in the stored image, which is resized to a square.
Differs from the authors' code: variance and covariance are summed over both views, as in VICReg's paper, not averaged. Only the
closest matches count in both matchings (by default the code keeps all matches in feature space, and 4 of the second view's).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.maps import map_shapes, pooled_and_maps
from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.methods.photo import BYOL_VIEWS, photo
from untaught.ops.decorrelation import vicreg
from untaught.ops.masking import take
from untaught.ranges import Share, Size, Weight, in_range

SHARE = 20 / 49  # of the positions whose matches count


class EachPlace(nn.Module):
    """x (B,N,D) -> (B,N,E), the same network at every position."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class VICRegL(Method):
    views = ("global", "global2")
    needs = frozenset({"maps"})
    paper = {"optimizer": "lars", "base_lr": 0.2, "weight_decay": 1e-6, "warmup": 10 / 300}
    view_presets = photo(BYOL_VIEWS)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        alpha: Share = 0.75,  # weight of the pooled vectors in the loss; the local term has 1 minus it
        matches: Size | None = None,  # matches that count, per matching; 20/49 of a map's positions if none
        width: Size | None = None,  # units of the expander's layers; four times the encoder's width if none
        local_width: Size = 512,  # units of the local projector's layers
        invariance: Weight = 25.0,  # weight of the distance between a sample's two views
        variance: Weight = 25.0,  # weight of the hinge that pulls each dimension's standard deviation up to 1
        covariance: Weight = 1.0,  # weight of the squared covariances between dimensions
    ) -> None:
        super().__init__()
        inside, *self.grid = map_shapes(encoder, next(iter(facts.views.values())))[-1]
        places = self.grid[0] * self.grid[1]
        matches = max(1, round(SHARE * places)) if matches is None else matches
        width = 4 * encoder.width if width is None else width
        if not 1 <= matches <= places:
            raise UserError(f"matches={matches}: must be from 1 to {places}, the positions of the encoder's last map")
        self.encoder = encoder
        self.expander = mlp(encoder.width, width, width, width)
        self.projector = EachPlace(mlp(inside, local_width, local_width, local_width))
        self.alpha, self.matches, self.weights = alpha, matches, (invariance, variance, covariance)

    def forward(self, views: list[View], progress: float) -> Terms:
        both = [pooled_and_maps(self.encoder, view) for view in views]
        pooled = [self.expander(vector) for vector, _ in both]
        local = [self.projector(maps[-1]) for _, maps in both]
        return self.criterion(pooled, local, [self.places(view) for view in views])

    def criterion(self, pooled: list[Tensor], local: list[Tensor], places: list[Tensor]) -> Terms:
        """For each of the two views: pooled (B,D), local (B,N,E) and its places (B,N,2) -> the terms."""
        terms = self.vicreg(*(z.float() for z in pooled))
        (a, b), (at_a, at_b) = (z.float() for z in local), places
        with torch.autocast(a.device.type, enabled=False):
            matched = [
                *(self.match(a, b, torch.cdist(at_a, at_b)), self.match(b, a, torch.cdist(at_b, at_a))),
                *(self.match(a, b, torch.cdist(a, b).detach()), self.match(b, a, torch.cdist(b, a).detach())),
            ]
        found = [self.vicreg(x, y) for x, y in matched]
        matched_terms = {f"local_{name}": (1 - self.alpha) * sum(each[name] for each in found) / 2 for name in terms}
        return {name: self.alpha * term for name, term in terms.items()} | matched_terms  # type: ignore[return-value]

    def vicreg(self, a: Tensor, b: Tensor) -> Terms:
        """a, b (B,D) or (B,K,D), each of the K ranks separately -> VICReg's weighted terms."""
        w_invariance, w_variance, w_covariance = self.weights
        invariance, variance, covariance = vicreg(a, b)
        return {
            "invariance": w_invariance * invariance,
            "variance": w_variance * variance,
            "covariance": w_covariance * covariance,
        }

    def match(self, a: Tensor, b: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """a (B,N,E), b (B,M,E), distance (B,N,M) -> (B,K,E) of a and of b: the K closest nearest-neighbour pairs, closest first."""
        nearest, at = distance.min(2)
        closest = nearest.topk(self.matches, largest=False).indices
        return take(a, closest), take(b, at.gather(1, closest))

    def places(self, view: View) -> Tensor:
        """The position of each map cell in the stored image: (B,N,2), x and y, from -1 to 1."""
        assert view.meta is not None
        affine = view.meta["affine"]
        down, across = ((2 * torch.arange(n, device=affine.device) + 1) / n - 1 for n in self.grid)
        down, across = torch.meshgrid(down, across, indexing="ij")
        own = torch.stack([across, down, torch.ones_like(down)], -1).flatten(0, 1)
        with torch.autocast(own.device.type, enabled=False):
            return own @ affine.mT
