"""An image of views: one row per sample, one column per view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from untaught.core import Batch
from untaught.pipeline.view_pipeline import Views

if TYPE_CHECKING:
    from PIL import Image

SIDE, GAP, HEAD = 96, 6, 18  # pixels: smallest tile, gap between tiles, header


def sheet(batch: Batch, whole: Views, views: Views) -> Image.Image:
    """The exported view of every encoder, then every training view, of each sample."""
    from PIL import Image, ImageDraw

    prep = views.prep
    render = prep.modality.render
    columns = [render(view, options, prep) for view, options in zip(whole(batch, 0), whole.options, strict=True)]
    columns += [render(view, options, prep) for view, options in zip(views(batch, 0), views.options, strict=True)]
    high = max(SIDE, *(column.shape[1] for column in columns))
    scale = high / columns[0].shape[1]
    scales = [min(scale, high / column.shape[1]) for column in columns]  # a text may be higher than the images beside it
    wide = max(high, *(round(own * column.shape[2]) for own, column in zip(scales, columns, strict=True)))
    image = Image.new("RGB", (len(columns) * (wide + GAP) + GAP, len(columns[0]) * (high + GAP) + GAP + HEAD), "white")
    draw = ImageDraw.Draw(image)
    for x, (name, column, own) in enumerate(zip((*whole.names, *views.names), columns, scales, strict=True)):
        draw.text((GAP + x * (wide + GAP), 4), name, fill="black")
        for y, pixels in enumerate(column):
            tile = Image.fromarray(pixels)
            tile = tile.resize((round(own * tile.width), round(own * tile.height)), Image.Resampling.NEAREST)
            image.paste(tile, (GAP + x * (wide + GAP), HEAD + GAP + y * (high + GAP)))
    return image
