"""Pictures of forecasts: what was seen, what came, and what was forecast."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SEEN, CAME, MADE, LINE = (110, 110, 110), (31, 119, 180), (214, 39, 40), (200, 200, 200)
WIDE, HIGH, MARGIN = 640, 110, 16  # pixels of one channel's panel, and room for its name
CHANNELS = 4  # panels at most
BEFORE = 3  # times the horizon: how much of the context is drawn


def plotted(past: np.ndarray, made: np.ndarray, truth: np.ndarray | None, names: Sequence[str]) -> Image.Image:
    """past (T,C), forecast and truth (H,C), NaN where missing -> panels of the first channels: the end of the context grey, the truth blue,
    the forecast red."""
    count, past = min(made.shape[1], CHANNELS), past[-BEFORE * len(made) :]
    image = Image.new("RGB", (WIDE, count * (HIGH + MARGIN)), "white")
    draw = ImageDraw.Draw(image)
    steps = len(past) + len(made)
    for channel in range(count):
        lines = [(past[:, channel], 0, SEEN), (made[:, channel], len(past), MADE)]
        lines += [] if truth is None else [(truth[:, channel], len(past), CAME)]
        known = np.concatenate([line[np.isfinite(line)] for line, _, _ in lines])
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        top = channel * (HIGH + MARGIN) + MARGIN
        at = (len(past) - 0.5) / max(steps - 1, 1) * (WIDE - 1)
        draw.line([(at, top), (at, top + HIGH)], fill=LINE)
        draw.text((4, top - MARGIN + 2), f"{names[channel][:40]}   {low:.4g} to {high:.4g}", fill=(60, 60, 60))
        for line, start, colour in lines:
            points = [
                ((start + i) / max(steps - 1, 1) * (WIDE - 1), top + (high - value) / max(high - low, 1e-12) * (HIGH - 1))
                for i, value in enumerate(line.tolist())
            ]
            for (x, y), (u, v) in itertools.pairwise(points):
                if np.isfinite(y) and np.isfinite(v):
                    draw.line([(x, y), (u, v)], fill=colour, width=2 if colour == MADE else 1)
    return image


def png(images: Sequence[Image.Image]) -> bytes:
    """The pictures one below the other."""
    joined = Image.new("RGB", (images[0].width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        joined.paste(image, (0, top))
        top += image.height
    written = io.BytesIO()
    joined.save(written, "PNG")
    return written.getvalue()
