"""Parts of a sample, or corrupted samples, through one encoder, which is exported for whole samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from untaught.blocks.maps import read
from untaught.core import Encoder, UserError, View

SEEN = 3  # a third of a batch is enough for the statistics of whole samples; all of it would take longer than a pair of patches itself


class PartEncoding(nn.Module):
    """Encodes parts with BatchNorm statistics of their own: the encoder's stay those of whole samples.

    Maps of a tile have other statistics than maps of an image, of which a smaller share lies next to the padding. With those of tiles, the
    exported encoder would normalise images wrongly; with those of images, the evaluation of the pretext task would normalise tiles wrongly.
    The encoder is not a part of this module.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        norms = {name: part for name, part in encoder.named_modules() if isinstance(part, _BatchNorm) and part.track_running_stats}
        self.names = list(norms)
        self.norms = nn.ModuleList(nn.BatchNorm1d(norm.num_features, affine=False) for norm in norms.values())
        for own, norm in zip(self.norms, norms.values(), strict=True):
            own.load_state_dict({key: value for key, value in norm.state_dict().items() if key not in ("weight", "bias")})

    def forward(self, encoder: Encoder, view: View, whole: View) -> Tensor:
        """A view with T parts per sample -> their vectors (B,T,D). In training, `whole` updates the encoder's own statistics."""
        return self._called(encoder, "", view.apart(), encoder, whole).unflatten(0, (len(view), -1))

    def read(self, encoder: Encoder, view: View, whole: View, grid: tuple[int, int] | None) -> Tensor:
        """A corrupted view -> the encoder's last map (B,D,h,w), or its vectors (B,D) without a grid. `whole`, the same samples as they are,
        updates the encoder's own statistics in training."""
        return self._called(_Read(encoder, grid), "encoder.", view, encoder, whole)

    def _called(self, reader: nn.Module, prefix: str, view: View, encoder: Encoder, whole: View) -> Tensor:
        norms = zip(self.names, self.norms, strict=True)
        buffers = {f"{prefix}{name}.{key}": value for name, own in norms for key, value in own.named_buffers()}
        found = functional_call(reader, buffers, (view,))
        if buffers and self.training:
            with torch.no_grad():
                encoder(whole[: -(-len(whole) // SEEN)])
        return found


class _Read(nn.Module):
    def __init__(self, encoder: Encoder, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.encoder, self.grid = encoder, grid

    def forward(self, view: View) -> Tensor:
        return read(self.encoder, view, self.grid)


def check_parts(view: View, method: str, reads: str, count: int | None = None) -> Tensor:
    """The view's target (B,...,K), one-hot. Raises UserError unless it is a view of (so many) parts per sample with a target."""
    if view.parts is None or view.target is None or (count is not None and view.parts.shape[1] != count):
        raise UserError(f"{method} reads several parts of each sample, with what to predict: a view such as {reads}, of images")
    return view.target


def check_tiles(encoder: Encoder, view: View, name: str) -> None:
    """Raises UserError for tiles smaller than the encoder's stride (a ViT's patch). name: of the view, for the message."""
    side, stride = view.x.shape[-1], getattr(encoder, "patch", 0) or encoder.stride
    if side < stride:
        raise UserError(
            f"tiles of {side} x {side} pixels are smaller than the encoder's stride of {stride}; "
            f"choose {name}.tile={stride} or more, or an encoder with a smaller stride"
        )
