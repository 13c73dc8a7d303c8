"""The networks of an adversarial game about samples and their latents: convolutional for images, linear for any samples of one shape.

After the authors' code of BiGAN, https://github.com/jeffdonahue/bigan: for 28 x 28 images `convnet_28` and `deconvnet_28`, which are a
DCGAN's, with kernels of 4 x 4 instead of 5 x 5; for samples without geometry `mnist_mlp` and `deconvnet_mnist_mlp`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 7  # halving stops once no side is larger, in pixels


class Generator(nn.Module):
    """Latents z (B,D) -> images (B,C,H,W), each channel between its values for black and white."""

    dark: Tensor  # (C,1,1), the normalised value of a pixel of 0
    bright: Tensor  # of a pixel of 1

    def __init__(self, latent: int, shape: tuple[int, ...], maps: int, dark: Tensor, bright: Tensor) -> None:
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

    def __init__(self, latent: int, shape: tuple[int, ...], maps: int) -> None:
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


class LinearGenerator(nn.Module):
    """Latents z (B,D) -> samples (B, *shape): two hidden layers with BatchNorm and ReLU, the second of which reads z too.

    low and high: the range of each value, numbers or broadcastable to the shape; without, values are not bounded.
    """

    def __init__(self, latent: int, shape: tuple[int, ...], hidden: int, low: Tensor | None = None, high: Tensor | None = None) -> None:
        super().__init__()
        self.shape, self.bounded = shape, low is not None
        self.first, self.norm1 = nn.Linear(latent, hidden, bias=False), nn.BatchNorm1d(hidden, affine=False)
        self.second, self.latent = nn.Linear(hidden, hidden, bias=False), nn.Linear(latent, hidden, bias=False)
        self.norm2, self.out = nn.BatchNorm1d(hidden, affine=False), nn.Linear(hidden, math.prod(shape))
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.first(z)))
        h = F.relu(self.norm2(self.second(h) + self.latent(z)))
        x = self.out(h).unflatten(1, self.shape).float()
        return self.low + (self.high - self.low) * x.sigmoid() if self.bounded else x  # type: ignore[operator]


class LinearDiscriminator(nn.Module):
    """Samples x (B, ...) and latents z (B,D) -> (B,) float32: the logit that the sample is real and the latent its encoding.

    Two hidden layers with leaky ReLU; the second has BatchNorm and reads z too.
    """

    def __init__(self, latent: int, shape: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(math.prod(shape), hidden), nn.Linear(hidden, hidden, bias=False)
        self.latent, self.norm = nn.Linear(latent, hidden, bias=False), nn.BatchNorm1d(hidden, affine=False)
        self.score = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x.flatten(1)), 0.2)
        h = F.leaky_relu(self.norm(self.second(h) + self.latent(z)), 0.2)
        return self.score(h).squeeze(1).float()


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
