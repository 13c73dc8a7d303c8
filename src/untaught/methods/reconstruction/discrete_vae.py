"""Discrete VAE, the first stage of DALL-E. Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen, Sutskever, ICML 2021. https://arxiv.org/abs/2102.12092

Views:  one full image, not augmented, with its integer levels as target.
Heads:  a 1 x 1 convolution from the encoder's last map to the logits of `codes` at every place (the paper's grid: an eighth of the image's
        side, as with conv_small), and a convolutional decoder (blocks.pixel_decoder) from codes to the likelihood of every value. Both are
        discarded after training.
Loss:   the negative evidence lower bound (section 2.1, appendix A.2), divided by the number of values: "reconstruction" in nats per
        dimension plus the weighted "kl", the divergence of the codes' distribution from the uniform one.
Codes are relaxed in training: Gumbel noise, and a softmax whose temperature falls from 1 to 1/16 (Jang et al. 2017,
https://arxiv.org/abs/1611.01144; Maddison et al. 2017); the divergence's weight rises from 0 to 6.6. Both follow a cosine and take the
first 5% and 0.17% of the training, as in the paper (150,000 and 5,000 of 3 million updates).
Likelihood: logit-Laplace with a mean and a scale for each value, of intensities mapped to 0.1..0.9 (appendix A.3).
In eval mode codes are drawn, not relaxed, and the likelihood is that of the 256 levels (the logit-Laplace's mass of each, the tails at the
ends): then "bits_per_dim" is an upper limit of the bits per value of a lossless code (weight 1, uniform prior), which compares with PNG
and PixelCNN. Images of more than 8 bits are rounded to 8 by the view. "code_perplexity" is logged: the number of codes in use, by the
entropy of their frequencies in the batch; a run whose samples share a few codes is reported as collapsing.
`solve` decodes the most probable code of each place. There is nothing to sample from: DALL-E's prior over codes is its second stage.
Differs from the paper: the encoder is any with maps; no averaging of weights over updates.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.blocks.codes import CodeHead
from untaught.blocks.dense_decoder import DenseDecoder
from untaught.blocks.maps import map_shapes, read
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.discrete_codes import gumbel
from untaught.ops.likelihood import LEVELS, MARGIN, discretised_logit_laplace, kl_to_uniform, logit_laplace
from untaught.ranges import Positives, Share, Size, Weight, in_range


class DiscreteVAE(Method):
    views = ("levels",)
    needs = frozenset({"maps"})
    held_out = True
    answers = "reconstructed images"
    find_unused_parameters = True  # the encoder's pooling
    paper = {"optimizer": "adamw", "lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-4, "warmup": 0.0}
    short = {"codes": 512, "temperature_share": 0.5, "kl_share": 0.2, "kl": 1.0}
    step: Tensor  # () int64, steps taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        codes: Size = 8192,  # of which one is chosen at each place
        kl: Weight = 6.6,  # weight of the divergence from the uniform distribution
        kl_share: Share = 5 / 3000,  # share of the training in which that weight rises from 0
        temperature: Positives = (1.0, 1 / 16),  # of the relaxed codes: at first, at last
        temperature_share: Share = 150 / 3000,  # share of the training in which it falls
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        if example.target is None or example.target.is_floating_point() or example.x.ndim != 4:
            raise UserError("discrete_vae reads images with integer levels as target: the view levels")
        width, high, wide = map_shapes(encoder, example)[-1]
        self.kl, self.kl_share, self.temperature, self.temperature_share = kl, kl_share, temperature, temperature_share
        self.encoder, self.codes, self.seed = encoder, CodeHead(width, codes), facts.seed
        self.decoder = DenseDecoder(codes, example, "discrete_vae", each=2, grid=(high, wide))
        self.grid, self.values = (high, wide), math.prod(example.x.shape[1:])
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        logits = self.codes(read(self.encoder, view, self.grid)).float()
        noisy = logits + self.draw(view)
        first, last = self.temperature
        relaxed = (noisy / cosine(first, last, progress, self.temperature_share)).softmax(1)
        codes = relaxed if self.training else one_hot(noisy, noisy)
        mean, log_scale = self.decoder(codes, view).unbind(1)
        log_probability = logits.log_softmax(1)
        divergence = kl_to_uniform(log_probability, 1).sum() / (len(view) * self.values)
        frequency = log_probability.detach().exp().mean((0, 2, 3))
        used = {"code_perplexity": torch.special.entr(frequency).sum().exp()}
        divergence_weighted = cosine(0.0, self.kl, progress, self.kl_share) * divergence
        if self.training:
            likelihood = logit_laplace(view.target / (LEVELS - 1), mean, log_scale).mean()
            return {"reconstruction": -likelihood, "kl": divergence_weighted, **used}
        likelihood = discretised_logit_laplace(view.target, mean, log_scale).mean()
        bits = (divergence - likelihood).detach() / math.log(2)
        return {"reconstruction": -likelihood, "kl": divergence_weighted, "bits_per_dim": bits, **used}

    def draw(self, view: View) -> Tensor:
        """Standard Gumbel noise (B, codes, h, w), different for every step and sample."""
        assert view.meta is not None
        draws = CounterRNG(self.seed, 0, (self.step << 32) + view.meta["index"], 0).uniform(self.codes.out_channels, *self.grid)
        return gumbel(draws)

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the image decoded from the most probable codes, as integer levels."""
        logits = self.codes(read(self.encoder, views[0], self.grid))
        mean = self.decoder(one_hot(logits, logits), views[0])[:, 0].sigmoid()
        return (((mean - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1) * (LEVELS - 1)).round().long()

    def after_step(self, progress: float) -> None:
        self.step += 1


def one_hot(scores: Tensor, like: Tensor) -> Tensor:
    """Scores (B,K,h,w) -> 1 for the largest at each place, else 0, of the type of `like`."""
    return F.one_hot(scores.argmax(1), scores.shape[1]).movedim(3, 1).to(like.dtype)


def cosine(first: float, last: float, progress: float, share: float) -> float:
    """From first to last over a share of the training, along half a cosine; then last."""
    done = min(progress / share, 1.0) if share > 0 else 1.0
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
