"""Denoising autoencoder. Vincent, Larochelle, Lajoie, Bengio, Manzagol, JMLR 2010. https://jmlr.org/papers/v11/vincent10a.html
First in Vincent, Larochelle, Bengio, Manzagol, ICML 2008, https://doi.org/10.1145/1390156.1390294

Views:  one sample with a part destroyed, and the clean sample as target: `corrupted.corruption` is masking (a share of the pixels black, of
        the time steps 0), gaussian (noise added) or, for images, salt_and_pepper (a share black or white); `corrupted.level` is that
        share, or the noise's standard deviation (section 3.3). Redrawn in every epoch.
Heads:  a decoder from the encoder's last map, if it offers maps, else from its pooled vector, to the sample: convolutional for images
        (blocks.pixel_decoder), for series by blocks.series_decoder. It is discarded after training.
Loss:   mean squared error between the decoder's output and the clean sample, over all values, destroyed or not (section 3.1), without
        padding and missing values.
As in the paper, what is decoded may have more dimensions than the sample: the noise, not a bottleneck, keeps it from the identity.
The encoder is exported for clean samples: its BatchNorm statistics are those of clean ones, and those of corrupted ones are kept beside
them.
Differs from the paper: one convolutional network is trained as a whole, where the paper stacks layers that are trained one by one; there
is no emphasis on destroyed values; a pixel is destroyed in all its channels, where the paper's images are grey. The paper's optimizer is
plain stochastic gradient descent at a constant rate, chosen for each data set, for an error summed over the values; here it is their
mean, at a rate of 0.1 (for images of 28 x 28 pixels 1.3e-4 of the sum).
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.dense_decoder import DenseDecoder, mean_over
from untaught.blocks.maps import readable
from untaught.blocks.parts import PartEncoding
from untaught.core import Encoder, Facts, Method, Terms, View


class Denoising(Method):
    views = ("corrupted",)
    answers = "restored samples"
    paper = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}
    find_unused_parameters = True  # the encoder's pooling, where maps are decoded

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        inside, self.grid = readable(encoder, example)
        self.encoder, self.corrupted = encoder, PartEncoding(encoder)
        self.decoder = DenseDecoder(inside, example, "denoising", grid=self.grid)

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        valid = view.valid if view.target_valid is None else view.target_valid
        return {"reconstruction": mean_over((self.restore(view) - view.target).square(), valid)}

    def restore(self, view: View) -> Tensor:
        """-> the restored sample, in the form of the target."""
        return self.decoder(self.corrupted.read(self.encoder, view, View(view.target, view.valid), self.grid), view).squeeze(1)

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the restored sample, in the form of the target."""
        return self.restore(views[0])
