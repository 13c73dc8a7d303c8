"""RotNet, predicting image rotations. Gidaris, Singh, Komodakis, ICLR 2018. https://arxiv.org/abs/1803.07728

Views:  one augmented image, turned by 0, 90, 180 and 270 degrees; all four are in the batch (section 3.1: this works better than
        one rotation drawn at random).
Heads:  a linear classifier of the rotation, discarded after training.
Loss:   the mean cross-entropy over the four rotations (equations 2 and 3). The accuracy is logged; guessing reaches 25%.
Rotations move pixels without resampling (section 2.2), so no trace of an interpolation gives them away. Crops and flips are those of
the authors' code: random resized crops for photographs, shifts by up to 4 of 32 pixels for small images; where theirs pads with black,
ours reflects, and shifts by fractions of a pixel. Their learning rate, 0.1 for batches of 128 images, drops in steps; here it follows
the training loop's schedule.
In the paper, the features come from an inner block (the second of four in table 1); here the pooled vectors are used and exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.parts import check_parts
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.classification import classified
from untaught.ranges import in_range


class Rotation(Method):
    views = ("rotations",)
    answers = "images turned upright"
    paper = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "warmup": 0.0}

    @in_range
    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        classes = check_parts(next(iter(facts.views.values())), "rotation", "rotations").shape[-1]
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.width, classes)
        self.chance = 1 / classes

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        return classified(self.score(view), view.target)

    def score(self, view: View) -> Tensor:
        """-> the logits of each part's rotation (B,T,4)."""
        return self.classifier(self.encoder(view.apart()).unflatten(0, (len(view), -1)))

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the probability of each part's rotation (B,T,4)."""
        return self.score(views[0]).float().softmax(2)
