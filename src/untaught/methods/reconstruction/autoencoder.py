"""Autoencoder with a bottleneck. Hinton, Salakhutdinov, Science 2006. https://www.cs.toronto.edu/~hinton/absps/science.pdf

Views:  one full sample, not augmented: an image, a series, or a row of numbers. It is its own target.
Heads:  a linear code of 30 dimensions (the paper's for MNIST) of the encoder's pooled vector, and a decoder from the code to the sample:
        convolutional for images (blocks.pixel_decoder), for series by blocks.series_decoder, for rows of numbers one hidden layer. Both are
        discarded after training.
Loss:   mean squared error over the values of the normalised sample, without padding.
On rows of numbers it is nonlinear principal component analysis (Kramer, AIChE Journal 1991, https://doi.org/10.1002/aic.690370209): a
nonlinear mapping to a linear code, and a nonlinear mapping back.
Everything that is reconstructed passes through the exported encoder's pooled vector, of which the code is a linear function.
Differs from the paper: the layers are not pretrained one by one as restricted Boltzmann machines, and pixels have a squared error, not
a cross-entropy; the networks are convolutional, and the paper's are fully connected. Its optimizer, conjugate gradients on batches of
1,000, is not offered: the paper's settings here are Nesterov's momentum at a constant rate, with which Sutskever et al. trained the same
autoencoders without pretraining (ICML 2013, https://proceedings.mlr.press/v28/sutskever13.html); the rate is one of the six that they
tried.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.dense_decoder import DenseDecoder, mean_over
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ranges import Size, in_range


class Autoencoder(Method):
    views = ("whole",)
    answers = "reconstructed samples"
    paper = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.99, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        width: Size = 30,  # dimensions of the code
    ) -> None:
        super().__init__()
        self.encoder, self.code = encoder, nn.Linear(encoder.width, width)
        self.decoder = DenseDecoder(width, next(iter(facts.views.values())), "autoencoder")

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        return {"reconstruction": mean_over((self.restore(view) - view.x).square(), view.valid)}

    def restore(self, view: View) -> Tensor:
        """-> the reconstruction, in the form of x."""
        return self.decoder(self.code(self.encoder(view)), view).squeeze(1)

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the reconstruction, in the form of x."""
        return self.restore(views[0])
