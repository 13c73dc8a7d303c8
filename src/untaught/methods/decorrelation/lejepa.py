"""LeJEPA. Balestriero, LeCun 2025. https://arxiv.org/abs/2511.08544

Views:  two large crops and six small ones.
Heads:  a projector with two hidden layers, BatchNorm and ReLU, discarded after training. The 2048 hidden units of the authors'
        minimal example are four times its encoder's width, as is the default here. The output has 16, as in their runs.
Loss:   0.95 prediction + 0.05 SIGReg. Prediction: the squared distance of every view from the mean of the large ones, averaged over
        dimensions, views and the batch. SIGReg (sketched isotropic Gaussian regularisation): the Epps-Pulley distance between the
        batch's characteristic function and the standard normal's along random directions, averaged over directions and views.
The integral over frequencies uses the trapezoidal rule with 17 points on [0, 3], doubled, and 256 directions are redrawn each
step, as in the authors' minimal example. The learning rate, not scaled with the batch, and the weight decay are their README's for a
ViT. The batch is gathered from all processes, and directions depend only on the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL, photo
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.sigreg import sigreg
from untaught.ranges import Share, Size, in_range

LARGE = 2  # views that the others predict: the first ones


class LeJEPA(Method):
    views = ("global", "global2", *("local",) * 6)
    multicrop = "local"
    paper = {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05, "encoder.drop_path_rate": 0.1}
    view_presets = photo(
        dict.fromkeys(("global", "global2"), BYOL | {"scale": (0.3, 1.0), "blur": 0.5, "solarize": 0.2})
        | {"local": BYOL | {"scale": (0.05, 0.3), "solarize": 0.2}}
    )
    step: Tensor  # () int64, steps taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        regularisation: Share = 0.05,  # weight of SIGReg in the loss; the prediction term has 1 minus it
        directions: Size = 256,  # random directions along which the batch is compared with a Gaussian, redrawn each step
        hidden: Size | None = None,  # units of the projector's hidden layers; four times the encoder's width if none
        width: Size = 16,  # dimensions of the projection
    ) -> None:
        super().__init__()
        hidden = 4 * encoder.width if hidden is None else hidden
        self.encoder, self.seed = encoder, facts.seed
        self.projector = mlp(encoder.width, hidden, hidden, width)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.regularisation, self.directions = regularisation, directions

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        large, small = View.cat(views[:LARGE]), View.cat(views[LARGE:])
        z = self.projector(torch.cat([self.encoder(large), self.encoder(small)]))
        return list(z.chunk(len(views)))

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        z = torch.stack(projected).float()  # (V,B,D)
        prediction = (z - z[:LARGE].mean(0)).square().mean()
        drawn = CounterRNG(self.seed, 0, self.step.view(1), 0).normal(z.shape[-1], self.directions)[0]
        share = self.regularisation
        return {"prediction": (1 - share) * prediction, "sigreg": share * sigreg(z, drawn)}

    def after_step(self, progress: float) -> None:
        self.step += 1
