"""CPC, contrastive predictive coding. van den Oord, Li, Vinyals 2018. https://arxiv.org/abs/1807.03748
on images as in the pseudo-code of Henaff et al., ICML 2020, https://arxiv.org/abs/1905.09272

On images:
Views:  one light crop and flip, cut into a 7 x 7 grid of patches that overlap by half, as in the papers (3 x 3 for views smaller than
        64 pixels); the encoder sees each patch alone.
Heads:  a context network of five residual convolutional blocks (1x1, 1x3, 2x1 upwards, 1x1, with ReLU), whose output at a position
        depends on its row and the rows above; one linear prediction per row distance; a linear target projection of the patch
        vectors to 64. All are discarded after training. The context network's hidden layers have a quarter of the encoder's width
        (the pseudo-code: 256).
Loss:   InfoNCE (equation 4): the prediction for a patch some rows below, times 0.1, is scored against that patch (positive) and all
        other patches of its image and of its group (negatives), averaged over distances, positions and the batch.
Up to five rows below are predicted, as in the first paper (the pseudo-code: only the third). Groups have 16 images or slightly
more, because the number of comparisons grows quadratically.
Differs from the papers: views are not converted to grey and patches are not augmented individually (light.grey=1 converts all
views). Their encoders have no BatchNorm (the second paper: LayerNorm), since it leaks information between patches; here the encoder
keeps its own.
Optimizer and learning rate are the first paper's; the rate is constant there.
The exported encoder maps a full image to one vector, where the papers average patch vectors. BatchNorm's running statistics are
therefore taken from full views, in a pass without gradient.
On sequences (sound, series, text; section 3.1 of the first paper) the encoder must be causal, as patch_causal is: its output at a token
is the context, from which one linear layer per distance predicts a linear target projection of the tokens up to `rows` later; negatives
are the other tokens of the sequence and of its group. Differs from the paper: the context is the encoder's own, a transformer's, which is
exported; there a GRU's over strided convolutions, of which 12 steps are predicted.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.contrastive import later_info_nce, patch_info_nce
from untaught.ranges import Few, Size, Within, in_range

BLOCKS, SCALE = 5, 0.1
SMALL = 64  # side of a view below which there are fewer patches


class ContextNetwork(nn.Module):
    """x (B,D,h,w) -> (B,D,h,w); each output row depends on the same row of x and the rows above."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(width, hidden, 1), nn.ReLU(inplace=True)),
                *(nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)), nn.ZeroPad2d((0, 0, 1, 0))),
                *(nn.Conv2d(hidden, hidden, (2, 1)), nn.ReLU(inplace=True)),
                nn.Conv2d(hidden, width, 1),
            )
            for _ in range(BLOCKS)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return F.relu(x)


class CPC(Method):
    views = ("light",)
    paper = {"optimizer": "adam", "lr": 2e-4, "weight_decay": 0.0}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        grid: Annotated[int, Within(2, 64)] | None = None,  # patches along a side; 7, or 3 for views smaller than 64 pixels, if none
        rows: Few = 5,  # how many rows below (of sequences: tokens ahead) are predicted, at most
        group: Size = 16,  # samples (or slightly more) whose patches are each other's negatives
        hidden: Size | None = None,  # units of the context network's hidden layers; a quarter of the encoder's width if none
        width: Size = 64,  # dimensions in which patches are compared
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        self.encoder, self.group, self.grid = encoder, group, None
        if example.x.ndim != 4:
            if not {"tokens", "causal"} <= encoder.offers:
                offered = ", ".join(sorted(encoder.offers)) or "pooled vectors only"
                raise UserError(
                    f"CPC on sequences needs an encoder that offers tokens and causal; {type(encoder).__name__} offers {offered}; "
                    "give --encoder patch_causal, of texts gpt"
                )
            self.predictions = nn.ModuleList(nn.Linear(encoder.width, width) for _ in range(rows))
            self.target = nn.Linear(encoder.width, width)
            return
        grid = (7 if example.x.shape[-1] >= SMALL else 3) if grid is None else grid
        hidden = max(1, encoder.width // 4) if hidden is None else hidden
        self.stride = patch_stride(example, grid, encoder)
        self.context = ContextNetwork(encoder.width, hidden)
        self.predictions = nn.ModuleList(nn.Conv2d(encoder.width, width, 1) for _ in range(min(rows, grid - 1)))
        self.target = nn.Conv2d(encoder.width, width, 1)
        self.grid = grid

    def forward(self, views: list[View], progress: float) -> Terms:
        if self.grid is None:
            return {"info_nce": self.ahead(views[0])}
        vectors = self.encode(views[0]).unflatten(0, (-1, self.grid, self.grid)).permute(0, 3, 1, 2)
        context, target = self.context(vectors), self.target(vectors)
        losses = [patch_info_nce(p(context), target, below, self.group, SCALE) for below, p in enumerate(self.predictions, 1)]
        return {"info_nce": torch.stack(losses).mean()}

    def ahead(self, view: View) -> Tensor:
        """The loss of a sequence."""
        tokens, valid = self.encoder.embed(view)
        context, target = self.encoder.context(tokens, valid, causal=True).tokens, self.target(tokens)
        assert context is not None
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if valid is None else valid
        losses = [later_info_nce(p(context), target, valid, step, self.group, SCALE) for step, p in enumerate(self.predictions, 1)]
        return torch.stack(losses).mean()

    def encode(self, view: View) -> Tensor:
        """-> (B*h*w, D), the patch vectors. BatchNorm's running statistics are taken from the full view."""
        norms = [(m, m.momentum) for m in self.encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm, _ in norms:
            norm.momentum = 0.0
        vectors = self.encoder(View(cut(view.x, self.stride)))
        for norm, momentum in norms:
            norm.momentum = momentum
        if norms and self.training:
            with torch.no_grad():
                self.encoder(view)
        return vectors


def cut(x: Tensor, stride: int) -> Tensor:
    """x (B,C,H,W) -> patches (B*h*w, C, 2 stride, 2 stride) that overlap by half, in row-major order."""
    patches = x.unfold(2, 2 * stride, stride).unfold(3, 2 * stride, stride)  # (B,C,h,w,s,s)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return patches.contiguous(memory_format=torch.channels_last) if x.is_contiguous(memory_format=torch.channels_last) else patches


def patch_stride(example: View, grid: int, encoder: Encoder) -> int:
    """The stride between patches, half their side. Raises UserError if the view can't be cut this way or the encoder can't take a patch."""
    size = example.x.shape[-1]
    stride, rest = divmod(size, grid + 1)
    if rest or not stride:
        raise UserError(
            f"grid={grid}: a view of {size} pixels can't be cut into {grid} half-overlapping patches; "
            f"give a size that is a multiple of {grid + 1}, or another grid"
        )
    training = encoder.training
    try:
        with torch.no_grad():
            encoder.eval()(View(cut(example.x, stride)))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"the encoder can't take {2 * stride} x {2 * stride} patches (a {grid} x {grid} grid of the {size} x {size} view); "
            "use an encoder that takes more than one size (conv_small, vit_mini, timm's convolutional networks or vit_*), or another grid"
        ) from error
    finally:
        encoder.train(training)
    return stride
