"""Every kind of source gives the same records."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch
from pyarrow import parquet
from tiny import encoded, picture, write_pictures

from untaught.core import Modality, Preprocessor, Record, UserError
from untaught.data.decoding import decode
from untaught.data.sources import open_source, peek
from untaught.data.table_files import read_files

CLASSES = ["cat", "dog", "cat", "dog", "cat", "dog"]
PIXELS = np.stack([np.asarray(picture(i)) for i in range(6)])


def records(source, part: str = "all") -> list[Record]:
    return list(source.parts[part])


def save_parquet(path: Path, rows: int = 6, **extra: list) -> Path:
    images = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(rows)]
    parquet.write_table(pyarrow.table({"image": images, "label": [i % 2 for i in range(rows)], **extra}), path)
    return path


# ------------------------------------------------------------------------------------------------------------- folders


def test_class_folders(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(
        tmp_path / "photos", ["cat/0.png", "cat/1.jpg", "dog/deep/2.png", "dog/deep/3.PNG", ".hidden/4.png", "cat/.5.png"]
    )
    (root / "notes.txt").write_text("no image")
    source = open_source(root, pictures)
    assert source.classes == ("cat", "dog/deep")
    assert [(r["name"], r["label"]) for r in records(source)] == [
        ("cat/0.png", 0),
        ("cat/1.jpg", 0),
        ("dog/deep/2.png", 1),
        ("dog/deep/3.PNG", 1),
    ]
    assert [name for name, _ in source.skipped] == ["notes.txt"]
    assert "4 images in 2 class folders under" in source.what


def test_parts_by_folder(tmp_path: Path, pictures: Modality) -> None:
    names = [f"{part}/{name}/{i}.png" for part in ("training", "dev", "Testing") for name in ("cat", "dog") for i in range(2)]
    source = open_source(write_pictures(tmp_path / "photos", [*names, "unlabelled/9.png"]), pictures)
    assert list(source.parts) == ["train", "val", "test"]
    assert [part.rows for part in source.parts.values()] == [5, 4, 4]
    assert source.classes == ("cat", "dog")
    assert {r["name"]: r["label"] for r in records(source, "train")}["unlabelled/9.png"] is None


def test_a_class_called_test_is_a_class(tmp_path: Path, pictures: Modality) -> None:
    source = open_source(write_pictures(tmp_path / "photos", ["test/0.png", "test/1.png", "control/0.png", "control/1.png"]), pictures)
    assert source.classes == ("control", "test")
    assert list(source.parts) == ["all"]


def test_flat_folder_and_a_folder_that_holds_all(tmp_path: Path, pictures: Modality) -> None:
    assert open_source(write_pictures(tmp_path / "flat", ["0.png", "1.png"]), pictures).classes is None
    source = open_source(write_pictures(tmp_path / "outer", [f"inner/{name}/{i}.png" for name in "ab" for i in range(2)]), pictures)
    assert source.classes == ("a", "b")


def test_a_folder_a_file_is_no_class(tmp_path: Path, pictures: Modality) -> None:
    source = open_source(write_pictures(tmp_path / "each", [f"{i}/photo.png" for i in range(6)]), pictures)
    assert source.classes is None
    assert [r["label"] for r in records(source)] == [None] * 6
    assert "without labels" in source.what
    two = open_source(write_pictures(tmp_path / "two", [f"{i // 2}/{i}.png" for i in range(6)]), pictures)
    assert two.classes == ("0", "1", "2")


def test_fingerprint_follows_the_files(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png", "1.png"])
    before = open_source(root, pictures).fingerprint
    assert open_source(root, pictures).fingerprint == before
    (root / "1.png").write_bytes(encoded(200))
    assert open_source(root, pictures).fingerprint != before


def test_links_to_folders_are_followed_once(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png"])
    (root / "again").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert [r["name"] for r in records(open_source(root, pictures))] == ["0.png", "gone.png"]


# -------------------------------------------------------------------------------------------------------------- tables


def test_parquet_file(tmp_path: Path, pictures: Modality) -> None:
    source = open_source(save_parquet(tmp_path / "photos.parquet"), pictures)
    assert source.classes == ("0", "1")
    assert [r["label"] for r in records(source)] == [0, 1] * 3
    assert records(source)[3] == {"image": encoded(3), "label": 1, "name": "3.png"}


def test_parquet_with_the_names_of_hugging_face(tmp_path: Path, pictures: Modality) -> None:
    features = datasets.Features({"photo": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict({"photo": [picture(i) for i in range(6)], "label": [0, 1] * 3}, features)
    data.to_parquet(tmp_path / "photos.parquet")
    source = open_source(tmp_path / "photos.parquet", pictures)
    assert source.classes == ("cat", "dog")
    assert "image from column photo" in source.what  # the only column that holds files


def test_folder_of_parquet_parts(tmp_path: Path, pictures: Modality) -> None:
    (tmp_path / "set/data").mkdir(parents=True)
    for name, rows in (("train-00000-of-00002", 6), ("train-00001-of-00002", 4), ("validation-00000-of-00001", 2)):
        save_parquet(tmp_path / f"set/data/{name}.parquet", rows)
    (tmp_path / "set/README.md").write_text("about")
    source = open_source(tmp_path / "set", pictures)
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 10, "val": 2}
    assert len(records(source, "train")) == 10
    assert [name for name, _ in source.skipped] == ["README.md"]


@pytest.mark.parametrize("folder", ["set", "test_set"])  # the folder of all tables names no part
def test_a_table_of_no_part_beside_parts_is_trained_on_with_the_training_part(folder: str, tmp_path: Path, pictures: Modality) -> None:
    (tmp_path / folder).mkdir()
    for name, rows in (("extra", 2), ("train", 4), ("val", 3)):
        save_parquet(tmp_path / f"{folder}/{name}.parquet", rows)
    source = open_source(tmp_path / folder, pictures)
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 6, "val": 3}
    assert [len(records(source, name)) for name in source.parts] == [6, 3]


def test_a_part_without_labels(tmp_path: Path, tokens: Modality) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.csv").write_text("text,label\n1,b\n2,a\n")
    (tmp_path / "set/test.csv").write_text("text\n3\n")
    source = open_source(tmp_path / "set", tokens)
    assert [r["label"] for part in ("train", "test") for r in source.parts[part]] == [1, 0, None]
    (tmp_path / "set/test.csv").write_text("words\n3\n")
    with pytest.raises(UserError, match=r"test.csv has no column text, unlike train.csv"):
        open_source(tmp_path / "set", tokens)


def test_split_column(tmp_path: Path, pictures: Modality) -> None:
    path = save_parquet(tmp_path / "photos.parquet", fold=["train", "train", "test", "train", "dev", "test"])
    source = open_source(path, pictures, split="fold")
    assert {name: [r["name"] for r in part] for name, part in source.parts.items()} == {
        "train": ["0.png", "1.png", "3.png"],
        "val": ["4.png"],
        "test": ["2.png", "5.png"],
    }
    assert [part.rows for part in source.parts.values()] == [3, 1, 2]
    with pytest.raises(UserError, match="train, val and test"):
        open_source(path, pictures, split="label")


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "list.tsv", "list.jsonl", "list.json", "list.jsonl.gz"])
def test_listing_of_paths(tmp_path: Path, pictures: Modality, name: str) -> None:
    write_pictures(tmp_path, [f"photos/{i}.png" for i in range(6)])
    rows = [{"file": f"photos/{i}.png", "class": CLASSES[i]} for i in range(6)] + [{"file": "photos/gone.png", "class": "dog"}]
    write = gzip.open if name.endswith(".gz") else open
    with write(tmp_path / name, "wt", newline="") as file:
        if "json" in name:
            lines = [json.dumps(row) for row in rows]
            file.write("\n".join(lines) if "jsonl" in name else f"[{', '.join(lines)}]")
        else:
            table = csv.DictWriter(file, ["file", "class"], delimiter="\t" if "tsv" in name else ",")
            table.writeheader()
            table.writerows(rows)
    source = open_source(tmp_path / name, pictures)
    assert source.classes == ("cat", "dog")
    assert [r["image"] for r in records(source)] == [tmp_path / row["file"] for row in rows]
    assert "image from column file (paths), label from column class" in source.what
    before = source.fingerprint
    write_pictures(tmp_path, ["photos/gone.png"])
    assert open_source(tmp_path / name, pictures).fingerprint != before  # a file that came back


def test_columns_are_chosen_or_named(tmp_path: Path, pictures: Modality, tokens: Modality) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("words,label,score\n1 2,a,0.5\n3,b,0.25\n4 5 6,a,1\n")
    with pytest.raises(UserError, match=r"words, label, score.*--columns text=NAME"):
        open_source(path, tokens)
    source = open_source(path, tokens, columns={"text": "words"})
    assert [r["text"] for r in records(source)] == ["1 2", "3", "4 5 6"]
    assert source.classes == ("a", "b")
    measured = open_source(path, tokens, columns={"text": "words"}, label="score")
    assert measured.classes is None
    assert [r["label"] for r in records(measured)] == [0.5, 0.25, 1.0]
    assert len({source.fingerprint, measured.fingerprint}) == 2
    for column, label, split in (("word", None, None), ("words", "lable", None), ("words", None, "part")):
        with pytest.raises(UserError, match="its columns are words, label, score"):
            open_source(path, tokens, columns={"text": column}, label=label, split=split)
    with pytest.raises(UserError, match="allowed: text"):
        open_source(path, tokens, columns={"body": "words"})


# ------------------------------------------------------------------------------------------------------------- objects


def test_datasets_objects_and_saved_ones(tmp_path: Path, pictures: Modality) -> None:
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict({"img": [picture(i) for i in range(6)], "fine_label": [0, 1] * 3}, features)
    both = datasets.DatasetDict({"train": data, "validation": data.select(range(2))})
    both.save_to_disk(str(tmp_path / "saved"))
    for given in (both, tmp_path / "saved"):
        source = open_source(given, pictures)
        assert source.classes == ("cat", "dog")
        assert {name: part.rows for name, part in source.parts.items()} == {"train": 6, "val": 2}
        assert isinstance(records(source, "train")[0]["image"], bytes)
    stream = open_source(data.to_iterable_dataset(), pictures)
    assert stream.rows is None
    assert [r["label"] for r in stream.parts["all"]] == [0, 1] * 3
    assert open_source(data, pictures).fingerprint == open_source(data, pictures).fingerprint


def test_frames(tokens: Modality) -> None:
    columns = {"body": ["1", "2 3", "4"], "label": ["a", "b", "a"]}
    for frame in (pandas.DataFrame(columns), pandas.DataFrame(columns, index=[7, 7, 9]), pyarrow.table(columns)):
        source = open_source(frame, tokens)
        assert [r["text"] for r in records(source)] == columns["body"]
        assert source.classes == ("a", "b")


def test_missing_labels_of_arrays_are_no_class_and_no_measure(pictures: Modality) -> None:
    for labels in (
        np.array([3, 7, np.nan, 7, 3, 7]),
        np.array(["3", "7", " ", "7", "3", "7"]),
        np.array([b"3", b"7", b"", b"7", b"3", b"7"]),
    ):
        source = open_source((PIXELS, labels), pictures)
        assert source.classes == ("3", "7")
        assert [r["label"] for r in records(source)] == [0, 1, -1, 1, 0, 1]
    measured = open_source((PIXELS, np.array([0.5, np.nan, 1, 1, 2, 3])), pictures)
    assert measured.classes is None
    assert np.isnan(records(measured)[1]["label"])
    assert "without labels" in open_source((PIXELS, np.full(6, np.nan)), pictures).what


def test_arrays(pictures: Modality) -> None:
    labels = np.array([3, 7, 3, 7, 3, 7])
    for given in ((PIXELS, labels), (torch.from_numpy(PIXELS), torch.from_numpy(labels)), [PIXELS, labels.astype(float)]):
        source = open_source(given, pictures)
        assert source.classes == ("3", "7")
        assert [r["label"] for r in records(source)] == [0, 1] * 3
    assert open_source(PIXELS, pictures).classes is None
    assert open_source(PIXELS, pictures).fingerprint != open_source(PIXELS[::-1], pictures).fingerprint
    measured = open_source((PIXELS, np.linspace(0, 1, 6)), pictures)
    assert measured.classes is None
    assert records(measured)[5]["label"] == 1.0


def test_array_files(tmp_path: Path, pictures: Modality) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    assert open_source(tmp_path / "x.npy", pictures).rows == 6
    np.savez(tmp_path / "x.npz", train_images=PIXELS, train_labels=[0, 1] * 3, images_val=PIXELS[:2], y_val=[0, 1], classes=["cat", "dog"])
    source = open_source(tmp_path / "x.npz", pictures)
    assert source.classes == ("cat", "dog")
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 6, "val": 2}
    np.savez(tmp_path / "odd.npz", frames=PIXELS)
    with pytest.raises(UserError, match=r"frames.*--columns image=KEY"):
        open_source(tmp_path / "odd.npz", pictures)
    assert open_source(tmp_path / "odd.npz", pictures, columns={"image": "frames"}).rows == 6


def test_builtins(pictures: Modality) -> None:
    digits = open_source("builtin:digits", pictures)
    assert digits.rows == 1797
    assert digits.classes == tuple("0123456789")
    assert max(r["image"].max() for r in peek(digits)) == 255
    assert records(open_source("builtin:photos", pictures))[0]["image"].shape == (64, 64, 3)
    with pytest.raises(UserError, match="builtin:digits, builtin:photos"):
        open_source("builtin:nothing", pictures)


def test_peek_is_spread(pictures: Modality) -> None:
    found = [r["name"] for r in peek(open_source(np.zeros((1000, 2, 2), np.uint8), pictures), 5)]
    assert found == [f"the array row {i}" for i in (0, 249, 499, 749, 999)]


# ----------------------------------------------------------------------------------------------------------- bad input


def test_what_cannot_be_opened(tmp_path: Path, pictures: Modality) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("a")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1....")
    (tmp_path / "zero.csv").write_bytes(b"")
    (tmp_path / "header.csv").write_text("image,label\n")
    (tmp_path / "bad.json").write_text("{not json")
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object))
    (tmp_path / "movie.mp4").write_bytes(b"1")
    for given, said in [
        (tmp_path / "gone", "not found"),
        ("gone", "write hf:gone"),
        (tmp_path / "empty", "it is empty"),
        (tmp_path / "texts", r"a\.txt; allowed: files ending in \.jpg \.png"),
        (tmp_path / "cut.parquet", "cannot be read as parquet"),
        (tmp_path / "zero.csv", "is empty"),
        (tmp_path / "header.csv", "no rows"),
        (tmp_path / "bad.json", "cannot be read as json"),
        (tmp_path / "bad.npz", "cannot be read as numpy"),
        (tmp_path / "objects.npy", "cannot be read as numpy"),
        (tmp_path / "movie.mp4", "has an unknown file type"),
        (7, "got data of type int"),
        (np.zeros((0, 4)), "no rows"),
        (np.array(3), "rows of plain numbers"),
        ((PIXELS, np.zeros(5)), "6 rows in one array but 5 in another"),
        ((PIXELS, PIXELS, PIXELS), "got 3 arrays"),
    ]:
        with pytest.raises(UserError, match=said) as raised:
            open_source(given, pictures)
        assert "\n" not in str(raised.value)


def test_an_option_that_says_nothing_here_is_not_ignored(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png", "1.png"])
    for given in (root, PIXELS, "builtin:digits"):
        with pytest.raises(UserError, match=r"--label needs a table .* has no columns"):
            open_source(given, pictures, label="kind")
        with pytest.raises(UserError, match="--split needs a table"):
            open_source(given, pictures, split="fold")


def test_parquet_damaged_in_the_middle(tmp_path: Path, pictures: Modality) -> None:
    path = save_parquet(tmp_path / "photos.parquet", 2000)
    content = bytearray(path.read_bytes())
    content[100:-4000] = bytes(len(content) - 4100)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        list(open_source(path, pictures).parts["all"])


def test_the_network_is_asked_only_by_name_and_its_absence_is_one_line(pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"hf:owner/name cannot be opened \(Couldn't reach 'owner/name' on the Hub\); check"):
        open_source("hf:owner/name", pictures)


def test_csv_and_json_are_read_as_named_and_tell_nobody(tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets.load_dataset` takes [1] for a pattern, reports each use over the network, and its bars race in threads."""
    asked: list[str] = []
    folder = tmp_path / "lists"
    folder.mkdir()
    monkeypatch.setattr(datasets.load, "increase_load_count", asked.append)
    for number in range(8):
        (folder / f"part [{number}] *.csv").write_text(f"path,label\n00{number}.png,cat\n")
        (folder / f"more [{number}] ?.jsonl").write_text(f'{{"path": "01{number}.png", "label": "dog"}}\n')
    for ending, expected in (("csv", [f"00{i}.png" for i in range(8)]), ("jsonl", [f"01{i}.png" for i in range(8)])):
        source = open_source(sorted(folder.glob(f"*.{ending}")), pictures)
        assert [record["name"] for record in source.parts["all"]] == expected
    assert asked == []


