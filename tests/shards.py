"""Digits as webdataset shards."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_digits


def write_shards(folder: Path, each: int = 120) -> Path:
    """600 digits in five tars, nine steps of 64: a run of 24 steps passes through them three times."""
    digits: Any = load_digits()
    for shard in range(5):
        with tarfile.open(folder / f"digits-{shard}.tar", "w") as archive:
            for i in range(each * shard, each * (shard + 1)):
                content = io.BytesIO()
                Image.fromarray((digits.images[i] * 15).astype("uint8")).save(content, "png")
                member = tarfile.TarInfo(f"{i:04}.png")
                member.size = content.tell()
                content.seek(0)
                archive.addfile(member, content)
    return folder
