"""Records of several fields: where pairs come from, several captions of an image, and fields that are missing."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import encoded, picture, write_pictures

from untaught.core import Modality, Preprocessor, Record, UserError
from untaught.data.decoding import decode
from untaught.data.sources import open_source


def decode_pair(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    return {"image": np.array(record["image"] is not None), "text": np.array(record["text"] is not None)}


PAIRS = Modality(
    name="pairs",
    noun="pairs",
    fields={"image": ("img", "file_name"), "text": ("caption", "captions", "txt")},
    decode=decode_pair,
    views={},
    encoder_for=lambda settings, needs: "",
    suffixes=frozenset([".png", ".jpg"]),
    optional=frozenset(["image", "text"]),
    several=frozenset(["text"]),
    beside={"text": (".txt",)},
)


def texts(data: Any, modality: Modality = PAIRS, **how: Any) -> dict[str, Any]:
    """What is in the field "text" by the name of a record's file."""
    source = open_source(data, modality, **how)
    found = {}
    for part in source.parts.values():
        records = list(part)
        assert part.rows == len(records)
        for record in records:
            value = record["text"]
            value = value.read_text() if isinstance(value, Path) else value.decode() if isinstance(value, bytes) else value
            found[Path(record["name"]).name] = value.tolist() if isinstance(value, np.ndarray) else value
    return found


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with a text of the same name beside them, one without, and a text of no image."""
    root = write_pictures(tmp_path / "photos", ["a/0.png", "a/1.jpg", "2.png"])
    (root / "a/0.txt").write_text("a cat")
    (root / "a/1.txt").write_text("a dog")
    (root / "README.txt").write_text("read me")
    return root


def test_a_text_beside_an_image_of_its_name_is_its_text(folder: Path) -> None:
    assert texts(folder) == {"0.png": "a cat", "1.jpg": "a dog", "2.png": None}
    source = open_source(folder, PAIRS)
    assert source.skipped == [("README.txt", "is a text without a file of that name (.jpg .png)")]
    assert "3 pairs" in source.what
    assert "2 with a text" in source.what


def test_another_text_is_other_data(folder: Path) -> None:
    before = open_source(folder, PAIRS).fingerprint
    (folder / "a/0.txt").write_text("a lion")
    assert open_source(folder, PAIRS).fingerprint != before


@pytest.mark.parametrize("order", [1, -1])
def test_the_same_of_a_zip_in_any_order(folder: Path, tmp_path: Path, order: int) -> None:
    place = tmp_path / "photos.zip"
    with zipfile.ZipFile(place, "w") as archive:
        for path in sorted(folder.rglob("*.*"))[::order]:
            archive.write(path, path.relative_to(folder))
    assert texts(place) == {"0.png": "a cat", "1.jpg": "a dog", "2.png": None}


def test_a_tar_is_a_webdataset_of_texts_or_captions_in_json(tmp_path: Path) -> None:
    for kind, content in (("txt", b"a cat"), ("json", json.dumps({"captions": ["a cat", "an animal"], "id": 3}).encode())):
        place = tmp_path / f"{kind}.tar"
        with tarfile.open(place, "w") as archive:
            for name, value in (("0.jpg", encoded(0, "jpeg")), (f"0.{kind}", content), ("1.jpg", encoded(1, "jpeg"))):
                info = tarfile.TarInfo(name)
                info.size = len(value)
                archive.addfile(info, io.BytesIO(value))
        want = "a cat" if kind == "txt" else ["a cat", "an animal"]
        assert list(texts(place).values()) == [want, None]


def test_captions_of_one_image_in_several_rows_are_kept_together(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png", "1.png"])
    rows = [("train", "0.png", "a cat"), ("test", "1.png", "a dog"), ("train", "0.png", "an animal")]
    write_table(root / "captions.csv", [{"split": s, "image": i, "caption": c} for s, i, c in rows])
    assert texts(root) == {"0.png": ["a cat", "an animal"], "1.png": ["a dog"]}
    source = open_source(root, PAIRS, split="split")
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 1, "test": 1}
    assert "3 rows of 2 files" in source.what
    assert texts(root / "captions.csv") == texts(root)


def test_rows_without_an_image_are_not_one_record(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["0.png"])
    rows = [{"image": image, "text": text} for image, text in (("0.png", "a"), ("0.png", "b"), ("", "c"), ("", "d"))]
    source = open_source(write_table(tmp_path / "t.csv", rows), PAIRS)
    assert [list(record["text"]) for record in source.parts["all"]] == [["a", "b"], ["c"], ["d"]]


def test_lists_of_captions_in_a_table_stay_lists(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(2)]
    parquet.write_table(pa.table({"image": images, "captions": [["a cat", "an animal"], None]}), tmp_path / "t.parquet")
    assert texts(tmp_path / "t.parquet") == {"0.png": ["a cat", "an animal"], "1.png": None}


def test_sequences_from_python() -> None:
    images = [picture(i) for i in range(3)]
    captions = ["a cat", ["a dog", "an animal"], None]
    want = {f"item {i}": caption for i, caption in enumerate(captions)}
    assert texts((images, captions)) == texts({"image": images, "text": captions}) == want
    assert texts((np.stack([np.asarray(image) for image in images]), captions)) == want
    source = open_source({"image": images, "text": captions, "label": [0, 1, 1]}, PAIRS)
    assert [record["label"] for record in source.parts["all"]] == [0, 1, 1]
    with pytest.raises(UserError, match="got 3 of image, 2 of text"):
        open_source((images, captions[:2]), PAIRS)


def test_a_record_may_lack_an_optional_field_but_not_all() -> None:
    image = np.asarray(picture(0))
    records = [{"image": i, "text": t, "name": "x"} for i, t in ((image, "a"), (None, "a"), (image, None), (None, None))]
    found = [arrays for _, arrays in decode(records, Preprocessor(PAIRS, {}))]
    assert [arrays if isinstance(arrays, str) else bool(arrays["text"]) for arrays in found] == [
        True,
        True,
        False,
        "has no image and no text",
    ]
    needed = replace(PAIRS, optional=frozenset(["text"]))
    found = [arrays for _, arrays in decode(records, Preprocessor(needed, {}))]
    assert [arrays for arrays in found if isinstance(arrays, str)] == ["has no image", "has no image"]
