"""Context encoder: inpainting. Pathak, Krahenbuhl, Donahue, Darrell, Efros, CVPR 2016. https://arxiv.org/abs/1604.07379

Views:  a crop with a hole of the data's mean colour, and what lies in it as the target: a central square of half the side, of which a
        border of 7 of 128 pixels is visible (section 5.1), or, with hole.blocks=5, squares anywhere, up to a quarter of the image (3.3).
Heads:  a channel-wise fully-connected layer, which connects all positions of the encoder's last map within each channel (section 3.1),
        and a convolutional decoder (blocks.pixel_decoder) to the missing part; a discriminator of real and predicted parts. All are
        discarded after training. Encoders without maps are decoded from their pooled vector.
Loss:   0.999 squared error + 0.001 adversarial loss (section 3.2, equations 1 to 3). The visible border counts 10 times (section 5.1).
        Errors are of pixels in -1..1, averaged over all values of the part, as in the authors' code, in which the generator maximises
        log D, as here.
Players step in turn, discriminator first. It sees the part without its context, and its learning rate is a tenth of the encoder's and
decoder's (section 5.1). The discriminator is that of the authors' code (DCGAN).
Differs from the paper: any encoder is read, where theirs for features is AlexNet up to pool5. The channel-wise layer starts as the
identity; instead of one convolution after it, the decoder begins with a linear layer at each position. They trained their features with
the squared error alone, since AlexNet did not converge with the other (section 5.2; here adversarial=0). With blocks, only hidden pixels
count, as in equation 1; in the authors' code all do. Random regions of arbitrary shape (section 3.3) are not offered.
The encoder is exported for whole images: its BatchNorm statistics are those of whole ones; those of images with holes are kept beside them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.adversaries import draw_weights
from untaught.blocks.maps import readable
from untaught.blocks.parts import PartEncoding
from untaught.blocks.pixel_decoder import PixelDecoder
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.paste import pasted
from untaught.ranges import Size, Weight, in_range

LEAST = 4  # the discriminator halves its maps until their side is no larger, in pixels


class EachChannel(nn.Module):
    """x (B,D,h,w) -> the same shape: in each channel, a linear layer from all positions to all, the identity at first."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        places = grid[0] * grid[1]
        self.weight = nn.Parameter(torch.eye(places).repeat(width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(width, places))

    def forward(self, x: Tensor) -> Tensor:
        each = torch.bmm(x.flatten(2).transpose(0, 1), self.weight).transpose(0, 1) + self.bias
        return each.unflatten(2, x.shape[2:])


class Discriminator(nn.Module):
    """Images x (B,C,s,s) in -1..1 -> (B,) float32: the logit that each is real. As in DCGAN, and in the authors' code."""

    def __init__(self, channels: int, side: int, maps: int) -> None:
        super().__init__()
        widths = [channels]
        while side > LEAST:
            widths.append(maps << (len(widths) - 1))
            side //= 2
        layers: list[nn.Module] = []
        for i, (inside, outside) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(inside, outside, 4, stride=2, padding=1, bias=i == 0)]
            layers += [nn.BatchNorm2d(outside), nn.LeakyReLU(0.2)] if i else [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1).float()


class Inpainting(Method):
    views = ("hole",)
    answers = "images with the hole filled"
    players = {"discriminator": ("discriminator",), "generator": ("encoder", "holed", "bottleneck", "decoder")}
    groups = {"discriminator": {"lr_scale": 0.1}}
    find_unused_parameters = True  # those of the other player, and the encoder's pooling
    paper = {"optimizer": "adam", "lr": 2e-3, "betas": (0.5, 0.999), "weight_decay": 0.0, "warmup": 0.0}
    mean: Tensor  # (C,1,1) of the data, and
    std: Tensor  # their standard deviation

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        reconstruction: Weight = 0.999,  # weight of the squared error
        adversarial: Weight = 0.001,  # weight of the adversarial loss
        border: Weight = 10.0,  # weight of the squared error in the visible border of the hole
        maps: Size = 64,  # feature maps of the decoder and of the discriminator at half the resolution
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        if example.target is None or "hole" not in (example.meta or {}) or not {"mean", "std"} <= facts.statistics.keys():
            raise UserError("inpainting fills the hole of an image: it reads the view hole, of images")
        channels, side = example.target.shape[1], example.target.shape[2]
        inside, self.grid = readable(encoder, example)
        self.encoder, self.holed = encoder, PartEncoding(encoder)
        self.bottleneck = nn.Identity() if self.grid is None else EachChannel(inside, self.grid)
        self.decoder = PixelDecoder(inside, (channels, side, side), grid=self.grid, width=maps)
        self.discriminator = Discriminator(channels, side, maps).apply(draw_weights)
        self.weights = reconstruction, adversarial, border
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(facts.statistics[name]).view(-1, 1, 1), persistent=False)

    def turn(self, player: str, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        painted, real = self.paint(view), self.scaled(view.target)
        w_reconstruction, w_adversarial, _ = self.weights
        if player == "generator":
            adversarial = F.softplus(-self.discriminator(painted)).mean()
            return {"reconstruction": w_reconstruction * self.error(painted, view), "adversarial": w_adversarial * adversarial}
        yes, no = self.discriminator(real), self.discriminator(painted)
        right = torch.cat([yes > 0, no < 0]).float().mean()
        return {"discriminator": F.softplus(-yes).mean() + F.softplus(no).mean(), "discriminator_accuracy": right}

    def paint(self, view: View) -> Tensor:
        """-> the decoder's output for the target's part, in -1..1, (B,C,s,s) float32."""
        assert view.target is not None
        assert view.meta is not None
        whole = View(pasted(view.x, view.target, view.meta["hole"]))
        return self.decoder(self.bottleneck(self.holed.read(self.encoder, view, whole, self.grid))).float().tanh()

    def scaled(self, x: Tensor) -> Tensor:
        """Normalised pixels -> in -1..1."""
        return 2 * (x * self.std + self.mean) - 1

    def error(self, painted: Tensor, view: View) -> Tensor:
        """painted (B,C,s,s) in -1..1 -> a scalar: the mean over all values of the weighted squared error."""
        assert view.target is not None
        assert view.meta is not None
        assert view.target_valid is not None
        weight = torch.where(view.meta["hole"], 1.0, self.weights[2]) * view.target_valid
        return (weight * (painted - self.scaled(view.target)).square()).mean()

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the part of the target, with predicted pixels in the hole (B,C,s,s)."""
        (view,) = views
        assert view.target is not None
        assert view.meta is not None
        painted = ((self.paint(view) + 1) / 2 - self.mean) / self.std
        return torch.where(view.meta["hole"], painted, view.target)
