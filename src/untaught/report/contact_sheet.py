"""Images in rows and columns: the views of samples, answers to a pretext task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from untaught.core import Batch
from untaught.pipeline.view_pipeline import Views

if TYPE_CHECKING:
    from PIL import Image

SIDE, GAP, HEAD = 96, 6, 18  # pixels: smallest tile, gap between tiles, header


def sheet(batch: Batch, whole: Views, views: Views) -> Image.Image:
    """One row per sample: the exported view of every encoder, then every training view, each followed by its target if it can be drawn."""
    prep = views.prep
    columns, names = [], []
    for made in (whole, views):
        for name, view, options in zip(made.names, made(batch, 0), made.options, strict=True):
            names.append(name)
            columns.append(prep.modality.render(view, options, prep))
            if view.target is not None and (pretext := prep.modality.pretexts.get(name)):
                names.append("target")
                columns.append(pretext.render(view, options, prep))
    return in_columns(columns, names)


def in_columns(columns: Sequence[np.ndarray], names: Sequence[str] = ()) -> Image.Image:
    """Columns of images, (B,H,W,3) uint8 each, under their names; no header without names."""
    from PIL import Image, ImageDraw

    head = HEAD if names else 0
    high = max(SIDE, *(column.shape[1] for column in columns))
    scale = high / columns[0].shape[1]
    scales = [min(scale, high / column.shape[1]) for column in columns]  # a text may be higher than the images beside it
    wide = max(high, *(round(own * column.shape[2]) for own, column in zip(scales, columns, strict=True)))
    rows = max(map(len, columns))
    image = Image.new("RGB", (len(columns) * (wide + GAP) + GAP, rows * (high + GAP) + GAP + head), "white")
    draw = ImageDraw.Draw(image)
    for x, name in enumerate(names):
        draw.text((GAP + x * (wide + GAP), 4), name, fill="black")
    for x, (column, own) in enumerate(zip(columns, scales, strict=True)):
        for y, pixels in enumerate(column):
            tile = Image.fromarray(pixels)
            tile = tile.resize((round(own * tile.width), round(own * tile.height)), Image.Resampling.NEAREST)
            image.paste(tile, (GAP + x * (wide + GAP), head + GAP + y * (high + GAP)))
    return image
