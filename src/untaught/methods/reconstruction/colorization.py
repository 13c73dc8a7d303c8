"""Colorization. Zhang, Isola, Efros, ECCV 2016. https://arxiv.org/abs/1603.08511

Views:  the lightness of a crop as a grey image, and its colours a and b (of CIELAB) as the target.
Heads:  a convolutional head on the encoder's feature maps, which predicts a distribution over bins of the ab plane at a quarter of the
        view's resolution; discarded after training.
Loss:   cross-entropy with the true colour, soft-encoded by its 5 nearest bins with Gaussian weights of sigma 5 (section 2.1, equation
        2). Each pixel is weighted by the inverse of its bin's share: of the distribution of colours, smoothed by a Gaussian of sigma 5 and
        mixed half and half with the uniform one (section 2.2, equations 3 and 4).
Answer: the annealed mean of the distribution at a temperature of 0.38 (section 2.3, equation 5), upsampled bilinearly.
The distribution of colours is that of the training images so far, counted as they are seen; the paper's is ImageNet's, counted before.
Bins are the cells of a grid of 10 that contain a colour of sRGB: 261. The authors' list has 313, those and 52 around them.
Images without colours (all a and b within 5 of grey) have no loss, as in the authors' code, in which a colour has 10 nearest bins.
The true colour of a position is the mean of its pixels; in the authors' code, it is that of one of them.
Their network keeps all of its depth at an eighth of the resolution by dilation; here any encoder with maps is read, from a quarter of the
resolution downwards. Three equal channels are its input, in the paper one. The encoder is evaluated and exported for colour images.
Their learning rate drops in steps; here it follows the training loop's schedule.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.blocks.dense import DenseHead
from untaught.blocks.maps import map_shapes
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.colour_bins import annealed_mean, bins, has_colours, rebalancing, soft_encoded
from untaught.ops.gather import gather
from untaught.ranges import Few, Positive, Share, Size, in_range

EQUAL = 1e-9  # of channel statistics, in units of the full range


class Colorization(Method):
    views = ("lightness",)
    needs = frozenset({"maps"})
    answers = "coloured images"
    find_unused_parameters = True  # those of layers after the last map
    paper = {"optimizer": "adam", "lr": 3e-5, "betas": (0.9, 0.99), "weight_decay": 1e-3, "warmup": 0.0}
    centres: Tensor  # (Q,2), a and b
    counts: Tensor  # (Q,) int64, positions of each bin in the training images so far

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        neighbours: Few = 5,  # nearest bins that a colour is encoded by
        sigma: Positive = 5.0,  # of their Gaussian weights, and of the smoothed distribution of colours, in units of a and b
        uniform: Share = 0.5,  # share of the uniform distribution, with which that of colours is mixed; 1: all pixels weigh the same
        temperature: Positive = 0.38,  # of the annealed mean; 1: the mean, near 0: the mode
        stride: Few = 4,  # pixels per position of the prediction; that of the encoder's finest map with as many or more
        width: Size = 128,  # units of the head's hidden layer
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        if example.target is None or example.target.ndim != 4 or example.target.shape[1] != 2:
            raise UserError("colorization predicts the colours of grey images: it reads the view lightness, of images")
        spread = [max(values) - min(values) for key in ("mean", "std") if (values := facts.statistics.get(key))]
        if spread and max(spread) < EQUAL:
            raise UserError("the images are all grey (their three channels are equal): there are no colours to predict; give colour images")
        if neighbours > len(bins()):
            raise UserError(f"neighbours={neighbours}: there are {len(bins())} bins of colours; choose as many at most")
        self.encoder = encoder
        self.neighbours, self.sigma, self.uniform, self.temperature = neighbours, sigma, uniform, temperature
        self.register_buffer("centres", bins().clone(), persistent=False)
        self.register_buffer("counts", torch.zeros(len(self.centres), dtype=torch.long))
        self.head = DenseHead(map_shapes(encoder, example), example.x.shape[-1], stride, width, len(self.centres))

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        logits = self.score(view).float()
        return {"cross_entropy": self.cross_entropy(logits, view.target)}

    def score(self, view: View) -> Tensor:
        """-> the logits of the bins (B,Q,h,w)."""
        maps = self.encoder.features(view, want=("maps",)).maps
        assert maps is not None
        return self.head(maps)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B,Q,h,w), target (B,2,H,W) -> a scalar: the weighted mean over all positions, of which those of grey images are 0."""
        ab = F.adaptive_avg_pool2d(target, (logits.shape[2], logits.shape[3])).permute(0, 2, 3, 1)
        index, share = soft_encoded(ab, self.centres, self.neighbours, self.sigma)  # (B,h,w,K)
        nearest = index[..., 0]
        coloured = has_colours(target).view(-1, 1, 1).expand_as(nearest)
        found = torch.zeros_like(self.counts).scatter_add_(0, nearest.flatten(), coloured.flatten().long())
        self.pending.append(gather(found.unsqueeze(0)).sum(0))
        weight = rebalancing(self.counts, self.centres, self.sigma, self.uniform)[nearest] * coloured
        chances = logits.log_softmax(1).permute(0, 2, 3, 1).gather(3, index)
        return -(weight * (share * chances).sum(3)).mean()

    def after_step(self, progress: float) -> None:
        self.counts += torch.stack(self.pending).sum(0)

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> a and b (B,2,H,W)."""
        (view,) = views
        colours = annealed_mean(self.score(view), self.centres, self.temperature)
        return F.interpolate(colours, view.x.shape[-2:], mode="bilinear", align_corners=False)
