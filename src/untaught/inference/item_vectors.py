"""The vectors of the items (or words) that an encoder knows: the rows of its vocabulary head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from untaught.core import UserError, View
from untaught.inference.embed import Embedded
from untaught.pipeline.pretrained import Pretrained

ROWS = 4096  # at once


class ItemVectors:
    """Yields the number, name and vector of every item, special ones left out. Raises UserError for an encoder without a vocabulary."""

    def __init__(self, model: Pretrained) -> None:
        self.encoder, self.prep = model.network, model.prep
        if "words" not in self.encoder.offers or self.prep.modality.captions is None:
            raise UserError(f"{model.config['encoder']} has no vocabulary of items; leave out --items, or give a run on events")

    def __iter__(self) -> Iterator[Embedded]:
        captions = self.prep.modality.captions
        assert captions is not None
        special = {number for number in self.prep.statistics["special"].values() if number is not None}
        with torch.no_grad():
            _, weight, _ = self.encoder.words().parts(torch.zeros(1, self.encoder.width))
        numbers = np.array([number for number in range(len(weight)) if number not in special])
        for start in range(0, len(numbers), ROWS):
            own = numbers[start : start + ROWS]
            names = captions(View(torch.from_numpy(own)[:, None]), self.prep)
            yield Embedded(own, names, weight.detach()[own].float().cpu().numpy())
