"""W-MSE, whitening. Ermolov, Siarohin, Sangineto, Sebe, ICML 2021. https://arxiv.org/abs/2007.06346

Views:  two strong augmentations of the same sample.
Heads:  a projector with one hidden layer of 1024 units, BatchNorm and ReLU to 64 (the paper's for small images; 128 for
        larger ones), discarded after training.
Loss:   the squared distance between the two views' whitened, then normalised projections (section 3). Each view is whitened by the
        inverse Cholesky factor of its covariance, one slice of the batch at a time.
A slice has at least twice as many samples as the projection has dimensions: 128 for 64 dimensions, as in the authors' code.
The paper slices the batch by a random permutation, once or several times; here batches are already in random order and sliced once.
For numerical stability, 1e-6 is added to the variances. The learning rate is the authors' for ImageNet-100 (CIFAR-10: 3e-3); it
follows the training loop's schedule, theirs is divided by five twice near the end.
"""

from __future__ import annotations

from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.groups import groups
from untaught.ops.whitening import w_mse
from untaught.ranges import Size, in_range


class WMSE(Method):
    views = ("global", "global")
    paper = {"optimizer": "adam", "lr": 2e-3, "weight_decay": 1e-6, "warmup": 0.01}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        width: Size = 64,  # dimensions of the whitened projection
        slice: Size | None = None,  # samples (or slightly more) that are whitened together; twice the width if none
        hidden: Size = 1024,  # units of the projector's hidden layer
    ) -> None:
        super().__init__()
        slice = 2 * width if slice is None else slice
        if slice <= width:
            raise UserError(f"slice={slice}: must be greater than width={width}; fewer samples have no covariance of full rank")
        self.encoder = encoder
        self.projector = mlp(encoder.width, hidden, width)
        self.slice = slice

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        a = groups(projected[0], self.slice)
        if self.training and a.shape[1] <= a.shape[2]:
            raise UserError(
                f"W-MSE whitens width={a.shape[2]} dimensions, which needs more samples than that; the batch (on one device) has "
                f"{a.shape[1]}; give a batch_size of {2 * a.shape[2]} or more, or width={max(1, a.shape[1] // 2)}"
            )
        return {"distance": w_mse(projected[0], projected[1], self.slice)}
