"""Encoders of images on sequences: a window of steps, such as a log-mel spectrogram, is an image with one channel.

A window has a fixed number of steps, so any network of images can read it. A sequence begins again at its start where it ends, until the
window is full; a longer one is read in several windows, whose vectors are averaged. Windows depend on valid steps alone, so that padding
changes nothing, whatever the network's norms and poolings do; in training, windows without valid steps of their own are left out of
BatchNorm's statistics too. transformers' ClapFeatureExtractor with padding="repeat" fills short recordings in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.core import Encoder, Features, UserError, View


class SequenceWindows(Encoder):
    """x (B,T,C), valid (B,T) -> (B,D), the mean over its windows of what `inner` makes of images (1, steps, C); any length T."""

    offers = frozenset({"any_size"})

    def __init__(self, inner: Encoder, steps: int) -> None:
        super().__init__()
        self.inner, self.steps, self.width = inner, steps, inner.width
        self.stride = steps
        self.note = getattr(inner, "note", "")

    @property
    def origin(self) -> dict | None:
        return getattr(self.inner, "origin", None)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        x = view.x
        if not isinstance(x, Tensor) or x.ndim != 3:
            raise UserError(f"the encoder takes sequences (B,T,C), not {view.shapes}; leave out encoder.length")
        count = x.new_full(x.shape[:1], x.shape[1], dtype=torch.long) if view.valid is None else view.valid.sum(1).clamp(min=1)
        windows = (x.shape[1] + self.steps - 1) // self.steps
        at = torch.arange(windows * self.steps, device=x.device) % count.unsqueeze(1)
        images = x.gather(1, at.unsqueeze(2).expand(-1, -1, x.shape[2])).reshape(-1, 1, self.steps, x.shape[2])
        own = torch.arange(windows, device=x.device) * self.steps < count.unsqueeze(1)  # (B,windows): those that begin within it
        if self.training:
            vectors = x.new_zeros(len(images), self.width)
            found = self.inner(View(images[own.flatten()]))
            vectors = vectors.to(found.dtype).index_put((own.flatten().nonzero().squeeze(1),), found)
        else:  # a fixed shape, for tracers
            vectors = self.inner(View(images))
        vectors = vectors.reshape(x.shape[0], -1, self.width)
        share = own.to(vectors.dtype)
        return Features(pooled=(vectors * share.unsqueeze(2)).sum(1) / share.sum(1, keepdim=True))
