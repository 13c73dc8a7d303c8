"""An image of views: a row a sample, a column a view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from untaught.core import Batch
from untaught.pipeline.view_pipeline import Views

if TYPE_CHECKING:
    from PIL import Image

SIDE, GAP, HEAD = 96, 6, 18  # pixels: the smallest tile, between tiles, above them


def sheet(batch: Batch, whole: Views, views: Views) -> Image.Image:
    """The whole view of every sample, then every view that the method reads."""
    from PIL import Image, ImageDraw

    kind, statistics = views.modality, views.statistics
    columns = [kind.render(view, options, statistics) for view, options in zip(whole(batch, 0), whole.options, strict=True)]
    columns += [kind.render(view, options, statistics) for view, options in zip(views(batch, 0), views.options, strict=True)]
    high = max(SIDE, *(column.shape[1] for column in columns))
    scale = high / columns[0].shape[1]
    wide = max(high, round(scale * columns[0].shape[2]))
    image = Image.new("RGB", (len(columns) * (wide + GAP) + GAP, len(columns[0]) * (high + GAP) + GAP + HEAD), "white")
    draw = ImageDraw.Draw(image)
    for x, (name, column) in enumerate(zip((*whole.names, *views.names), columns, strict=True)):
        draw.text((GAP + x * (wide + GAP), 4), name, fill="black")
        for y, pixels in enumerate(column):
            tile = Image.fromarray(pixels)
            tile = tile.resize((round(scale * tile.width), round(scale * tile.height)), Image.Resampling.NEAREST)
            image.paste(tile, (GAP + x * (wide + GAP), HEAD + GAP + y * (high + GAP)))
    return image
