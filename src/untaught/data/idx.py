"""Arrays in the IDX format of MNIST and its relatives: `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` ..., also `.gz`.

Two zero bytes, a byte for the type, a byte for the number of axes, the length of each axis as a big-endian integer of 4 bytes, the values.
https://github.com/cvdfoundation/mnist
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from untaught.core import Modality, UserError
from untaught.data import arrays
from untaught.data.identity import file_facts
from untaught.data.parts import Choice, Source

NAME = re.compile(r"(.*?)[-_.](images|labels)[-_.]idx\d-u?byte(?:\.gz)?", re.IGNORECASE)
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
PARTS = {"t10k": "test"}
BLOCK = 1 << 24


def is_idx(path: Path) -> bool:
    """By its name."""
    return NAME.fullmatch(path.name) is not None


def open_idx(paths: list[Path], modality: Modality, choice: Choice, where: str) -> Source:
    """Files of images and of labels, one part of the data each; a packed one beside itself unpacked is left out.

    Raises UserError.
    """
    found: dict[str, np.ndarray] = {}
    paths = [path for path in paths if not (path.suffix.lower() == ".gz" and path.with_suffix("") in paths)]
    for path in paths:
        matched = NAME.fullmatch(path.name)
        assert matched is not None
        part, kind = matched[1].lower(), matched[2].lower()
        key = f"{PARTS.get(part, part)}_{kind}"
        if key in found:
            raise UserError(f"{where} has more than one file of {kind} of {part}, e.g. {path.name}; keep one")
        array = read(path)
        found[key] = array[..., None] if kind == "images" and array.ndim == 3 else array  # grey, without doubt
    return arrays.open_arrays(found, modality, choice, where=where, facts=[file_facts(path) for path in paths])


def read(path: Path) -> np.ndarray:
    """The array in one file. Raises UserError if it is damaged."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            zeros, code, axes = file.read(2), file.read(1), file.read(1)
            if zeros != b"\0\0" or not code or code[0] not in TYPES or not axes or not axes[0]:
                raise ValueError("it does not begin as an IDX file")
            shape = np.frombuffer(_exactly(file, 4 * axes[0]), ">u4").tolist()
            kind = np.dtype(TYPES[code[0]])
            values = np.frombuffer(_exactly(file, math.prod(shape) * kind.itemsize), kind)
            if file.read(1):
                raise ValueError("it has more values than its header says")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read as IDX ({error}); download it again") from error
    return values.reshape(shape).astype(kind.newbyteorder("="), copy=False)


def _exactly(file: gzip.GzipFile | IO[bytes], size: int) -> bytes:
    """Reads block by block: a damaged header may ask for more than there is."""
    blocks: list[bytes] = []
    while size:
        block = file.read(min(size, BLOCK))
        if not block:
            raise ValueError("it ends too early")
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)