@pytest.mark.parametrize(
    ("first", "columns"),
    [
        ("a stirring , funny film\t1", ("column1", "column2")),
        ("1\tthe plot is a mess\t0", ("column1", "column2", "column3")),
        ("label\t0\t1", ("label", "0", "1")),
        ("text of the review as written\tlabel", ("text of the review as written", "label")),
    ],
)
def test_a_table_without_a_header_loses_no_row(first: str, columns: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "some.tsv").write_text(f"{first}\n{first}\n")
    (table,) = read_files([tmp_path / "some.tsv"], frozenset())[0]["all"]
    assert table.columns == columns
    rows = [tuple(map(str, row.values())) for row in table.read(table.columns)]
    assert rows == [tuple(first.split("\t"))] * (2 if columns[0] == "column1" else 1)


def test_a_listing_in_parquet_damaged_in_the_middle(tmp_path: Path, pictures: Modality) -> None:
    path = tmp_path / "list.parquet"
    pandas.DataFrame({"path": [f"{i}.png" for i in range(1000)]}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        open_source(path, pictures)


def test_a_path_with_a_null_byte_is_a_file_that_is_not_there(tmp_path: Path, pictures: Modality) -> None:
    write_pictures(tmp_path, ["000.png", "001.png"])
    (tmp_path / "list.csv").write_bytes(b"path\n000.png\n00\x001.png\n")
    layout = {"side": 8}
    found = list(decode(open_source(tmp_path / "list.csv", pictures).parts["all"], Preprocessor(pictures, layout)))
    assert [isinstance(arrays, str) for _, arrays in found] == [False, True]
