"""Lists, patterns and single files: a record an item, in the order that was given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import encoded, make_modality, picture, write_pictures

from untaught.core import Modality, Preprocessor, UserError
from untaught.data.decoding import decode
from untaught.data.sources import open_source
from untaught.data.store import pack

TEXTS = make_modality(
    name="text", noun="documents", fields={"text": ("text",)}, suffixes=frozenset({".txt"}), lines=True, decode=lambda r, prep: {}
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images in two class folders, notes beside them, and the process there."""
    write_pictures(tmp_path / "photos", [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(3)])
    (tmp_path / "photos/notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def values(data: object, modality: Modality) -> list[tuple[str, int]]:
    """(name, the number of the image) of each record."""
    found = decode(open_source(data, modality).parts["all"], Preprocessor(modality, {"side": 4}))
    return [(record["name"], int(arrays["pixels"][0, 0, 0])) for record, arrays in found if not isinstance(arrays, str)]


@pytest.mark.parametrize("kind", [str, Path, os.path.abspath])
def test_a_list_of_files_keeps_its_order_and_its_names(kind: type, root: Path, pictures: Modality) -> None:
    names = [kind(f"photos/{name}") for name in ("bee/1.png", "ant/0.png", "bee/0.png", "ant/0.png", "ant/2.png")]
    source = open_source(names, pictures)
    assert source.classes == ("ant", "bee")
    assert [record["label"] for record in source.parts["all"]] == [1, 0, 1, 0, 0]
    assert values(names, pictures) == [(str(name), number) for name, number in zip(names, (4, 0, 3, 0, 2), strict=True)]
    assert len(pack(source, Preprocessor(pictures, {"side": 4}))) == 5


def test_a_list_has_one_order_whatever_its_folders_are_called(root: Path, pictures: Modality) -> None:
    write_pictures(root, ["train/ant/0.png", "test/ant/1.png"])
    names = ["photos/test/ant/1.png", "photos/train/ant/0.png"]
    assert [record["name"] for record in open_source(names, pictures).parts["all"]] == names


def test_another_order_is_other_data(root: Path, pictures: Modality) -> None:
    names = ["photos/ant/0.png", "photos/ant/1.png"]
    assert open_source(names, pictures).fingerprint != open_source(names[::-1], pictures).fingerprint


def test_one_file_a_pattern_and_folders(root: Path, pictures: Modality) -> None:
    assert values("photos/bee/1.png", pictures) == [("photos/bee/1.png", 4)]
    assert values(Path("photos/bee/1.png"), pictures) == [("photos/bee/1.png", 4)]
    assert values("photos/b*/[01].png", pictures) == [("photos/bee/0.png", 3), ("photos/bee/1.png", 4)]
    for data in ("photos/*/*.png", "photos/*", "photos/**/*.png", ["photos/ant", "photos/bee"]):
        source = open_source(data, pictures)
        assert (source.rows, source.classes) == (6, ("ant", "bee"))
    assert [name for name, _ in open_source("photos/*", pictures).skipped] == ["photos/notes.txt"]


def test_a_pattern_of_parts_has_parts(root: Path, pictures: Modality) -> None:
    write_pictures(root, [f"set/{part}/{name}/{i}.png" for part in ("train", "test") for name in ("cat", "dog") for i in range(2)])
    source = open_source("photos/set/*/*/*.png", pictures)
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 4, "test": 4}
    assert source.classes == ("cat", "dog")


def test_what_names_nothing_is_one_line(root: Path, pictures: Modality) -> None:
    for data, said in [
        ("photos/*.tif", r"photos/\*\.tif matches no file"),
        (["photos/ant/0.png", "photos/ant/9.png"], r"photos/ant/9\.png: file not found"),
        ("photos/*.txt", r"notes\.txt, which is not a file of images; allowed: \.jpg, \.png"),
        (["photos/notes.txt"], r"notes\.txt, which is not a file of images"),
    ]:
        with pytest.raises(UserError, match=said):
            open_source(data, pictures)


def test_items_of_any_kind(pictures: Modality) -> None:
    arrays = [np.asarray(picture(i, side)) for i, side in ((3, 8), (4, 12), (5, 7))]
    for items in ([picture(3), picture(4, 12), picture(5)], arrays, [encoded(3), encoded(4), encoded(5)]):
        assert values(items, pictures) == [("item 0", 3), ("item 1", 4), ("item 2", 5)]
    assert values(picture(3), pictures) == values(encoded(3), pictures) == [("item 0", 3)]
    assert values(arrays[:2], pictures) == [("item 0", 3), ("item 1", 4)]


def test_two_arrays_in_a_list_are_a_pair_where_the_second_are_labels(pictures: Modality) -> None:
    rows = np.stack([np.asarray(picture(i)) for i in range(4)])
    for pair in ([rows, np.array([0, 1, 0, 1])], [torch.from_numpy(rows), torch.tensor([[0], [1], [0], [1]])]):
        assert open_source(pair, pictures).classes == ("0", "1")


@pytest.mark.parametrize(
    "make", [lambda i: picture(i), lambda i: np.full((8, 8, 3), i, np.uint8), lambda i: torch.full((3, 8, 8), i / 9), lambda i: encoded(i)]
)
def test_the_fingerprint_is_of_the_contents(make, pictures: Modality) -> None:
    first = open_source([make(1), make(2)], pictures).fingerprint
    assert open_source([make(1), make(2)], pictures).fingerprint == first
    assert len({first, open_source([make(2), make(1)], pictures).fingerprint, open_source([make(1)], pictures).fingerprint}) == 3


def test_a_list_of_texts(root: Path) -> None:
    documents = ["a first document", "half \ud83d of one", "photos, or notes.txt", "one"]
    source = open_source(documents, TEXTS)
    assert [(record["name"], record["text"]) for record in source.parts["all"]] == [(f"item {i}", text) for i, text in enumerate(documents)]
    assert source.fingerprint != open_source(documents[::-1], TEXTS).fingerprint


def test_files_and_texts_are_not_mixed_up(root: Path) -> None:
    (root / "more.txt").write_text("one\ntwo")
    assert open_source(["photos/notes.txt", "photos/more.txt"], TEXTS).rows == open_source("photos/*.txt", TEXTS).rows == 3
    with pytest.raises(UserError, match=r"mixes files and other text \('a first document' is not a file\)"):
        open_source(["photos/notes.txt", "a first document"], TEXTS)
    with pytest.raises(UserError, match=r"gone\.txt: file not found"):
        open_source(["photos/gone.txt"], TEXTS)
