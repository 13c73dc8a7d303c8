"""Rendering views as text."""

from __future__ import annotations

import numpy as np

from untaught.core import Options, Preprocessor, View
from untaught.modalities.tokenizer import tokenizer_of


def render(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A view -> (B,H,W,3) uint8: its text without special tokens and padding, masked tokens as blanks."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    wide, high, line = 320, 128, 16
    pages = []
    for text in captions(view, prep):
        page = Image.new("RGB", (wide, high), "white")
        pen = ImageDraw.Draw(page)
        x = y = 4
        words = (word[i : i + 40] for word in text[:1000].split() for i in range(0, len(word), 40))  # fills a page; breaks long words
        for word in words:
            length = int(pen.textlength(word + " ", font=font))
            if x + length > wide - 4 and x > 4:
                x, y = 4, y + line
            if y + line > high:
                break
            masked = "■" in word
            pen.text((x, y), word.replace("■", "__"), fill="firebrick" if masked else "black", font=font)
            x += length
        pages.append(np.asarray(page))
    return np.stack(pages)


def captions(view: View, prep: Preprocessor) -> list[str]:
    """The text of each sample of a view, a black square for every masked token."""
    tokenizer, special = tokenizer_of(prep), prep.statistics["special"]
    result = []
    for i, ids in enumerate(view.x.cpu()):
        if view.valid is not None:
            ids = ids[view.valid[i].cpu()]
        parts: list[str] = []
        run: list[int] = []
        for number in [*ids.tolist(), special.get("mask")]:
            if number == special.get("mask"):
                parts += [tokenizer.decode(run, skip_special_tokens=True)] if run else []
                parts.append("■")
                run = []
            else:
                run.append(number)
        result.append(" ".join(part.strip() for part in parts[:-1]).strip())
    return result
