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
Generator and discriminator are convolutional, after the authors' code for 28 x 28 images (DCGAN): stride-2 layers with BatchNorm
and leaky ReLU, and a layer of 16 times `maps` units; the generator has transposed convolutions. The paper's MNIST networks have no
convolutions. Kernels are 4 x 4, not 5 x 5.
The exported encoder excludes the linear layer; the authors' code finds that layer's input to be the better features.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ranges import Size, in_range

LEAST = 7  # halving stops once no side is larger, in pixels


class Generator(nn.Module):
    """Latents z (B,D) -> images (B,C,H,W), each channel between its values for black and white."""

    dark: Tensor  # (C,1,1), the normalised value of a pixel of 0
    bright: Tensor  # of a pixel of 1

    def __init__(self, latent: int, shape: tuple[int, int, int], maps: int, dark: Tensor, bright: Tensor) -> None:
        super().__init__()
        channels, *self.size = shape
        sides = halved(self.size)
        widths = [maps << i for i in reversed(range(len(sides) - 1))]
        self.start = (widths[0], *sides[-1])
        layers: list[nn.Module] = []
        for inside, outside in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(inside), nn.ReLU(inplace=True), nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1)]
        self.linear, self.layers = nn.Linear(latent, widths[0] * sides[-1][0] * sides[-1][1], bias=False), nn.Sequential(*layers)
        self.register_buffer("dark", dark.view(-1, 1, 1), persistent=False)
        self.register_buffer("bright", bright.view(-1, 1, 1), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        images = self.layers(self.linear(z).unflatten(1, self.start))[:, :, : self.size[0], : self.size[1]]
        return self.dark + (self.bright - self.dark) * images.float().sigmoid()


class Discriminator(nn.Module):
    """Images x (B,C,H,W) and latents z (B,D) -> (B,) float32: the logit that the image is real and the latent its encoding."""

    def __init__(self, latent: int, shape: tuple[int, int, int], maps: int) -> None:
        super().__init__()
        channels, *size = shape
        sides = halved(size)
        widths = [maps << i for i in range(len(sides) - 1)]
        self.first = nn.Conv2d(channels, maps, 4, stride=2, padding=1)
        self.layers: nn.ModuleList = nn.ModuleList(
            nn.Conv2d(inside, outside, 4, stride=2, padding=1, bias=False) for inside, outside in pairwise(widths)
        )
        features = nn.Linear(widths[-1] * (size[0] >> len(widths)) * (size[1] >> len(widths)), 16 * maps, bias=False)
        self.layers.append(nn.Sequential(nn.Flatten(), features))
        outside = [*widths[1:], 16 * maps]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in outside)
        self.latents = nn.ModuleList(nn.Linear(latent, width, bias=False) for width in outside)
        self.score = nn.Linear(16 * maps, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(x), 0.2)
        for layer, norm, latent in zip(self.layers, self.norms, self.latents, strict=True):
            x = layer(x)
            x = x if x.ndim == 4 else x[:, :, None, None]
            x = F.leaky_relu(norm(x + latent(z)[:, :, None, None]), 0.2)
        return self.score(x.flatten(1)).squeeze(1).float()


class BiGAN(Method):
    views = ("whole",)
    players = {"discriminator": ("discriminator",), "generator": ("encoder", "latent", "generator")}
    paper = {"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 2.5e-5, "warmup": 0.0}
    short = paper
    find_unused_parameters = True  # those of the other player
    step: Tensor  # () int64, steps taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        width: Size = 50,  # dimensions of the latent
        maps: Size = 64,  # feature maps at half the resolution; doubled at each further halving
    ) -> None:
        super().__init__()
        x = next(iter(facts.views.values())).x
        if x.ndim != 4 or not {"mean", "std"} <= facts.statistics.keys():
            raise UserError("BiGAN generates images, but these samples are not images; allowed: image")
        shape = (x.shape[1], x.shape[2], x.shape[3])
        if min(shape[1:]) < 4:
            raise UserError(f"images of {shape[1]} x {shape[2]} are too small for BiGAN; use a size of at least 4")
        mean, std = (torch.tensor(facts.statistics[name]) for name in ("mean", "std"))
        self.encoder, self.latent = encoder, nn.Linear(encoder.width, width)
        self.generator = Generator(width, shape, maps, -mean / std, (1 - mean) / std)
        self.discriminator = Discriminator(width, shape, maps)
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
        draws = CounterRNG(0, 0, (self.step << 32) + view.meta["index"], list(self.players).index(player))
        return draws.uniform(self.latent.out_features, low=-1.0, high=1.0)

    def after_step(self, progress: float) -> None:
        self.step += 1


def cross_entropy(yes: Tensor, no: Tensor) -> Tensor:
    """Logits (B,) of pairs labelled real, and of pairs labelled generated -> a scalar: the sum of their mean cross-entropies.
    With (real, generated) this is equation 3, negated; swapped, its inverse."""
    return F.softplus(-yes).mean() + F.softplus(no).mean()


def halved(size: list[int]) -> list[list[int]]:
    """The size before and after each halving (rounded up), until no side exceeds 7 pixels; at least one halving."""
    sizes = [size, [-(-side // 2) for side in size]]
    while max(sizes[-1]) > LEAST:
        sizes.append([-(-side // 2) for side in sizes[-1]])
    return sizes


def draw_weights(module: nn.Module) -> None:
    """Normal weights with mean 0 and std 0.02, as in the authors' code and in DCGAN."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
