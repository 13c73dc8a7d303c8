"""BiGAN, adversarial feature learning. Donahue, Krahenbuhl, Darrell, ICLR 2017. https://arxiv.org/abs/1605.09782

Views:  one full image, not augmented.
Heads:  a linear layer from the encoder's features to a 50-dimensional latent; a generator from latents to images; a discriminator of
        (image, latent) pairs, in which the latent is added at every layer but the first (section 4). All are discarded after
        training. Latents are uniform in -1..1; the paper has 50 dimensions for MNIST, 200 for ImageNet.
Loss:   the discriminator separates (x, E(x)) from (G(z), z) (equation 3, negated); then encoder and generator jointly minimise the
        "inverse" objective, the same with real and generated swapped (section 3.4).
Players step in turn, discriminator first, as in section 3.4; latents are redrawn for each turn, the images are those of the step.
The paper's experiments update all players at once, for efficiency: that is the gradient of `forward`.
Adam with beta1 0.5, lr 2e-4 and weight decay 2.5e-5 are the authors' code's. Its learning rate is constant for half of the training,
then decays exponentially to a hundredth; here it follows the training loop's schedule.
Generator and discriminator are the authors': for images convolutional (DCGAN), stride-2 layers with BatchNorm and leaky ReLU, and a
layer of 16 times `maps` units; the generator has transposed convolutions. Kernels are 4 x 4, not 5 x 5. With `layers=linear`, and for
samples that are not images, they have two hidden layers of 16 times `maps` units, as in the paper's experiment on MNIST.
The exported encoder excludes the linear layer; the authors' code finds that layer's input to be the better features.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.adversaries import Discriminator, Generator, LinearDiscriminator, LinearGenerator, draw_weights
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ranges import Size, in_range


class BiGAN(Method):
    views = ("whole",)
    players = {"discriminator": ("discriminator",), "generator": ("encoder", "latent", "generator")}
    paper = {"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 2.5e-5, "warmup": 0.0}
    short = paper
    find_unused_parameters = True  # those of the other player
    generates = "samples"
    step: Tensor  # () int64, steps taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        width: Size = 50,  # dimensions of the latent
        maps: Size = 64,  # feature maps at half the resolution, doubled at each further halving; hidden layers have 16 times as many units
        layers: Literal["convolutions", "linear"] | None = None,  # of generator and discriminator; convolutions for images if none
    ) -> None:
        super().__init__()
        view = next(iter(facts.views.values()))
        if not isinstance(view.x, Tensor) or not view.x.is_floating_point() or view.valid is not None:
            raise UserError("BiGAN generates samples of one shape, made of numbers; these differ in length or hold words; allowed: image")
        shape, images = tuple(view.x.shape[1:]), view.x.ndim == 4 and {"mean", "std"} <= facts.statistics.keys()
        low: Any = None
        high: Any = None
        if images:
            mean, std = (torch.tensor(facts.statistics[name]).view(-1, 1, 1) for name in ("mean", "std"))
            low, high = -mean / std, (1 - mean) / std
        layers = ("convolutions" if images else "linear") if layers is None else layers
        if layers == "convolutions" and not images:
            raise UserError("layers=convolutions: these samples are not images; choose layers=linear")
        if layers == "convolutions" and min(shape[1:]) < 4:
            raise UserError(f"images of {shape[1]} x {shape[2]} are too small for BiGAN; use a size of at least 4, or layers=linear")
        self.encoder, self.latent, self.seed = encoder, nn.Linear(encoder.width, width), facts.seed
        if layers == "convolutions":
            self.generator: Any = Generator(width, shape, maps, low, high)
            self.discriminator: Any = Discriminator(width, shape, maps)
        else:
            self.generator = LinearGenerator(width, shape, 16 * maps, low, high)
            self.discriminator = LinearDiscriminator(width, shape, 16 * maps)
        for head in (self.latent, self.generator, self.discriminator):
            head.apply(draw_weights)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def turn(self, player: str, views: list[View], progress: float) -> Terms:
        (view,) = views
        z = self.draw(player, view)
        real = self.discriminator(view.x, self.latent(self.encoder(view)))
        generated = self.discriminator(self.generator(z), z)
        if player == "generator":
            return {"generator": cross_entropy(generated, real)}
        right = torch.cat([real > 0, generated < 0]).float().mean()
        return {"discriminator": cross_entropy(real, generated), "discriminator_accuracy": right}

    def draw(self, player: str, view: View) -> Tensor:
        """Latents (B,D) float32, uniform in -1..1: different for every step, player and sample."""
        assert view.meta is not None
        draws = CounterRNG(self.seed, 0, (self.step << 32) + view.meta["index"], list(self.players).index(player))
        return draws.uniform(self.latent.out_features, low=-1.0, high=1.0)

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        device = self.latent.weight.device
        z = CounterRNG(seed, 0, torch.arange(count, device=device), 0).uniform(self.latent.out_features, low=-1.0, high=1.0)
        return self.generator(z)

    def after_step(self, progress: float) -> None:
        self.step += 1


def cross_entropy(yes: Tensor, no: Tensor) -> Tensor:
    """Logits (B,) of pairs labelled real, and of pairs labelled generated -> a scalar: the sum of their mean cross-entropies.
    With (real, generated) this is equation 3, negated; swapped, its inverse."""
    return F.softplus(-yes).mean() + F.softplus(no).mean()
