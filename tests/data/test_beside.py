"""Masks beside images: which files belong together, in folders, archives and tables, and what is refused."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from untaught.core import Preprocessor, UserError
from untaught.data.sources import Source, open_source
from untaught.data.store import pack
from untaught.downstream.segment import Segment
from untaught.modalities.image import IMAGE

IMAGES = Preprocessor(IMAGE, {"side": 8, "channels": 1, "bits": 8})
READING = Segment.reading(IMAGES)


def image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12), value, np.uint8)).save(path)


def pairs(data: Any, **how: Any) -> dict[str, tuple[int, int]]:
    """name -> the values of image and mask; of each part after the other."""
    found = {}
    for part in open_source(data, READING.modality, **how).parts.values():
        for record in part:
            arrays = READING.decode(record)
            found[Path(record["name"]).name] = int(arrays["pixels"][0, 0, 0]), int(arrays["target.mask"][0, 0])
    return found


@pytest.mark.parametrize("form", ["{0}.png {0}_mask.png", "images/{0}.png masks/{0}.png", "train/imgs/{0}.png train/labels/{0}.png"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_mask_is_found_by_its_ending_or_its_folder(form: str, packed: bool, tmp_path: Path) -> None:
    own, mask = form.split()
    for number in range(4):
        image(tmp_path / "data" / own.format(f"x{number}"), 100 + number)
        image(tmp_path / "data" / mask.format(f"x{number}"), number)
    data = tmp_path / "data"
    if packed:
        data = tmp_path / "data.tar"
        with tarfile.open(data, "w") as archive:
            archive.add(tmp_path / "data", ".")
    assert pairs(data) == {f"x{number}.png": (100 + number, number) for number in range(4)}
    assert "each with its mask (" in open_source(data, READING.modality).what


@pytest.mark.parametrize("archive", ["", "zip", "tar"])
def test_a_mask_that_changes_is_other_data(archive: str, tmp_path: Path) -> None:
    """Else the masks of an earlier run would be learned from, out of its store."""
    data = tmp_path / "data"
    for number in range(3):
        image(data / f"x{number}.png", 100 + number)
        image(data / f"x{number}_mask.png", number)

    def opened() -> Source:
        return open_source(shutil.make_archive(str(data), archive, data) if archive else data, READING.modality)

    def masks() -> list[int]:
        return sorted(int(row[0, 0]) for row in pack(opened(), READING).columns["target.mask"])

    sources = [opened(), opened()]
    assert masks() == [0, 1, 2]
    times = (data / "x1_mask.png").stat()
    image(data / "x1_mask.png", 77)
    os.utime(data / "x1_mask.png", ns=(times.st_atime_ns, times.st_mtime_ns + 2 * 10**9))
    sources.append(opened())
    assert masks() == [0, 2, 77]
    image(data / "x1.png", 99)
    os.utime(data / "x1.png", ns=(times.st_atime_ns, times.st_mtime_ns + 4 * 10**9))
    sources.append(opened())
    found = [source.fingerprint for source in sources]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_an_ending_or_a_folder_is_told(tmp_path: Path) -> None:
    for number in range(2):
        image(tmp_path / "a" / f"x{number}.png", 9)
        image(tmp_path / "a" / f"x{number}-truth.png", 1)
        image(tmp_path / "b" / "shots" / f"x{number}.png", 9)
        image(tmp_path / "b" / "truth" / f"x{number}.png", 1)
    for folder, told in (("a", "-truth"), ("b", "truth")):
        if folder == "a":
            with pytest.raises(UserError, match=r"none of 4 images .* has a mask; .* give --label SUFFIX or --label FOLDER"):
                open_source(tmp_path / folder, READING.modality)
        found = pairs(tmp_path / folder, columns={"mask": told}) if folder == "a" else {}
        assert set(found.values()) <= {(9, 1)}
    assert len(pairs(tmp_path / "a", columns={"mask": "-truth"})) == 2


def test_files_without_a_mate_are_named(tmp_path: Path) -> None:
    for name in ("a", "a_mask", "b", "c_mask"):
        image(tmp_path / f"{name}.png", 1)
    source = open_source(tmp_path, READING.modality)
    assert source.rows == 1
    assert source.skipped == [("b.png", "has no mask"), ("c_mask.png", "is a mask without a record")]
    image(tmp_path / "a_seg.png", 1)
    with pytest.raises(UserError, match="are both the mask of a; keep one, or choose with --label"):
        open_source(tmp_path, READING.modality)


def test_new_data_leave_the_masks_out(tmp_path: Path) -> None:
    for name in ("a", "a_mask", "b"):
        image(tmp_path / f"{name}.png", 1)
    source = open_source(tmp_path, Segment.reading(IMAGES, labelled=False).modality)
    assert [record["name"] for part in source.parts.values() for record in part] == ["a.png", "b.png"]


def test_a_table_lists_masks(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 7)
    image(tmp_path / "m.png", 3)
    (tmp_path / "list.csv").write_text("file,mask\na.png,m.png\n")
    assert pairs(tmp_path / "list.csv", columns={"image": "file"}) == {"a.png": (7, 3)}


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((12, 8), np.uint8), "its mask is 8 x 12, which is not the image's aspect ratio"),
        (np.dstack([np.zeros((8, 12), np.uint8)] * 2 + [np.ones((8, 12), np.uint8)]), "its mask is coloured"),
        (np.full((8, 12), 300, np.int32), "its mask is int32 with values up to 300"),
    ],
)
def test_what_is_no_mask_is_said(mask: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        READING.decode({"image": np.zeros((8, 12), np.uint8), "mask": mask})


def test_a_palette_holds_numbers_not_colours() -> None:
    mask = Image.fromarray(np.array([[0, 2]] * 2, np.uint8), "P")
    mask.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    prep = replace(READING, settings=IMAGES.settings | {"side": 2})
    arrays = prep.decode({"image": np.zeros((2, 2), np.uint8), "mask": mask})
    assert arrays["target.mask"].tolist() == [[0, 2], [0, 2]]
    assert arrays["target.size"].tolist() == [2, 2]
