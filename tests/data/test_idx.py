"""MNIST's own format, written here byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from untaught.core import UserError
from untaught.data.idx import read
from untaught.data.sources import open_source
from untaught.modalities.image import IMAGE

CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def packed(array: np.ndarray) -> bytes:
    head = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """12 training images and 5 for testing, sample i of grey level i and of class i % 3; one part packed."""
    for part, count in (("train", 12), ("t10k", 5)):
        numbers = np.arange(count, dtype=np.uint8)
        images = packed(np.broadcast_to(numbers[:, None, None], (count, 6, 4)).copy())
        if part == "train":
            (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
        else:
            (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(packed(numbers % 3))
    return tmp_path


def test_a_folder_of_images_and_labels(mnist: Path) -> None:
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(b"as torchvision leaves it, beside the unpacked one")
    source = open_source(mnist, IMAGE)
    assert {part: rows.rows for part, rows in source.parts.items()} == {"train": 12, "test": 5}
    assert source.classes == ("0", "1", "2")
    for part in source.parts.values():
        for number, record in enumerate(part):
            assert record["image"].shape == (6, 4, 1)
            assert (record["image"] == number).all()
            assert record["label"] == number % 3


def test_one_file(mnist: Path) -> None:
    (part,) = open_source(mnist / "train-images-idx3-ubyte", IMAGE).parts.values()
    assert [int(record["image"][0, 0, 0]) for record in part] == list(range(12))


@pytest.mark.parametrize("kind", CODES)
def test_every_type_of_numbers(tmp_path: Path, kind: str) -> None:
    array = np.arange(-60, 60).reshape(5, 4, 6).astype(kind)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(packed(array))
    found = read(tmp_path / "train-images-idx3-ubyte")
    assert found.dtype == array.dtype
    assert (found == array).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not begin as an IDX file"),
        (b"\x89PNG", "does not begin as an IDX file"),
        (packed(np.zeros((3, 4, 4), np.uint8))[:-1], "ends too early"),
        (packed(np.zeros((3, 4, 4), np.uint8)) + b"\0", "more values than its header says"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "ends too early"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte cannot be read as IDX .*{said}"):
        open_source(tmp_path, IMAGE)
    packed_path = tmp_path / "x" / "train-images-idx3-ubyte.gz"
    packed_path.parent.mkdir()
    packed_path.write_bytes(gzip.compress(content)[:-9] if content else content)
    with pytest.raises(UserError, match="cannot be read as IDX"):
        read(packed_path)


def test_two_files_of_one_part_are_refused(mnist: Path) -> None:
    (mnist / "more").mkdir()
    (mnist / "more" / "train-images-idx3-ubyte").write_bytes((mnist / "train-images-idx3-ubyte").read_bytes())
    with pytest.raises(UserError, match="more than one file of images of train"):
        open_source(mnist, IMAGE)
