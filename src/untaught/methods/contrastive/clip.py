"""CLIP, contrastive language-image pretraining. Radford, Kim, Hallacy, Ramesh, Goh et al., ICML 2021. https://arxiv.org/abs/2103.00020

Views:  an image cropped at random, and a text of the same pair; of several captions, another one each epoch.
Heads:  a linear projection without bias of each encoder's vector to a shared space (figure 3).
Loss:   symmetric InfoNCE (figure 3): each image finds its text among the texts of the batch, and each text its image.
The scale of the cosines is exp of a parameter, which starts at 1/0.07 and is clamped after each step so that it is 100 at most
(section 2.5). The paper's batch is 32,768.
The settings are those of a ViT; the images of the paper are cropped at random without a change of scale.
A pair without image or without text has no loss and is no negative; BatchNorm of an encoder sees it as a blank input.
freeze=image is locked-image tuning (LiT; Zhai et al. 2022, https://arxiv.org/abs/2111.07991): the image encoder, which brings its
weights from an earlier run, stands still in eval mode, and the projections and the text encoder are trained.
What is exported are the encoders without projections; the projections lie beside them, for retrieval.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.info_nce import paired_info_nce
from untaught.ranges import Positive, Size, in_range

LARGEST = math.log(100)  # of the scale's logarithm


class CLIP(Method):
    views = ("image.light", "text.light")
    paper = {"optimizer": "adamw", "lr": 5e-4, "betas": (0.9, 0.98), "weight_decay": 0.2, "warmup": 0.005}
    reads = {"image": (0,), "text": (1,)}
    export_view = {"image": "image.whole", "text": "text.whole"}

    @in_range
    def __init__(
        self,
        image: Encoder,
        text: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.07,  # divides the cosines at the start; it is learned
        width: Size = 512,  # dimensions of the space that images and texts share
        freeze: Literal["image", "text"] | None = None,  # an encoder that stands still (LiT)
    ) -> None:
        super().__init__()
        self.image, self.text, self.frozen = image, text, freeze
        self.image_projection = nn.Linear(image.width, width, bias=False)
        self.text_projection = nn.Linear(text.width, width, bias=False)
        self.scale = nn.Parameter(torch.full((1,), min(-math.log(temperature), LARGEST)))  # its logarithm
        if freeze is not None:
            self.get_submodule(freeze).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> CLIP:
        super().train(mode)
        if self.frozen is not None:
            self.get_submodule(self.frozen).eval()
        return self

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        """-> (B,width) of images and of texts, the vector 0 where a pair lacks one."""
        pair = ((self.image, self.image_projection), (self.text, self.text_projection))
        return [_present(projection(encoder(view)), view) for (encoder, projection), view in zip(pair, views, strict=True)]

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        image, text = projected
        scale = self.scale.float().exp().squeeze(0)
        return {"info_nce": paired_info_nce(image, text, 1 / scale), "scale": scale.detach()}

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.scale.clamp_(max=LARGEST)

    def shared_space(self) -> dict[str, nn.Module]:
        return {"image": self.image_projection, "text": self.text_projection}


def _present(z: Tensor, view: View) -> Tensor:
    """z (B,D), 0 for samples of which the view's field is missing."""
    present = (view.meta or {}).get("present")
    return z if present is None else torch.where(present.unsqueeze(1), z, 0)
