"""What a folder's names mean, and what in it is passed over and named."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny import encoded, write_pictures

from untaught.core import Modality, Preprocessor, UserError
from untaught.data import folders
from untaught.data.sources import open_source
from untaught.data.store import pack


def rows(root: Path, pictures: Modality) -> dict[str, int | None]:
    return {name: part.rows for name, part in open_source(root, pictures).parts.items()}


def test_a_folder_a_file_is_no_class(tmp_path: Path, pictures: Modality) -> None:
    source = open_source(write_pictures(tmp_path / "scans", [f"patient{i}/scan.png" for i in range(6)]), pictures)
    assert source.classes is None
    assert {record["label"] for record in source.parts["all"]} == {None}
    assert open_source(write_pictures(tmp_path / "two", [f"patient{i}/scan{j}.png" for i in range(6) for j in "ab"]), pictures).classes


def test_what_systems_leave_is_no_data(tmp_path: Path, pictures: Modality) -> None:
    left = ["@eaDir/0.png/thumb.png", "__MACOSX/._0.png", ".ipynb_checkpoints/0.png", "lost+found/0.png", "$RECYCLE.BIN/0.png"]
    root = write_pictures(tmp_path / "photos", ["0.png", "1.png", "System Volume Information/0.png", *left])
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (root / name).write_bytes(b"0")
    source = open_source(root, pictures)
    assert (source.rows, source.classes, source.skipped) == (2, None, [])


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_links_in_a_circle_are_left_out_and_named(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["zebra/0.png", "zebra/1.png", "yak/2.png", "yak/3.png"])
    for name, place in {"self": "self", "self.png": "self.png", "a": "b", "b": "a", "whole": ".", "alias": "zebra"}.items():
        (root / name).symlink_to(place)
    (root / "zebra/up").symlink_to("..")
    source = open_source(root, pictures)
    assert [record["name"] for record in source.parts["all"]] == ["yak/2.png", "yak/3.png", "zebra/0.png", "zebra/1.png"]
    said = dict(source.skipped)
    assert all("link to itself" in said[name] for name in ("self", "self.png", "a", "b"))
    assert all("already read" in said[name] for name in ("whole", "alias", "zebra/up"))


def test_a_folder_that_cannot_be_listed_is_left_out_and_named(tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png", "locked/1.png"])
    listed = os.scandir

    def scandir(folder: Path):
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(folders.os, "scandir", scandir)
    source = open_source(root, pictures)
    assert (source.rows, source.skipped) == (1, [("locked", "cannot be listed (Permission denied)")])
    with pytest.raises(UserError, match=r"locked cannot be listed \(Permission denied\); give read permission"):
        open_source(root / "locked", pictures)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are Unicode")
def test_names_that_are_no_utf_8(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png"])
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(1))
    store = pack(open_source(root, pictures), Preprocessor(pictures, {"side": 4}))
    assert [os.fsencode(name) for name in store.names(np.arange(2))] == [b"0.png", b"caf\xe9.png"]


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["train2017/0.png", "train2017/1.png", "val2017/2.png"], {"train": 2, "val": 1}),
        (["train2014/0.png", "train2017/1.png", "test_2015/2.png"], {"train": 2, "test": 1}),
        (["TRAIN/a/0.png", "TRAIN/b/1.png", "Test/a/2.png"], {"train": 2, "test": 1}),
        (["training/a/0.png", "valid/a/1.png", "testing/a/2.png"], {"train": 1, "val": 1, "test": 1}),
        (["train/a/0.png", "train/b/1.png", "stray.png"], {"train": 3}),
        (["train/a/0.png", "train/b/1.png", "extra/2.png"], {"train": 3}),
        (["train/0.png", "train/1.png", "test/2.png", "extra/3.png"], {"train": 3, "test": 1}),
        (["train/0.png", "train/1.png", "bus/2.png", "bus/3.png"], {"all": 4}),
        (["train1/0.png", "train1/1.png", "train2/2.png", "train2/3.png"], {"all": 4}),
        (["test/0.png", "test/1.png", "dog/2.png", "dog/3.png"], {"all": 4}),
    ],
)
def test_parts_by_the_names_of_folders(names: list[str], want: dict[str, int], tmp_path: Path, pictures: Modality) -> None:
    assert rows(write_pictures(tmp_path / "photos", names), pictures) == want


def test_trains_among_buses_are_a_class(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", [f"{name}/{i}.png" for name in ("bus", "train", "tram") for i in range(2)])
    assert open_source(root, pictures).classes == ("bus", "train", "tram")


def test_folders_beside_parts_are_said(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", [f"{name}/{i}.png" for name in ("train/a", "train/b", "test/a", "extra") for i in range(2)])
    assert "(train 6, test 2); unlabelled training rows: extra" in open_source(root, pictures).what


# --------------------------------------------------------------------------------------------------------------- archives


def test_a_zip_with_backslashes_is_the_folder(tmp_path: Path, pictures: Modality) -> None:
    names = [f"{part}/{name}/{i}.png" for part in ("train", "test") for name in ("ant", "bee") for i in range(2)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("set\\train\\", b"")
        archive.writestr("set\\__MACOSX\\0.png", encoded(9))
        for i, name in enumerate(names):
            archive.writestr("set\\" + name.replace("/", "\\"), encoded(i))
    source = open_source(tmp_path / "a.zip", pictures)
    assert source.classes == ("ant", "bee")
    found = {record["name"]: record["image"] for part in source.parts.values() for record in part}
    assert found == {f"set/{name}": encoded(i) for i, name in enumerate(names)}
    assert source.skipped == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_differ_in_case_alone_or_not_at_all_are_members_of_their_own(tmp_path: Path, pictures: Modality) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i, name in enumerate(("a.png", "A.png", "a.PNG", "a.png")):
            archive.writestr(name, encoded(i))
    source = open_source(tmp_path / "a.zip", pictures)
    assert [(r["name"], r["image"]) for r in source.parts["all"]] == [
        ("a.png", encoded(0)),
        ("A.png", encoded(1)),
        ("a.PNG", encoded(2)),
        ("a.png", encoded(3)),
    ]


# --------------------------------------------------------------------------------------------------- metadata.csv beside


def test_a_table_beside_pictures_tells_their_labels(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png", "sub/1.png", "2.png", "3.png"])
    (root / "metadata.csv").write_text("file_name,label\n2.png,dog\n0.png,cat\nsub/1.png,dog\n")
    source = open_source(root, pictures)
    assert source.classes == ("cat", "dog")
    assert [(r["name"], r["label"]) for r in source.parts["all"]] == [("2.png", 1), ("0.png", 0), ("sub/1.png", 1)]
    assert ("3.png", "is not listed in metadata.csv") in source.skipped
    assert "by metadata.csv: image from column file_name (paths), label from column label" in source.what


def test_tables_of_parts_beside_pictures(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["train/0.png", "train/1.png", "test/2.png"])
    (root / "train/metadata.jsonl").write_text('{"file_name": "0.png", "label": "a"}\n{"file_name": "1.png", "label": "b"}\n')
    (root / "test/metadata.jsonl").write_text('{"file_name": "2.png", "label": "b"}\n')
    source = open_source(root, pictures)
    assert [[r["label"] for r in part] for part in source.parts.values()] == [[0, 1], [1]]


def test_a_table_without_labels_is_passed_over_and_named_unless_it_is_asked(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(2)])
    (root / "metadata.csv").write_text(
        "file_name,weight\n" + "".join(f"{name}/{i}.png,{i}.5\n" for name in ("ant", "bee") for i in range(2))
    )
    source = open_source(root, pictures)
    assert source.classes == ("ant", "bee")
    assert [name for name, _ in source.skipped] == ["metadata.csv"]
    assert "label from column weight" in open_source(root, pictures, label="weight").what
