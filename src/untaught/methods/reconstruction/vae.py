"""VAE, variational autoencoder. Kingma, Welling, ICLR 2014. https://arxiv.org/abs/1312.6114

Views:  one full image, not augmented, with its integer levels as target. With views=whole, any sample of numbers (Gaussian likelihood
        only).
Heads:  two linear layers from the encoder's pooled vector to mean and log-variance of the latents' Gaussian posterior, and a decoder from
        latents to the likelihood of every value: convolutional for images (blocks.pixel_decoder). All are discarded after training.
Loss:   the negative evidence lower bound (equation 3, the divergence in closed form as in appendix B), one draw of the latents per sample,
        divided by the number of values: "reconstruction" and "kl" in nats per dimension. Minimised is reconstruction + beta kl (beta-VAE,
        Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl); with free_bits, each latent's divergence, averaged over the batch,
        counts as that many nats at least (Kingma et al. 2016, https://arxiv.org/abs/1606.04934, appendix C.8).
Likelihood of levels: a discretised logistic with a mean and a scale for each value (Kingma et al. 2016; PixelCNN++). It gives each of the
256 levels a probability, so that the bound in bits, "bits_per_dim" (beta 1, no free bits; logged, not minimised), is an upper limit of the
bits per value of a lossless code, and compares with PNG and PixelCNN. Images of more than 8 bits are rounded to 8 by the view.
Gaussian (with a standard deviation for each value; of normalised values) and Bernoulli (levels as shares; a probability for black and white
images only) are densities or improper for grey levels: they log no bits.
`solve` decodes the posterior's mean, `sample` draws latents from the prior; both return the likelihood's mean, not a draw from it.
Differs from the paper: convolutional networks, where the paper's have one hidden layer; no weight decay, where the paper has that of a
standard normal prior on the weights, which is small. Its rate for Adagrad was 0.01, 0.02 or 0.1, by the first iterations.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from untaught.blocks.dense_decoder import DenseDecoder, mean_over
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.gather import gather
from untaught.ops.likelihood import LEVELS, bernoulli, discretised_logistic, gaussian, kl_to_normal
from untaught.ranges import Size, Weight, Within, in_range


class VAE(Method):
    views = ("levels",)
    held_out = True
    answers = "reconstructed samples"
    paper = {"optimizer": "adagrad", "lr": 0.01, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}
    generates = "samples"
    step: Tensor  # () int64, steps taken
    black: Tensor  # (C,1,1), the normalised value of level 0
    white: Tensor  # of level 255

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        width: Size = 32,  # latents
        beta: Weight = 1.0,  # weight of the divergence from the prior
        free_bits: Annotated[float, Within(0, 100)] = 0.0,  # nats of each latent's divergence that cost nothing
        likelihood: Literal["logistic", "gaussian", "bernoulli"] | None = None,  # if none, logistic for levels, else gaussian
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        levels = example.target is not None and not example.target.is_floating_point()
        self.likelihood = likelihood or ("logistic" if levels else "gaussian")
        if self.likelihood != "gaussian" and not levels:
            raise UserError(f"likelihood={self.likelihood} is of integer levels, which only the view levels of images has; choose gaussian")
        self.beta, self.free_bits, self.shape = beta, free_bits, tuple(example.x.shape[1:])
        self.encoder, self.seed = encoder, facts.seed
        self.mean, self.log_variance = nn.Linear(encoder.width, width), nn.Linear(encoder.width, width)
        self.decoder = DenseDecoder(width, example, "vae", each=1 if self.likelihood == "bernoulli" else 2)
        mean, std = (torch.tensor(facts.statistics.get(key, default)).view(-1, 1, 1) for key, default in (("mean", 0.0), ("std", 1.0)))
        self.register_buffer("black", -mean / std, persistent=False)
        self.register_buffer("white", (1 - mean) / std, persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        mean, log_variance = self.posterior(view)
        latents = mean + (0.5 * log_variance).exp() * self.draw(view)
        reconstruction = mean_over(-self.log_likelihood(self.decoder(latents, view), view), view.valid)
        values = math.prod(self.shape) if view.valid is None else view.valid.sum() * self.shape[-1] / len(view)
        divergence = kl_to_normal(mean, log_variance)
        each = divergence.mean(0)
        charged = torch.where(gather(each.detach()[None]).mean(0) > self.free_bits, each, self.free_bits)
        terms = {"reconstruction": reconstruction, "kl": self.beta * charged.sum() / values}
        if self.likelihood == "logistic":
            terms["bits_per_dim"] = (reconstruction + each.sum() / values).detach() / math.log(2)
        return terms

    def posterior(self, view: View) -> tuple[Tensor, Tensor]:
        """-> mean and log-variance of each latent (B,D), float32."""
        vector = self.encoder(view)
        return self.mean(vector).float(), self.log_variance(vector).float()

    def draw(self, view: View) -> Tensor:
        """Standard normal (B,D), different for every step and sample."""
        assert view.meta is not None
        return CounterRNG(self.seed, 0, (self.step << 32) + view.meta["index"], 0).normal(self.mean.out_features)

    def log_likelihood(self, decoded: Tensor, view: View) -> Tensor:
        """decoded (B, 1 or 2, *shape of x) -> nats of each value, (B, *shape)."""
        if self.likelihood == "gaussian":
            return gaussian(view.x, decoded[:, 0], decoded[:, 1])
        assert view.target is not None
        if self.likelihood == "bernoulli":
            return bernoulli(view.target / (LEVELS - 1), decoded[:, 0])
        return discretised_logistic(view.target, decoded[:, 0], decoded[:, 1])

    def expected(self, decoded: Tensor) -> Tensor:
        """The likelihood's mean: the share of white 0..1 of levels; in the form of x for a Gaussian."""
        first = decoded[:, 0]
        if self.likelihood == "gaussian":
            return first
        return first.sigmoid() if self.likelihood == "bernoulli" else ((first + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the reconstruction from the posterior's mean: integer levels, or in the form of x for a Gaussian."""
        found = self.expected(self.decoder(self.posterior(views[0])[0], views[0]))
        if self.likelihood == "gaussian":
            return found
        return (found * (LEVELS - 1)).round().long()

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """Latents drawn from the prior, decoded -> (count, ...) in the form of x."""
        draws = CounterRNG(seed, 0, torch.arange(count, device=self.step.device), 0).normal(self.mean.out_features)
        found = self.expected(self.decoder(draws, View(draws.new_zeros(count, *self.shape))))
        return found if self.likelihood == "gaussian" else self.black + (self.white - self.black) * found

    def after_step(self, progress: float) -> None:
        self.step += 1
